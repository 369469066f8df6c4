"""A market of six garments in two languages."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from garments import COLOURS, KINDS, Words, write_table
from PIL import Image

from mercato.data.market import Market, MarketConfig, write_market_toml
from mercato.data.schema import PRODUCTS


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
