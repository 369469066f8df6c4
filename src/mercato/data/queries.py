"""One spelling for one query."""

from __future__ import annotations

import unicodedata


def normalise_query(query: str) -> str:
    """Unicode NFKC, lower case, runs of white space as one space, ends trimmed: what counts as the same query."""
    return " ".join(unicodedata.normalize("NFKC", query).lower().split())
