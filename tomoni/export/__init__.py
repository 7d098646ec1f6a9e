"""A trained model in other programs' forms, and the proof that it is still the same model."""
