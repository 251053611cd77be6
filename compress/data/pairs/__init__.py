"""Pairs of a source and a target text: where they are, and how an encoder-decoder wants them."""
