"""`mercato bench serve`: see `benchmark`."""
