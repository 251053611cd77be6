"""Models that are judged: any model opened and run on the user's data, and what else of it can be checked."""
