"""Images as a model wants them."""
