"""The catalogue: what each seller offers, at what price, and what of it the seller writes down."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa

from mercato.data.schema import IMAGE, PRODUCTS, TIMESTAMP
from mercato.simulation.ontology import COLOURS, CONDITIONS, COUNTRIES, MATERIALS, PATTERNS, TYPES, ProductType
from mercato.simulation.relevance import NOTHING, SLOTS, Bools, Floats, Ints, Things
from mercato.simulation.sellers import Listing, write_listing

LOG_START = datetime(2026, 3, 2, tzinfo=UTC)  # a Monday
LOG_DAYS = 35
LISTED_BEFORE = 35  # listings of as many days before the log begins are still there

GARAGE_SHARE = 0.045  # of listings hold several things
NO_IMAGE = 0.05
UNFAIR = 0.12  # strongly overpriced
CONDITION_VALUE = {"new": 1.0, "like_new": 0.8, "good": 0.6, "fair": 0.42, "worn": 0.25}


@dataclass(frozen=True)
class Catalogue:
    """All listings, as rows; days count from LOG_START (negative: before)."""

    ids: list[str]
    listings: list[Listing]
    things: Things
    images: Ints  # (n,) how many
    country: Ints  # (n,) number in COUNTRIES
    latitude: Floats
    longitude: Floats
    created: Floats  # (n,) days
    price: Floats  # (n,) NaN where the seller gives none
    unfairness: Floats  # (n,) log(price / fair value)
    condition: Ints  # (n,) number in CONDITIONS
    condition_said: Bools
    seller: Ints
    seller_rating: Floats
    rating: Floats  # NaN for most


def make_catalogue(count: int, kinds_of_things: int, chance: np.random.Generator) -> Catalogue:
    """Draw `count` listings of so many types; row order and ids say nothing about what is in them."""
    shares = np.array([place.share for place in COUNTRIES])
    sellers = max(20, count // 4)
    seller_country = chance.choice(len(COUNTRIES), sellers, p=shares)
    seller_stars = np.clip(5.15 - chance.gamma(1.6, 0.42, sellers), 1.5, 5.0).round(1)
    weights = chance.pareto(1.4, sellers) + 0.3
    seller = chance.choice(sellers, count, p=weights / weights.sum())
    country = seller_country[seller]
    near_city = np.array([COUNTRIES[c].cities[int(chance.integers(len(COUNTRIES[c].cities)))][1:] for c in country])
    popularity = np.array([kind.popularity for kind in TYPES])
    popularity[_left_out(kinds_of_things)] = 0.0
    types = chance.choice(len(TYPES), (count, SLOTS), p=popularity / popularity.sum())
    several = chance.random(count) < GARAGE_SHARE
    filled = np.where(several, chance.integers(3, SLOTS + 1, count), 1)
    condition = chance.choice(len(CONDITIONS), count, p=(0.16, 0.22, 0.34, 0.18, 0.10))
    years = np.where(condition == 0, 0, chance.geometric(0.28, count))
    listings, images, price, unfairness = [], np.zeros(count, np.int64), np.full(count, np.nan), np.zeros(count)
    for row in range(count):
        kinds = [TYPES[t] for t in types[row, : filled[row]]]
        place = COUNTRIES[country[row]]
        listing = write_listing(
            chance, kinds, place.language, place.second_language, CONDITIONS[condition[row]], int(years[row])
        )
        listings.append(listing)
        images[row] = len(kinds) if several[row] else int(chance.choice(6, p=_IMAGE_COUNTS))
        fair = _fair_value(kinds, listing, CONDITIONS[condition[row]], int(years[row])) * place.dollars
        unfairness[row] = chance.normal(0, 0.30) + (chance.uniform(0.45, 0.9) if chance.random() < UNFAIR else 0.0)
        price[row] = _asked(fair * np.exp(unfairness[row])) if chance.random() > 0.02 else np.nan
    return Catalogue(
        ids=[f"p{number:010x}" for number in _distinct(chance, count)],
        listings=listings,
        things=_as_seen(listings, types, filled, images > 0),
        images=images,
        country=country,
        latitude=near_city[:, 0] + chance.normal(0, 0.16, count),
        longitude=near_city[:, 1] + chance.normal(0, 0.20, count),
        created=chance.uniform(-LISTED_BEFORE, LOG_DAYS, count),
        price=price,
        unfairness=unfairness,
        condition=condition,
        condition_said=chance.random(count) < 0.82,
        seller=seller,
        seller_rating=np.where(chance.random(sellers) < 0.1, np.nan, seller_stars)[seller],
        rating=np.where(chance.random(count) < 0.15, np.clip(chance.normal(4.2, 0.5, count), 1, 5).round(1), np.nan),
    )


_IMAGE_COUNTS = (NO_IMAGE, 0.34, 0.26, 0.18, 0.11, 0.06)


def products_table(catalogue: Catalogue, start: int, stop: int, images: list[list[bytes]]) -> pa.Table:
    """Rows start..stop of the products table, with their images."""
    rows = range(start, stop)
    listings = catalogue.listings[start:stop]
    created = [LOG_START + timedelta(days=float(catalogue.created[row])) for row in rows]
    places = [COUNTRIES[catalogue.country[row]] for row in rows]
    located = [catalogue.seller[row] % 25 != 0 for row in rows]  # some sellers hide their place
    columns = {
        "product_id": catalogue.ids[start:stop],
        "title": [listing.title for listing in listings],
        "description": [listing.description for listing in listings],
        "brand": [listing.brand for listing in listings],
        "category": [listing.category for listing in listings],
        "price": pa.array(catalogue.price[start:stop], pa.float64(), from_pandas=True),
        "currency": [place.currency for place in places],
        "condition": [CONDITIONS[catalogue.condition[r]] if catalogue.condition_said[r] else None for r in rows],
        "created_at": pa.array(created, TIMESTAMP),
        "country": [place.code for place in places],
        "language": [listing.written_language for listing in listings],
        "latitude": [
            round(float(catalogue.latitude[r]), 4) if kept else None for r, kept in zip(rows, located, strict=True)
        ],
        "longitude": [
            round(float(catalogue.longitude[r]), 4) if kept else None for r, kept in zip(rows, located, strict=True)
        ],
        "seller_id": [f"s{catalogue.seller[row]:06d}" for row in rows],
        "seller_rating": pa.array(catalogue.seller_rating[start:stop], pa.float64(), from_pandas=True),
        "rating": pa.array(catalogue.rating[start:stop], pa.float64(), from_pandas=True),
        "attributes": [list(listing.attributes.items()) or None for listing in listings],
        "images": pa.array([[{"bytes": image, "path": None} for image in some] for some in images], pa.list_(IMAGE)),
    }
    return pa.table(columns, schema=pa.schema([PRODUCTS.field(name) for name in columns]))


def _left_out(kept: int) -> list[int]:
    """Types that a small market does without: it keeps pairs of neighbours from all over the table."""
    pairs = np.arange(len(TYPES)).reshape(-1, 2)
    chosen = np.linspace(0, len(pairs) - 1, -(-kept // 2)).round().astype(int)
    return [int(number) for number in np.setdiff1d(pairs, pairs[chosen])]


def _fair_value(kinds: list[ProductType], listing: Listing, condition: str, years: int) -> float:
    """What the thing is worth in dollars: type × condition × age × brand."""
    named = 1.25 if listing.brand else 1.0
    return sum(kind.price for kind in kinds) * CONDITION_VALUE[condition] * 0.94**years * named


def _asked(price: float) -> float:
    """A price as people write it."""
    step = 1 if price < 50 else 5 if price < 500 else 10 if price < 2000 else 50
    return float(max(1, round(price / step) * step))


def _distinct(chance: np.random.Generator, count: int) -> list[int]:
    numbers: dict[int, None] = {}
    while len(numbers) < count:
        numbers[int(chance.integers(16**10))] = None
    return list(numbers)


def _as_seen(listings: list[Listing], types: Ints, filled: Ints, photographed: Bools) -> Things:
    count = len(listings)
    seen = np.full((4, count, SLOTS), NOTHING, np.int64)
    for row, listing in enumerate(listings):
        for slot, look in enumerate(listing.looks):
            values = (COLOURS.index(look.colour), PATTERNS.index(look.pattern), MATERIALS.index(look.material))
            seen[0, row, slot] = look.type
            for plane, (value, said) in enumerate(zip(values, listing.text_says, strict=True), start=1):
                seen[plane, row, slot] = value if said or photographed[row] else NOTHING
    assert (seen[0] == np.where(np.arange(SLOTS) < filled[:, None], types, NOTHING)).all()
    brands = np.array([listing.true_brand for listing in listings], object)
    sizes = np.array([listing.true_size for listing in listings], object)
    return Things(seen[0], seen[1], seen[2], seen[3], brands, sizes)
