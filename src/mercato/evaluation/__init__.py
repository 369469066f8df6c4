"""How good is a search: one metric a file, their intervals, the baselines, and the report."""
