"""Encoders of one field each, fusions, and one file a paper: its two towers."""
