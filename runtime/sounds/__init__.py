"""Recordings as a model wants them."""
