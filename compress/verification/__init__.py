"""Proof of accuracy: predictions, metrics, statistics, gates, drift, reports. Importing it imports no torch."""
