"""Search: from what a user can spend to a recipe, a gated bundle and the front of what else there is."""
