"""Sequences fed chunk by chunk."""
