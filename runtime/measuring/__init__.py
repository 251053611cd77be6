"""Latency, threads, power and energy of this machine."""
