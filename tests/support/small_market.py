"""A market of a few dozen products and an encoder that needs no training, for the tests of serving."""

from __future__ import annotations

import io
import zlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from mercato.data.market import Market, MarketConfig, write_market_toml
from mercato.data.schema import JUDGMENTS, PRODUCTS
from mercato.retrieval.open import build_index
from mercato.retrieval.protocol import record_from_product
from mercato.runs.query_head import QueryHead

COLOURS = ("red", "blue", "green", "yellow")
THINGS = ("chair", "table", "lamp", "bicycle", "sofa", "mirror")
KINDS = {"bicycle": "Sports > Cycling > Bicycles", "lamp": "Home > Lighting"}
KEY = "a-key-for-tests-0123456789"


class TrigramEncoder:
    """Hashes character trigrams into a vector: near strings are near, and the same string is always the same vector."""

    dimension = 48

    def encode_queries(self, queries: Sequence[str], country: str | None = None) -> NDArray[np.float32]:
        return np.stack([self._vector(query) for query in queries])

    def encode_products(
        self, products: pa.Table | Sequence[Mapping[str, Any]], *, as_of: datetime | None = None
    ) -> NDArray[np.float32]:
        rows = products.to_pylist() if isinstance(products, pa.Table) else products
        if any("unembeddable" in row["title"] for row in rows):
            raise RuntimeError("this model does not like that title")
        return np.array([self._vector(row["title"]) for row in rows], np.float32).reshape(-1, self.dimension)

    def _vector(self, text: str) -> NDArray[np.float32]:
        vector = np.zeros(self.dimension)
        vector[0] = 0.1
        padded = f"  {text.lower()} "
        for start in range(len(padded) - 2):
            digest = zlib.crc32(padded[start : start + 3].encode())
            vector[digest % self.dimension] += 1 if digest & 1024 else -1
        return (vector / np.linalg.norm(vector)).astype(np.float32)


class HeadedEncoder(TrigramEncoder):
    """The same, with a classification head that predicts what is spelled like the title."""

    @property
    def query_head(self) -> QueryHead:
        queries = [f"{colour} {thing}" for colour in COLOURS for thing in THINGS]
        return QueryHead(queries, 20 * self.encode_queries(queries), np.zeros(len(queries), np.float32))


def picture(colour: str = "red", kind: str = "JPEG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (16, 12), colour).save(out, kind)
    return out.getvalue()


def products() -> list[dict[str, Any]]:
    """48 products: each colour of each thing, twice, around London and Madrid."""
    start = datetime(2024, 5, 1, tzinfo=UTC)
    rows = []
    for number in range(48):
        thing, colour = THINGS[number % 6], COLOURS[number // 6 % 4]
        british = number % 2 == 0
        rows.append(
            {
                "product_id": f"p{number:02}",
                "title": f"{colour} {thing}",
                "description": f"a {thing} in good order",
                "category": KINDS.get(thing, f"Home > Furniture > {thing.title()}s"),
                "price": 10.0 + number,
                "currency": "EUR",
                "condition": "new" if number % 3 else "used",
                "created_at": start + timedelta(hours=number // 2),
                "country": "gb" if british else "es",
                "latitude": (51.5 if british else 40.4) + number / 1000,
                "longitude": -0.1 if british else -3.7,
                "seller_id": f"s{number % 5}",
                "attributes": [("colour", colour)],
                "images": [{"bytes": picture(colour), "path": None}] if number % 4 == 0 else None,
            }
        )
    return rows


def make_market(folder: Path, rows: list[dict[str, Any]] | None = None) -> Market:
    """Write the market with its products, judgments and index (`folder/index`)."""
    folder.mkdir(parents=True)
    rows = products() if rows is None else rows
    write_market_toml(folder, MarketConfig(name="Small", currency="EUR"))
    pq.write_table(pa.Table.from_pylist(rows, schema=PRODUCTS), folder / "products.parquet")
    judgments = [{"query": "red chair", "product_id": "p00", "grade": 1.0}]
    pq.write_table(pa.Table.from_pylist(judgments, schema=JUDGMENTS), folder / "judgments.parquet")
    index_table(folder, rows)
    return Market.open(folder)


def index_table(folder: Path, rows: list[dict[str, Any]], fingerprint: str = "") -> None:
    """Build `folder/index` from these products, as `mercato index` does from the table."""
    encoder = TrigramEncoder()
    vectors = encoder.encode_products(rows)
    records = [record_from_product(row, vector) for row, vector in zip(rows, vectors, strict=True)]
    build_index(folder / "index", records, encoder.dimension, fingerprint)
