"""A market of any size: the products of a given one repeated and varied, without images.

A server must be measured at the size of a real shop. What costs it time is how many products there are, how long their
texts are and how often each word, category, price and place comes; and these are the given market's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mercato.catalogue.fingerprints import products_fingerprint
from mercato.data.market import Market, write_market_toml
from mercato.data.schema import PRODUCTS
from mercato.errors import MercatoError
from mercato.files import atomic_directory
from mercato.progress import track

MADE_FROM = "made-from.json"
PART = 50_000  # products a file; one part is in memory at a time
COLUMNS = [name for name in PRODUCTS.names if name not in ("images", "image_embeddings")]

_SWAPPED = 0.3  # of a title's words, on average, one at least
_PRICE_SPREAD = 0.3  # standard deviation of the logarithm
_DEGREES = 0.05  # standard deviation of a place: about 5 km
_DAYS = 60.0  # that a product is older at most

Ints = NDArray[np.int64]


def big_market(market: Market, folder: Path, products: int, seed: int) -> Market:
    """The market of so many products in `folder`: the one that is there, or one made now, whole or not at all.

    A product is one of the given market's under a new id. Some words of its title are from titles of its category and
    language, its description is another product's of them; its seller and place, moved by some kilometres, are another
    product's of its country; its price is spread about the old one, and it is older. The same seed makes the same.

    Raises:
        MercatoError: `folder` holds something else, or what was made from another market, size or seed.
    """
    made_from = {"products": products, "seed": seed, "of": products_fingerprint(market)}
    if folder.exists():
        file = folder / MADE_FROM
        if not file.is_file() or orjson.loads(file.read_bytes()) != made_from:
            raise MercatoError(f"{folder} was not made from this market, size and seed: give another --out")
        return Market.open(folder)
    table = market.arrow("products", COLUMNS)
    if not table.num_rows:
        raise MercatoError(f"{market.path} has no products to repeat")
    with atomic_directory(folder) as fresh:
        write_market_toml(fresh, market.config)
        (fresh / "products").mkdir()
        variations = _Variations(table)
        for part, start in enumerate(track(range(0, products, PART), f"making products (parts of {PART:,})")):
            numbers = np.arange(start, min(start + PART, products))
            made = variations.make(numbers, np.random.default_rng([seed, part]))
            pq.write_table(made, fresh / "products" / f"part-{part:04}.parquet")
        (fresh / MADE_FROM).write_bytes(orjson.dumps(made_from))
    return Market.open(folder)


class _Variations:
    """Makes products by their numbers: the row at the number modulo the table's length, varied."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        self._titles = [title.split() or [title] for title in table["title"].to_pylist()]
        self._alike = _Groups(table, ("category", "language"))
        self._neighbours = _Groups(table, ("country",))

    def make(self, numbers: Ints, random: np.random.Generator) -> pa.Table:
        rows = numbers % self._table.num_rows
        own = self._table.take(rows)
        described = self._table.take(self._alike.others(rows, random))
        sold = self._table.take(self._neighbours.others(rows, random))
        spread = random.normal(0, _PRICE_SPREAD, len(rows))
        older = (random.random(len(rows)) * _DAYS * 86_400e6).astype("timedelta64[us]")
        ids = [f"{one}-{number}" for one, number in zip(own["product_id"].to_pylist(), numbers, strict=True)]
        changed = {
            "product_id": pa.array(ids),
            "title": pa.array([self._title(int(row), random) for row in rows]),
            "description": described["description"],
            "price": pc.round(pc.multiply(own["price"], np.exp(spread)), 2),
            "created_at": pc.subtract(own["created_at"], pa.array(older)),
            **{name: sold[name] for name in ("seller_id", "seller_rating")},
            **{name: _moved(sold[name], most, random) for name, most in (("latitude", 90), ("longitude", 180))},
        }
        schema = pa.schema([PRODUCTS.field(name) for name in COLUMNS])
        return pa.table({name: changed.get(name, own[name]) for name in COLUMNS}, schema)

    def _title(self, row: int, random: np.random.Generator) -> str:
        words = list(self._titles[row])
        swapped = np.flatnonzero(random.random(len(words)) < _SWAPPED)
        places = swapped if len(swapped) else random.integers(0, len(words), 1)
        for place, other in zip(places, self._alike.others(np.full(len(places), row), random), strict=True):
            words[place] = str(random.choice(self._titles[other]))
        return " ".join(words)


class _Groups:
    """The rows of a table in groups: those that agree in some columns."""

    def __init__(self, table: pa.Table, columns: Sequence[str]) -> None:
        keys = list(zip(*(table[name].to_pylist() for name in columns), strict=True))
        number = {key: place for place, key in enumerate(dict.fromkeys(keys))}
        self._group: Ints = np.array([number[key] for key in keys])
        self._rows = np.argsort(self._group, kind="stable")
        self._size = np.bincount(self._group)
        self._start = np.cumsum(self._size) - self._size

    def others(self, rows: Ints, random: np.random.Generator) -> Ints:
        """For each row one of its group, at random."""
        group = self._group[rows]
        place = (random.random(len(rows)) * self._size[group]).astype(np.int64)
        chosen: Ints = self._rows[self._start[group] + place]
        return chosen


def _moved(degrees: pa.ChunkedArray, most: float, random: np.random.Generator) -> pa.ChunkedArray:
    moved = pc.add(degrees, random.normal(0, _DEGREES, len(degrees)))
    return pc.max_element_wise(pc.min_element_wise(moved, most, skip_nulls=False), -most, skip_nulls=False)
