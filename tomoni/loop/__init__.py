"""The circle closes: what people say becomes a new model version, and whether it is better is for people to say."""
