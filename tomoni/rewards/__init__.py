"""Rewards: what a completion is worth, by functions, by a trained reward model, by an endpoint of the owner's."""
