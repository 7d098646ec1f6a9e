"""tomoni (共に, "together"): finish a pretrained language model on your own data and your own machine."""

__version__ = "0.1.0"
