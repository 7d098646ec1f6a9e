"""Rounds: what turns feedback into a better model, and the rehearsals that show whether it does."""
