"""Retrieval: the query expression (ANN ∨ text) ∧ filters, the engine protocol, hybrid merging, and the engines."""
