"""The catalogue of record: products, outbox and events, and the workers that bring them to index and log."""
