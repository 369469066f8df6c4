"""Retrieval: the query expression (ANN ∨ text) ∧ filters, the index protocol, and its engines."""
