"""What a bootstrap draws: whole intents, so that the spellings of one wish are one piece of evidence."""

from __future__ import annotations

from typing import Literal

import numpy as np
import polars as pl

from mercato.data.normalize import normalize
from mercato.evaluation.metrics.arrays import IntArray

Unit = Literal["intent", "query"]


def bootstrap_units(queries: pl.DataFrame, intents: pl.DataFrame | None) -> IntArray:
    """The unit of each query, a number: int (Q,).

    Queries of one intent are one unit; a query of none is one with those of the same normal form, whatever the country.

    Args:
        queries: `query` and `country`.
        intents: `query`, `country` (null: in every country) and `intent`; None where the market has no such table.
    """
    rows = [] if intents is None else intents.select("query", "country", "intent").iter_rows()
    intent_of = {(normalize(query), country): intent for query, country, intent in rows}
    numbers: dict[tuple[Unit, str], int] = {}
    units: list[int] = []
    for query, country in queries.select("query", "country").iter_rows():
        text = normalize(query)
        intent = intent_of.get((text, country), intent_of.get((text, None)))
        unit: tuple[Unit, str] = ("query", text) if intent is None else ("intent", intent)
        units.append(numbers.setdefault(unit, len(numbers)))
    return np.array(units, dtype=np.int64)
