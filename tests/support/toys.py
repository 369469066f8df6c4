"""A toy market that can be learned in a second: a query is another language's word for the kind it wants."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from mercato.config import Recipe
from mercato.data.market import Market, MarketConfig, write_market_toml
from mercato.data.schema import TABLES

KINDS = {"mesa": "table", "silla": "chair", "zapato": "shoe", "coche": "car", "libro": "book", "reloj": "watch"}

RECIPE = """
name = "toy"
seed = 1
dimension = 16
dropout = 0.05
trigrams = { buckets = 2000 }
text = { vocabulary = 200 }
query_tower = { text = { layers = 1, heads = 2, hidden = 16, feed_forward = 32 } }
images = { epochs = 1, size = 16 }
stages = [{ batch_size = 16, epochs = 5, learning_rate = 1e-2, text_learning_rate = 2e-3 }]

[product_tower]
title_tokens = 8
description_tokens = 8
text = { layers = 1, heads = 2, hidden = 16, feed_forward = 32 }
"""


def toy_recipe(*changes: str) -> Recipe:
    return Recipe.parse(RECIPE, changes=changes)


def products(count: int = 48) -> list[dict[str, Any]]:
    kinds = list(KINDS.values())
    return [
        {
            "product_id": f"p{i}",
            "title": f"{kinds[i % len(kinds)]} number {i}",
            "description": f"a good {kinds[i % len(kinds)]}",
            "category": f"Things > {kinds[i % len(kinds)]}",
            "country": ("us", "mx")[i % 2],
            "language": "en",
        }
        for i in range(count)
    ]


def pairs(goods: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of each kind's products most train, one or two validate; other kinds are the validation's negatives."""
    rows = []
    for i, product in enumerate(goods):
        split = "validation" if i % 4 == 3 else "train"
        for word, kind in KINDS.items():
            label = int(kind in (product["title"] or ""))
            if label or split == "validation":
                rows.append(
                    {
                        "query": word,
                        "country": "us",
                        "product_id": product["product_id"],
                        "label": label,
                        "split": split,
                    }
                )
    return rows


def make_market(
    folder: Path, goods: Sequence[Mapping[str, Any]] | None = None, links: Sequence[Mapping[str, Any]] | None = None
) -> Market:
    goods = products() if goods is None else goods
    folder.mkdir(parents=True)
    write_market_toml(folder, MarketConfig(name="toys [/] and more"))
    for table, rows in (("products", goods), ("pairs", pairs(goods) if links is None else links)):
        names = [name for name in TABLES[table].names if any(name in row for row in rows)]
        schema = pa.schema([TABLES[table].field(name) for name in names])
        pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), folder / f"{table}.parquet")
    return Market.open(folder)


def photo(colour: str) -> dict:
    content = io.BytesIO()
    Image.new("RGB", (20, 30), colour).save(content, "PNG")
    return {"bytes": content.getvalue(), "path": None}


def with_photos(rows: list[dict]) -> list[dict]:
    colours = ["red", "green", "blue", "black", "white", "yellow"]
    return [row | {"images": [photo(colours[i % 6])] * (i % 3)} for i, row in enumerate(rows)]
