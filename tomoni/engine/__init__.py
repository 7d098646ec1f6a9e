"""The verbs; the only place that knows transformers, PEFT, devices and ranks."""
