"""The embedded engine: Qdrant Edge, in this process."""
