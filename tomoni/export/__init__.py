"""Models in other forms, each with a parity test after the change."""
