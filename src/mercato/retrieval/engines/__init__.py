"""Index engines, a folder each; `mercato.retrieval.open` chooses one by URL."""
