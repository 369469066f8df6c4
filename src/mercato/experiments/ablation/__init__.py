"""Ablation studies: a paper's table, measured again row by row on one's own market."""
