"""Exploration of new listings: some places of a search go to listings of which little is known yet.

Which places, and which listings, is drawn by the id of the search: all its pages agree, and a window that is retrieved
again draws the same.

Shapes: H hits, E those of them that are drawn from, P places of a search.
"""

from __future__ import annotations

from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from mercato.config.ranking import Exploration
from mercato.ranking.statistics import Statistics
from mercato.retrieval.signals import SignalColumns

_DAY = 86_400.0


def drawn(
    query_id: str, columns: SignalColumns, statistics: Statistics, as_of: datetime, settings: Exploration
) -> NDArray[np.int64]:
    """The places of new listings among hits, in the order in which they are drawn: (E,).

    They are drawn one after the other without replacement, each with a chance that falls with its place, as 1/place
    (Efraimidis & Spirakis, Information Processing Letters 2006): where the order has put it still counts.

    Args:
        query_id: 24 hexadecimal digits.
        columns: the hits' signals, best first.
        statistics: what is known of their impressions.
        as_of: when listings have their age.
        settings: which listings are new.
    """
    with np.errstate(invalid="ignore"):  # NaN: it is not known when it was listed
        young_H = as_of.timestamp() - columns.number("created") < settings.days * _DAY
    impressions_H = np.expm1(np.nan_to_num(statistics.products.get(columns.key("product_id"))[:, -1]))
    places_E = np.flatnonzero(young_H & (impressions_H < settings.impressions))
    uniform_E = _uniform(query_id, columns.key("product_id")[places_E])
    return places_E[np.argsort(-np.log(uniform_E) * (places_E + 1), kind="stable")]


def chosen(query_id: str, places: int, settings: Exploration) -> NDArray[np.bool_]:
    """Which of the first places of a search, from 1, go to new listings: (1 + places,), the first one being of none."""
    places_P = np.arange(1 + places)
    return (places_P >= settings.first) & (_uniform(query_id, places_P.astype(np.uint64)) < settings.share)


def _uniform(query_id: str, keys_E: NDArray[np.uint64]) -> NDArray[np.float64]:
    """A number in (0, 1) of each key, another one in another search (SplitMix64's mixing)."""
    mixed_E = keys_E ^ np.uint64(int(query_id, 16) & 0xFFFF_FFFF_FFFF_FFFF)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed_E = (mixed_E ^ (mixed_E >> np.uint64(shift))) * np.uint64(factor)
    mixed_E ^= mixed_E >> np.uint64(31)
    return ((mixed_E >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
