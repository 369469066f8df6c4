from __future__ import annotations

import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mercato.catalogue.products import StoredImage
from mercato.catalogue.seeding import seed
from mercato.data.market import Market, MarketConfig, write_market_toml
from mercato.data.schema import PRODUCTS
from mercato.errors import MercatoError
from tests.support.small_market import picture, products
from tests.support.stored import stored


def write_products(market: Market, rows) -> None:
    file = market.path / "products.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=PRODUCTS), file)
    os.utime(file, ns=(0, hash(str(rows)) % 10**15))


@pytest.fixture
def plain_market(tmp_path) -> Market:
    folder = tmp_path / "plain"
    folder.mkdir()
    write_market_toml(folder, MarketConfig())
    market = Market.open(folder)
    write_products(market, products())
    return market


def test_seeding_takes_the_table_once(catalogue, plain_market):
    assert seed(catalogue, plain_market, batch=7) == 48
    assert seed(catalogue, plain_market) == 0
    found = catalogue.products.get("p04")
    assert found["title"] == "red sofa" and found["created_at"] == "2024-05-01T02:00:00+00:00"
    assert found["attributes"] == {"colour": "red"} and found["image_count"] == 1
    assert catalogue.products.image("p04", 0).content_type == "image/jpeg"
    assert catalogue.products.count() == 48 and catalogue.outbox.claim("w", 9) == []


@pytest.mark.parametrize("batch", [7, 500])
def test_of_a_repeated_product_the_first_row_stands(catalogue, plain_market, batch):
    rows = products()
    write_products(plain_market, [*rows, rows[0] | {"title": "the last row"}])
    seed(catalogue, plain_market, batch)
    assert catalogue.products.get("p00")["title"] == rows[0]["title"] and catalogue.products.count() == 48


def test_seeding_again_respects_what_the_api_wrote_and_deleted(catalogue, plain_market):
    seed(catalogue, plain_market)
    catalogue.products.upsert([stored("p01", "mine now")])
    catalogue.products.delete("p02")
    rows = products()[:4]
    for row in rows:
        row["title"] = "from the table"
    write_products(plain_market, rows)
    seed(catalogue, plain_market)
    assert catalogue.products.get("p00")["title"] == "from the table"
    assert catalogue.products.get("p01")["title"] == "mine now"
    assert catalogue.products.get("p02") is None
    assert catalogue.products.get("p40")["title"] == "green sofa"  # its row left the table; it stays


def test_seeding_keeps_paths_re_encodes_odd_images_and_leaves_out_broken_ones(catalogue, plain_market):
    row = products()[0]
    row["images"] = [
        {"bytes": b"\x00 not a picture", "path": None},
        {"bytes": picture("blue", "GIF"), "path": None},
        {"bytes": None, "path": "photos/a.jpg"},
        {"bytes": None, "path": None},
    ]
    write_products(plain_market, [row])
    seed(catalogue, plain_market)
    assert catalogue.products.get("p00")["image_count"] == 2
    assert catalogue.products.image("p00", 0).content_type == "image/jpeg"
    assert catalogue.products.image("p00", 1) == StoredImage(None, None, "photos/a.jpg")


@pytest.mark.parametrize(("field", "value"), [("product_id", None), ("title", ""), ("title", None)])
def test_seeding_names_an_empty_field(catalogue, plain_market, field, value):
    rows = products()
    rows[3][field] = value
    write_products(plain_market, rows)
    with pytest.raises(MercatoError, match=f"table products, row 3, column {field}"):
        seed(catalogue, plain_market)


def test_seeding_names_a_wrong_column(catalogue, plain_market):
    pq.write_table(
        pa.table({"product_id": ["a"], "title": ["b"], "price": ["cheap"]}), plain_market.files("products")[0]
    )
    with pytest.raises(MercatoError, match="products"):
        seed(catalogue, plain_market)
