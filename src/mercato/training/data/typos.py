"""Typos of training queries: people misspell, and a log holds each misspelling too rarely to learn it."""

from __future__ import annotations

import numpy as np

SHORTEST = 4  # characters; a typo makes another word of a shorter query


def with_typo(query: str, generator: np.random.Generator) -> str:
    """One typo inside the query: neighbours swapped, a letter left out or doubled, or any two letters exchanged.

    The first character stays, as it mostly does; a query of fewer than four characters is returned as it is.
    """
    if len(query) < SHORTEST:
        return query
    place = int(generator.integers(1, len(query) - 1))
    before, letter, after = query[:place], query[place], query[place + 1 :]
    typos = (
        before + after[0] + letter + after[1:],
        before + after,
        before + letter + letter + after,
        _swapped(query, place, int(generator.integers(1, len(query)))),
    )
    return typos[int(generator.integers(len(typos)))]


def _swapped(query: str, one: int, other: int) -> str:
    letters = list(query)
    letters[one], letters[other] = letters[other], letters[one]
    return "".join(letters)
