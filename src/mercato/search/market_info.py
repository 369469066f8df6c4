"""Market info: the categories, values, places and example queries that a search page shows before the first search."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

from mercato.data.market import Market

_CATEGORIES, _VALUES, _KEYS, _PLACES, _EXAMPLES = 400, 20, 8, 8, 8


@dataclass(frozen=True)
class Place:
    """A square of 1° × 1° where many products are: their mean place, and the country of most of them."""

    country: str | None
    latitude: float
    longitude: float


@dataclass(frozen=True, kw_only=True)
class MarketInfo:
    """What products and logs tell about a market. A category counts for each of its ancestors, too."""

    categories: tuple[str, ...]  # the most frequent paths, sorted
    conditions: tuple[str, ...]  # from here on the most frequent first
    countries: tuple[str, ...]
    attributes: Mapping[str, tuple[str, ...]]  # the most frequent keys, with their values
    places: tuple[Place, ...]
    examples: tuple[str, ...]  # queries


def market_info(market: Market, products: Iterable[Mapping[str, Any]]) -> MarketInfo:
    """Count the catalogue once, or a sample of it."""
    categories, conditions, countries = Counter[str](), Counter[str](), Counter[str]()
    attributes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    squares: defaultdict[tuple[int, int], list[tuple[float, float, str | None]]] = defaultdict(list)
    for product in products:
        steps = [step.strip() for step in (product["category"] or "").split(">") if step.strip()]
        categories.update(" > ".join(steps[: depth + 1]) for depth in range(len(steps)))
        conditions.update(filter(None, [product["condition"]]))
        countries.update(filter(None, [product["country"]]))
        for key, value in (product["attributes"] or {}).items():
            if value:
                attributes[key][value] += 1
        latitude, longitude = product["latitude"], product["longitude"]
        if latitude is not None and longitude is not None:
            squares[round(latitude), round(longitude)].append((latitude, longitude, product["country"]))
    keys = sorted(attributes, key=lambda key: (-attributes[key].total(), key))[:_KEYS]
    crowded = sorted(squares.values(), key=len, reverse=True)[:_PLACES]
    return MarketInfo(
        categories=tuple(sorted(name for name, _ in categories.most_common(_CATEGORIES))),
        conditions=tuple(name for name, _ in conditions.most_common(_VALUES)),
        countries=tuple(name for name, _ in countries.most_common()),
        attributes={key: tuple(value for value, _ in attributes[key].most_common(_VALUES)) for key in keys},
        places=tuple(map(_place, crowded)),
        examples=tuple(_examples(market)),
    )


def _place(square: list[tuple[float, float, str | None]]) -> Place:
    latitude = round(sum(point[0] for point in square) / len(square), 1)
    longitude = round(sum(point[1] for point in square) / len(square), 1)
    country = Counter(point[2] for point in square).most_common(1)[0][0]
    return Place(country, latitude, longitude)


def _examples(market: Market) -> list[str]:
    """The most engaged queries of the mined pairs (mining has left out the rare ones), else the most judged."""
    if market.has("pairs"):
        pairs = market.arrow("pairs", ["query", "label", "weight"]).filter(pc.field("label") == 1)
        queries = pairs.set_column(2, "weight", pc.fill_null(pairs["weight"], 1.0))
        ranked = queries.group_by("query").aggregate([("weight", "sum")])
    elif market.has("judgments"):
        ranked = market.arrow("judgments", ["query"]).group_by("query").aggregate([([], "count_all")])
    else:
        return []
    count = ranked.column_names[-1]
    first: list[str] = ranked.sort_by([(count, "descending"), ("query", "ascending")])["query"][:_EXAMPLES].to_pylist()
    return first
