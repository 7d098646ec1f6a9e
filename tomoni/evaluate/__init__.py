"""Measuring models: intervals and tests, held-out data, answers side by side."""
