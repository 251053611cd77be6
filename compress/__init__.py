"""edgepress, workstation side: read a trained transformer, rewrite it, heal it, prove it, ship it."""
