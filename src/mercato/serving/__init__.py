"""Serving over HTTP: routes, bodies, middleware, and the search page."""
