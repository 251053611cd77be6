"""Samples of texts as files have them."""
