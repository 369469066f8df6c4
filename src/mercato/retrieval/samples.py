"""Random products and filters for tests of engines, and the meaning of filters written out a second time."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from mercato.retrieval.expression import Filters, GeoRadius, Vector
from mercato.retrieval.protocol import IndexRecord

DIMENSION = 6
QUERY = np.arange(1, DIMENSION + 1, dtype=np.float32)

WORDS = ("red", "rojo", "dress", "camión", "truck", "红色", "lamp", "chair")
_CATEGORIES = ("Home", "Home > Lamps", "Home > Lamps > Desk", "Home > Lamp", "Fashion", "Home > Desk")
_PLACES = ((40.7, -74.0), (40.8, -73.9), (51.5, -0.1), (-33.9, 151.2), (0.0, 179.95), (0.0, -179.95), (89.9, 10.0))
_CONDITIONS, _COUNTRIES, _SELLERS = ("new", "used", "for parts"), ("us", "mx"), ("s1", "s2", "ŝ3")
_ATTRIBUTES = (("Colour", "Red"), ("Colour", "red"), ("Colour", "BLUE"), ("größe", "S"), ("größe", "XL"))
_PRICES = (0.0, 0.5, 10.0, 10.01, 99.99, 1e6)


def distance_km(record: IndexRecord, near: GeoRadius) -> float:
    """Return the great-circle distance (haversine) from a record that has a place."""
    assert record.latitude is not None and record.longitude is not None
    phi, other = math.radians(record.latitude), math.radians(near.latitude)
    half = math.sin((phi - other) / 2) ** 2
    half += math.cos(phi) * math.cos(other) * math.sin(math.radians(record.longitude - near.longitude) / 2) ** 2
    return 2 * 6371.0088 * math.asin(min(1.0, math.sqrt(half)))


def satisfies(record: IndexRecord, filters: Filters) -> bool:
    """Return whether a record meets `filters`: their meaning, written out a second time in plain Python."""
    mine = [(name.casefold(), value.casefold()) for name, value in record.attributes.items()]
    low, high, near = filters.price_min, filters.price_max, filters.near
    return (
        (filters.category is None or f"{record.category} > ".startswith(f"{filters.category} > "))
        and (low is None or (record.price is not None and record.price >= low))
        and (high is None or (record.price is not None and record.price <= high))
        and (not filters.conditions or record.condition in filters.conditions)
        and (filters.country is None or record.country == filters.country)
        and (filters.seller_id is None or record.seller_id == filters.seller_id)
        and all((key.casefold(), value.casefold()) in mine for key, value in filters.attributes.items())
        and (near is None or (record.latitude is not None and distance_km(record, near) <= near.radius_km))
    )


def product(number: int, vector: Vector | None = None, **fields: Any) -> IndexRecord:
    """Return the record of product p<number>, a lamp with a random vector where nothing else is said."""
    drawn = np.random.default_rng(number).normal(size=DIMENSION).astype(np.float32) if vector is None else vector
    return IndexRecord(**{"product_id": f"p{number}", "vector": drawn, "title": "lamp"} | fields)


def drawn_record(random: np.random.Generator, number: int) -> IndexRecord:
    """Draw the record of product p<number>, any of whose fields may be absent."""

    def some(values: tuple[Any, ...]) -> Any:
        return None if random.random() < 0.3 else values[random.integers(len(values))]

    latitude, longitude = some(_PLACES) or (None, None)
    day = some(tuple(range(5000)))
    return product(
        number,
        random.normal(size=DIMENSION).astype(np.float32),
        title=" ".join(random.choice(WORDS, random.integers(0, 5))),
        description=some(WORDS),
        category=some(_CATEGORIES),
        price=some(_PRICES),
        condition=some(_CONDITIONS),
        country=some(_COUNTRIES),
        seller_id=some(_SELLERS),
        attributes=dict(filter(None, [some(_ATTRIBUTES), some(_ATTRIBUTES)])),
        latitude=latitude,
        longitude=longitude,
        created_at=None if day is None else datetime(2000, 1, 1, tzinfo=UTC) + timedelta(days=day),
    )


def drawn_filters(random: np.random.Generator) -> Filters:
    """Draw filters of which at most a few ask anything, so that they are met now and then."""

    def seldom(values: tuple[Any, ...]) -> Any:
        return values[random.integers(len(values))] if random.random() < 0.25 else None

    low, high, place = seldom(_PRICES), seldom(_PRICES), seldom(_PLACES)
    radius = (0.5, 25.0, 500.0, 30_000.0)[random.integers(4)]  # no two places lie at about one of these
    return Filters(
        category=seldom(_CATEGORIES),
        price_min=low if high is None or low is None else min(low, high),
        price_max=high if high is None or low is None else max(low, high),
        conditions=tuple(filter(None, {seldom(_CONDITIONS), seldom(_CONDITIONS)})),
        country=seldom((*_COUNTRIES, "de")),
        seller_id=seldom(_SELLERS),
        attributes=dict(filter(None, [seldom(_ATTRIBUTES)])),
        near=place and GeoRadius(latitude=place[0], longitude=place[1], radius_km=radius),
    )
