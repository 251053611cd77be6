"""A bundle: its manifest, seal, golden samples and declared tensors."""
