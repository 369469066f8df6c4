"""Query normalization, for aggregating the log and for what the towers read."""

from __future__ import annotations

import unicodedata


def normalize(query: str) -> str:
    """The normal form of a query: NFKC, case-folded and `clean`: "  Sofá  ROJO " → "sofá rojo"."""
    return clean(unicodedata.normalize("NFKC", query).casefold())


def clean(text: str) -> str:
    """Runs of white space as one space; half a surrogate pair, at which tokenizers and hashes break, as "?"."""
    return " ".join(text.encode("utf-8", "replace").decode().split())
