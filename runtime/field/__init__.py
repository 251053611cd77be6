"""Bundles in the field: which one runs, how it fares beside another, and what it sees."""
