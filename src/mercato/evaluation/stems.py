"""Stems of words, by language."""

from __future__ import annotations

from functools import cache

import Stemmer


def stem(language: str, word: str) -> str:
    """The word's stem in a language that Snowball knows by its ISO 639-1 code, else the word."""
    stemmer = _stemmer(language)
    return word if stemmer is None else str(stemmer.stemWord(word))


@cache
def _stemmer(language: str) -> Stemmer.Stemmer | None:
    try:
        return Stemmer.Stemmer(language)
    except KeyError:
        return None
