"""What a search page shows before the first search: the market's categories, values, places and example queries."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

import polars as pl

from mercato.data.market import Market

_CATEGORIES, _VALUES, _KEYS, _PLACES, _EXAMPLES = 400, 20, 8, 8, 8


def market_info(market: Market, products: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Count the catalogue once: the fields of `GET /v1/market` that only products and logs can tell.

    A category counts for each of its ancestors; a place is a square of 1° × 1° with many products, at their mean.
    """
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
    return {
        "categories": sorted(name for name, _ in categories.most_common(_CATEGORIES)),
        "conditions": [name for name, _ in conditions.most_common(_VALUES)],
        "countries": [name for name, _ in countries.most_common()],
        "attributes": {key: [value for value, _ in attributes[key].most_common(_VALUES)] for key in keys},
        "places": [_place(square) for square in crowded],
        "examples": _examples(market),
    }


def _place(square: list[tuple[float, float, str | None]]) -> dict[str, Any]:
    latitude = round(sum(point[0] for point in square) / len(square), 1)
    longitude = round(sum(point[1] for point in square) / len(square), 1)
    country = Counter(point[2] for point in square).most_common(1)[0][0]
    return {"country": country, "latitude": latitude, "longitude": longitude}


def _examples(market: Market) -> list[str]:
    """The most engaged queries of the mined pairs (mining has left out the rare ones), else the most judged."""
    if market.has("pairs"):
        queries = market.frame("pairs", ["query", "label", "weight"]).filter(pl.col("label") == 1)
        ranked = queries.group_by("query").agg(pl.col("weight").fill_null(1.0).sum().alias("n"))
    elif market.has("judgments"):
        ranked = market.frame("judgments", ["query"]).group_by("query").agg(pl.len().alias("n"))
    else:
        return []
    return ranked.sort(["n", "query"], descending=[True, False])["query"].head(_EXAMPLES).to_list()
