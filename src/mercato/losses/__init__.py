"""Losses, one a file: its equation, its source, its shapes."""
