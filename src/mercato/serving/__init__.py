"""Serving: the catalogue of record, ingestion, the predictor, the HTTP API and the page."""
