"""Small wild catalogues and expressions for hypothesis."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
from hypothesis import strategies as st

from mercato.retrieval.expression import Expression, Filters, GeoRadius
from mercato.retrieval.protocol import IndexRecord

DIMENSION = 6
WORDS = ["red", "rojo", "dress", "vestido", "camión", "truck", "红色", "连衣裙", "lamp", "chair"]
CATEGORIES = [
    "Home",
    "Home > Lamps",
    "Home > Lamps > Desk",
    "Home > Lamp",
    "Fashion",
    "Fashion > Dresses",
    "Home > Desk",
]
PLACES = [(40.7, -74.0), (40.8, -73.9), (51.5, -0.1), (-33.9, 151.2), (0.0, 179.95), (0.0, -179.95), (89.9, 10.0)]
CONDITIONS = ["new", "used", "for parts"]
SELLERS = ["s1", "s2", "ŝ3"]
ATTRIBUTES = {"Colour": ["Red", "red", "BLUE"], "größe": ["S", "XL"]}

attributes = st.dictionaries(
    st.sampled_from(list(ATTRIBUTES)), st.sampled_from([value for values in ATTRIBUTES.values() for value in values])
)
prices = st.sampled_from([0.0, 0.5, 10.0, 10.01, 99.99, 1e6]) | st.floats(0, 1e7).map(lambda price: price + 0.0)


def vectors(random: np.random.Generator, number: int) -> np.ndarray:
    return random.normal(size=(number, DIMENSION)).astype(np.float32)


@st.composite
def records(draw: st.DrawFn, product_id: str) -> IndexRecord:
    place = draw(st.none() | st.sampled_from(PLACES))
    return IndexRecord(
        product_id=product_id,
        vector=vectors(np.random.default_rng(draw(st.integers(0, 2**32 - 1))), 1)[0],
        title=" ".join(draw(st.lists(st.sampled_from(WORDS), max_size=4))),
        description=draw(st.none() | st.sampled_from(WORDS)),
        category=draw(st.none() | st.sampled_from(CATEGORIES)),
        price=draw(st.none() | prices),
        condition=draw(st.none() | st.sampled_from(CONDITIONS)),
        country=draw(st.none() | st.sampled_from(["us", "mx"])),
        seller_id=draw(st.none() | st.sampled_from(SELLERS)),
        attributes=draw(attributes),
        latitude=place and place[0],
        longitude=place and place[1],
        created_at=draw(st.none() | st.datetimes(datetime(1980, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))),
    )


@st.composite
def catalogues(draw: st.DrawFn, most: int = 12) -> list[IndexRecord]:
    return [draw(records(f"p{number}")) for number in range(draw(st.integers(1, most)))]


@st.composite
def filters(draw: st.DrawFn) -> Filters:
    low, high = draw(st.none() | prices), draw(st.none() | prices)
    if low is not None and high is not None and low > high:
        low, high = high, low
    place = draw(st.none() | st.sampled_from(PLACES))
    radius = draw(st.sampled_from([0.001, 5.0, 25.0, 500.0, 30_000.0]))
    return Filters(
        category=draw(st.none() | st.sampled_from(CATEGORIES)),
        price_min=low,
        price_max=high,
        conditions=tuple(draw(st.lists(st.sampled_from(CONDITIONS), max_size=2, unique=True))),
        country=draw(st.none() | st.sampled_from(["us", "mx", "de"])),
        seller_id=draw(st.none() | st.sampled_from(SELLERS)),
        attributes=draw(attributes),
        near=place and GeoRadius(latitude=place[0], longitude=place[1], radius_km=radius),
    )


def expressions() -> st.SearchStrategy[Expression]:
    """Expressions for `catalogues`, with a vector, a text, both or neither."""
    vector = st.none() | st.integers(0, 2**32 - 1).map(lambda seed: vectors(np.random.default_rng(seed), 1)[0])
    text = st.none() | st.lists(st.sampled_from([*WORDS, "unheard"]), max_size=3).map(" ".join)
    return st.builds(
        Expression,
        vector=vector,
        text=text,
        min_cosine=st.none() | st.sampled_from([-0.5, 0.0, 0.5]),
        filters=st.just(Filters()) | filters(),
        order=st.sampled_from(["cosine", "bm25"]),
    )
