"""The compact CNN on catalogues that say little of their photos."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from mercato.config import Images
from mercato.data.market import Market, MarketConfig, write_market_toml
from mercato.data.schema import PRODUCTS
from mercato.runs.image_vectors import encoded_vectors
from mercato.training.data.image_encoder import WEIGHTS, labels_of, market_image_encoder

EVERY = pl.Series([f"p{row}" for row in range(60)])
COLOURS = {"Red": (200, 20, 20), "Blue": (20, 20, 200)}


def market(folder: Path, labelled: int, count: int = 60) -> Market:
    folder.mkdir()
    write_market_toml(folder, MarketConfig())
    rows = []
    for row in range(count):
        name = list(COLOURS)[row % 2]
        photo = io.BytesIO()
        Image.new("RGB", (24, 24), COLOURS[name]).save(photo, "PNG")
        rows.append(
            {
                "product_id": f"p{row}",
                "title": "thing",
                "category": f"Paint > {name}" if row < labelled else None,
                "images": [{"bytes": photo.getvalue(), "path": None}] if row != 7 else None,
            }
        )
    names = ["product_id", "title", "category", "images"]
    schema = pa.schema([PRODUCTS.field(name) for name in names])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "products.parquet")
    return Market.open(folder)


def test_few_labels_are_enough_and_none_leave_photos_out(tmp_path: Path) -> None:
    settings = Images(epochs=8, size=16)
    folder = market_image_encoder(few := market(tmp_path / "few", labelled=30), settings, 0, EVERY)
    assert folder is not None
    vectors = encoded_vectors(few, folder, 5)
    assert vectors[7] is None
    red, other_red, blue = (vectors[row] for row in (40, 42, 41))
    assert red is not None and other_red is not None and blue is not None
    np.testing.assert_allclose(red, other_red, atol=1e-5)
    assert float(red[0] @ blue[0]) < 0.9  # it learned to tell what sellers name
    assert market_image_encoder(market(tmp_path / "none", labelled=0), settings, 0, EVERY) is None


def test_it_learns_from_what_it_may_and_is_shared_by_those_who_may_learn_the_same(tmp_path: Path) -> None:
    settings, few = Images(epochs=1, size=16), market(tmp_path / "few", labelled=60)
    folder = market_image_encoder(few, settings, 0, EVERY)
    assert folder == market_image_encoder(few, settings, 0, EVERY)
    other = market_image_encoder(few, settings, 0, EVERY.head(40))
    assert folder is not None and other is not None and folder != other
    assert (folder / WEIGHTS).read_bytes() != (other / WEIGHTS).read_bytes()
    assert market_image_encoder(few, settings, 0, EVERY[::2]) is None  # red ones alone: nothing to tell apart
    assert encoded_vectors(few, other, 5)[59] is not None  # those that teach nothing have vectors all the same


def test_labels_are_what_enough_products_share() -> None:
    products = [
        {
            "category": "A > B" if row % 2 else "A > C",
            "attributes": [("size", "XL" if row < 30 else "s"), ("id", str(row))],
        }
        for row in range(60)
    ]
    targets, classes = labels_of(products)
    assert classes == {"category": 2, "attribute size": 2}  # one department; no id is shared
    assert set(targets["attribute size"].tolist()) == {0, 1}
