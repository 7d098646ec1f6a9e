"""Rounds: what people say becomes a new model version; whether it is better is for people to say; and the rehearsals of that."""
