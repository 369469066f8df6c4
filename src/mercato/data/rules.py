"""Validity rules of each column, applied when a table is imported and when it is checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mercato.data import ids
from mercato.data.schema import REQUIRED, TABLES, TIMESTAMP

EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
CLOCK_SKEW = timedelta(days=1)

_BY_TIME = ("train", "validation", "future")
SPLITS = {"judgments": ("validation", "test"), "pairs": _BY_TIME, "lists": _BY_TIME}

PLACED_BY = ("pin", "exploration")  # a rule of the market, or a draw among new listings
RECEIVED = ("key", "signed", "unsigned")  # with an API key; without one, under a query id that a server signed, or not

Rule = tuple[str, Callable[[Any], Any]]  # why it is wrong, and where: Arrow values → Arrow booleans


def latest_time() -> datetime:
    """The latest time that an event or a product may bear: now, and what a clock elsewhere may be ahead."""
    return datetime.now(UTC) + CLOCK_SKEW


def violations(table: str, column: str, values: pa.ChunkedArray) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """Yield (why, rows) for every rule that some value of a column breaks.

    Args:
        table, column: names in `TABLES`.
        values: the column in its schema's type; nulls break no rule (`REQUIRED` is not looked at here).

    Yields:
        The reason, and the offending row numbers, int64 (k,), k ≥ 1.
    """
    for why, wrong in _rules(table, column):
        mask = pc.and_(pc.is_valid(values), pc.fill_null(wrong(values), False)).combine_chunks()
        rows = np.flatnonzero(mask.to_numpy(zero_copy_only=False))
        if len(rows):
            yield why, rows


def _rules(table: str, column: str) -> list[Rule]:
    kind = TABLES[table].field(column).type
    rules: list[Rule] = []
    if kind == pa.float64():
        rules.append(("is NaN or infinite", lambda v: pc.invert(pc.is_finite(v))))
    if column.endswith("_id"):
        rules += [(why, partial(pc.match_substring_regex, pattern=wrong)) for why, wrong in ids.WRONG]
        rules.append((ids.TOO_LONG, lambda v: pc.greater(pc.utf8_length(v), ids.LONGEST)))
    if column == "weight":
        rules.append(("is not above zero", lambda v: pc.less_equal(v, 0)))
    if column in ("price", "position", "impressions", "clicks", "depth"):
        rules.append(("is negative", lambda v: pc.less(v, 0)))
    if column in ("latitude", "longitude"):
        bound = 90 if column == "latitude" else 180
        rules.append((f"is outside -{bound} … {bound}", lambda v: pc.greater(pc.abs(v), bound)))
    if kind == TIMESTAMP:
        rules.append(("is before 1970", lambda v: pc.less(v, pa.scalar(EARLIEST, TIMESTAMP))))
        latest = pa.scalar(latest_time(), TIMESTAMP)
        rules.append(("is in the future", lambda v: pc.greater(v, latest)))
    if column == "country":
        rules.append(
            (
                "is not a two-letter lower-case ISO 3166-1 code",
                lambda v: pc.invert(pc.match_substring_regex(v, r"^[a-z]{2}$")),
            )
        )
    if column == "label":
        rules.append(("is neither 0 nor 1", lambda v: pc.invert(pc.is_in(v, pa.array([0, 1])))))
    if column == "split":
        allowed = SPLITS[table]
        rules.append((f"is none of {', '.join(allowed)}", partial(_is_none_of, known=allowed)))
    for name, known in (("placed_by", PLACED_BY), ("received", RECEIVED)):
        if column == name:
            rules.append((f"is none of {', '.join(known)}", partial(_is_none_of, known=known)))
    if column in REQUIRED[table] and kind == pa.string():
        rules.append(("is empty", lambda v: pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(v)), 0)))
    return rules


def _is_none_of(values: Any, known: Sequence[str]) -> Any:
    return pc.invert(pc.is_in(values, pa.array(known)))
