"""Other forms of a whole model: run for fewer or more loops, and from a past to a present."""
