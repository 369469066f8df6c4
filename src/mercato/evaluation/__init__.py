"""How good a search is: metrics, baselines, robustness and interpretation, as typed results."""
