"""One normal form of text for queries, trigrams and tokenizers trained here."""

from __future__ import annotations

import unicodedata


def normalize(text: str) -> str:
    """NFKC, case-folded, runs of white space as one space: "  Sofá  ROJO " → "sofá rojo"."""
    return clean(unicodedata.normalize("NFKC", text).casefold())


def clean(text: str) -> str:
    """Runs of white space as one space; half a surrogate pair, at which tokenizers and hashes break, as "?"."""
    return " ".join(text.encode("utf-8", "replace").decode().split())
