"""A market of six garments in two languages, an encoder that knows a few words by heart, and a table writer."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mercato.data.market import Market, MarketConfig, write_market_toml
from mercato.data.schema import PRODUCTS

COLOURS, KINDS = ("red", "blue"), ("dress", "shirt", "sofa")
SPANISH = {"rojo": "red", "azul": "blue", "vestido": "dress", "camisa": "shirt"}


class Words:
    """One dimension a word of the fixture's vocabulary; Spanish words share theirs with the English ones."""

    dimension = len(COLOURS) + len(KINDS) + 1

    def __init__(self) -> None:
        self.queries_seen: list[tuple[str | None, str]] = []
        self.products_seen = 0

    def encode_queries(self, queries: Sequence[str], country: str | None = None) -> np.ndarray:
        self.queries_seen += [(country, query) for query in queries]
        return self._encode(queries)

    def encode_products(
        self, products: pa.Table | Sequence[Mapping[str, Any]], *, as_of: datetime | None = None
    ) -> np.ndarray:
        assert isinstance(products, pa.Table)
        assert products.schema.names == PRODUCTS.names
        self.products_seen += products.num_rows
        return self._encode(products.column("title").to_pylist())

    def _encode(self, texts: Sequence[str]) -> np.ndarray:
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        vectors[:, -1] = 0.1
        for row, text in enumerate(texts):
            for word in text.lower().split():
                word = SPANISH.get(word, word)
                if word in COLOURS + KINDS:
                    vectors[row, (COLOURS + KINDS).index(word)] = 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class Constant(Words):
    """Everything is the same to it."""

    def _encode(self, texts: Sequence[str]) -> np.ndarray:
        return np.full((len(texts), self.dimension), self.dimension**-0.5, dtype=np.float32)


def write_table(folder: Path, name: str, rows: list[dict[str, Any]], **columns: Any) -> None:
    pl.DataFrame(rows, infer_schema_length=None, **columns).write_parquet(folder / f"{name}.parquet")


@pytest.fixture
def words() -> Words:
    return Words()


@pytest.fixture
def market(tmp_path: Path) -> Market:
    """Garments `red dress` … `blue sofa`, four of each; queries for every kind, in English and Spanish."""
    folder = tmp_path / "market"
    folder.mkdir()
    write_market_toml(folder, MarketConfig(name="six garments"))
    photo = io.BytesIO()
    Image.new("RGB", (40, 30), "crimson").save(photo, "PNG")
    names = [f"{colour} {kind}" for colour in COLOURS for kind in KINDS]
    titles = [name for name in names for _ in range(4)]
    ids = [f"p{row}" for row in range(len(titles))]
    products = [
        {
            "product_id": product,
            "title": title,
            "price": 9.5,
            "attributes": [("made", "here")],
            "images": [{"bytes": photo.getvalue(), "path": None}] if row % 2 else None,
        }
        for row, (product, title) in enumerate(zip(ids, titles, strict=True))
    ]
    schema = pa.schema([PRODUCTS.field(name) for name in products[0]])
    pq.write_table(pa.Table.from_pylist(products, schema=schema), folder / "products.parquet")

    asked = [(name, "us", name) for name in names] + [
        ("vestido rojo", "mx", "red dress"),
        ("camisa azul", "mx", "blue shirt"),
    ]
    judgments, pairs = [], []
    for query, country, meant in asked:
        for product, title in zip(ids, titles, strict=True):
            shared = len(set(meant.split()) & set(title.split()))
            key = {"query": query, "country": country, "product_id": product}
            judgments.append({**key, "grade": (0.0, 0.1, 1.0)[shared], "rater": "a", "split": None})
            split = "future" if int(product[1:]) % 2 else "train"
            pairs.append({**key, "label": int(shared == 2), "split": split})
    judgments += [{**judgments[0], "rater": "b"}]  # a second opinion on the same pair
    judgments += [{**row, "query": "sofa", "split": "validation"} for row in judgments[:12]]
    write_table(folder, "judgments", judgments)
    write_table(folder, "pairs", pairs)
    return Market.open(folder)
