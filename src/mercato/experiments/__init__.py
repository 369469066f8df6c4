"""Experiments over many runs: the ablation studies."""
