"""One normal form of text for queries, trigrams and tokenizers trained here."""

from __future__ import annotations

import unicodedata


def normalize(text: str) -> str:
    """NFKC, case-folded, runs of white space as one space: "  Sofá  ROJO " → "sofá rojo"."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
