"""Texts, token IDs and what generates them."""
