"""What filters mean, said once for sealed and fresh rows: the columns they ask about, and which rows they leave.

A place is a point on the unit sphere, so that a radius is one product of a matrix and a vector, which knows no
antimeridian and no pole.

Shapes: N rows of all, L rows that hold a keyword.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mercato.retrieval.engines.qdrant_edge.payload import keywords
from mercato.retrieval.expression import Filters
from mercato.retrieval.hybrid import Rows

EARTH_KM = 6371.0088
_ROUNDING = 4e-16  # of a cosine near 1: .2 m


class FilterColumns(Protocol):
    """What filters ask of some products, one row each."""

    def prices(self) -> NDArray[np.float64]:
        """The price of each row, NaN where it has none, (N,)."""
        ...

    def places(self) -> NDArray[np.float64]:
        """Where on the unit sphere each row is, NaN where it does not say, (N, 3)."""
        ...

    def holding(self, name: str, keyword: str) -> Rows:
        """The rows that hold this keyword in this field, ascending, (L,)."""
        ...


def within(columns: FilterColumns, filters: Filters, first: int = 0) -> NDArray[np.bool_]:
    """Which rows from `first` on satisfy the filters, (N - first,)."""
    price_N = columns.prices()[first:]
    within_N = np.ones(len(price_N), bool)
    for name, any_of in keywords(filters):
        holding_N = np.zeros(len(within_N), bool)
        for keyword in any_of:
            rows_L = columns.holding(name, keyword)
            begin, end = np.searchsorted(rows_L, [first, first + len(within_N)])
            holding_N[rows_L[begin:end] - first] = True
        within_N &= holding_N
    if filters.price_min is not None:
        within_N &= price_N >= filters.price_min
    if filters.price_max is not None:
        within_N &= price_N <= filters.price_max
    if filters.near is not None:
        centre = on_sphere(filters.near.latitude, filters.near.longitude)
        least = math.cos(min(filters.near.radius_km / EARTH_KM, math.pi)) - _ROUNDING
        within_N &= columns.places()[first : first + len(within_N)] @ centre >= least
    return within_N


def price_and_place(fields: Mapping[str, Any]) -> list[float]:
    """The numbers of a product of these fields (`payload`): its price and its place on the sphere, (4,)."""
    price, place = fields.get("price"), fields.get("location")
    where = [math.nan] * 3 if place is None else on_sphere(place["lat"], place["lon"]).tolist()
    return [math.nan if price is None else price, *where]


def on_sphere(latitude: float, longitude: float) -> NDArray[np.float64]:
    """A place given in degrees as a point on the unit sphere, (3,)."""
    phi, theta = math.radians(latitude), math.radians(longitude)
    return np.array([math.cos(phi) * math.cos(theta), math.cos(phi) * math.sin(theta), math.sin(phi)])
