from __future__ import annotations

import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mercato.catalogue.seeding import seed
from mercato.catalogue.store import Catalogue, Entry, Picture
from mercato.data.market import Market, MarketConfig, write_market_toml
from mercato.data.schema import PRODUCTS
from mercato.errors import MercatoError
from tests.support.small_market import picture, products


def entry(product_id="x1", title="a red sofa", pictures=(), **fields) -> Entry:
    blank = dict.fromkeys(name for name in PRODUCTS.names if name not in ("images", "image_embeddings"))
    return Entry(blank | {"product_id": product_id, "title": title} | fields, pictures)


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


def test_an_upsert_is_there_after_reopening(tmp_path):
    file = tmp_path / "c.sqlite"
    first = Catalogue.open(file)
    first.upsert([entry(price=3.5, attributes={"colour": "red"}, pictures=[Picture("image/jpeg", picture())])])
    first.close()
    second = Catalogue.open(file)
    found = second.get("x1")
    assert found["title"] == "a red sofa" and found["price"] == 3.5 and found["attributes"] == {"colour": "red"}
    assert found["pictures"] == 1 and second.picture("x1", 0) == Picture("image/jpeg", picture())
    assert second.picture("x1", 1) is None and second.count() == 1
    assert [(task.product_id, task.operation) for task in second.take(9)] == [("x1", "upsert")]
    second.close()


def test_sqlite_is_asked_for_full_durability(catalogue):
    for engine in (catalogue._writer, catalogue._reader):
        with engine.connect() as connection:
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2


def test_a_failing_write_leaves_nothing(catalogue):
    with pytest.raises(TypeError):
        catalogue.upsert([entry("good"), entry("bad", price=object())])
    assert catalogue.count() == 0 and catalogue.take(9) == []


def test_done_spares_a_product_that_was_written_again(catalogue):
    catalogue.upsert([entry()])
    tasks = catalogue.take(9)
    catalogue.upsert([entry(title="a blue sofa")])
    catalogue.done(tasks)
    (task,) = catalogue.take(9)
    assert task.version == tasks[0].version + 1
    catalogue.done([task])
    assert catalogue.outbox_depth() == 0


def test_a_delete_replaces_the_waiting_upsert_and_takes_the_pictures(catalogue):
    catalogue.upsert([entry(pictures=[Picture("image/jpeg", picture())])])
    assert catalogue.delete("x1")
    assert not catalogue.delete("x1")
    assert not catalogue.delete("never there")
    assert catalogue.get("x1") is None and catalogue.picture("x1", 0) is None and catalogue.count() == 0
    assert [task.operation for task in catalogue.take(9)] == ["delete"]


def test_a_failed_task_waits_its_turn_and_says_why(catalogue):
    catalogue.upsert([entry("bad"), entry("good")])
    bad = next(task for task in catalogue.take(9) if task.product_id == "bad")
    catalogue.failed(bad, "RuntimeError: no", retry_seconds=60)
    assert [task.product_id for task in catalogue.take(9)] == ["good"]
    assert catalogue.failures() == [("bad", 1, "RuntimeError: no")] and catalogue.outbox_depth() == 1
    catalogue.upsert([entry("bad")])  # a new version gets a new chance
    assert {task.product_id for task in catalogue.take(9)} == {"bad", "good"}


def test_seeding_takes_the_table_once(catalogue, plain_market):
    assert seed(catalogue, plain_market, batch=7) == 48
    assert seed(catalogue, plain_market) == 0
    found = catalogue.get("p04")
    assert found["title"] == "red sofa" and found["created_at"] == "2024-05-01T02:00:00+00:00"
    assert found["attributes"] == {"colour": "red"} and found["pictures"] == 1
    assert catalogue.picture("p04", 0).content_type == "image/jpeg"
    assert catalogue.count() == 48 and catalogue.take(9) == []


@pytest.mark.parametrize("batch", [7, 500])
def test_of_a_repeated_product_the_first_row_stands(catalogue, plain_market, batch):
    rows = products()
    write_products(plain_market, [*rows, rows[0] | {"title": "the last row"}])
    seed(catalogue, plain_market, batch)
    assert catalogue.get("p00")["title"] == rows[0]["title"] and catalogue.count() == 48


def test_only_its_owner_may_read_a_catalogue(tmp_path):
    file = tmp_path / "c.sqlite"
    file.touch(0o644)
    for _ in range(2):
        catalogue = Catalogue.open(file)
        catalogue.upsert([entry()])
        assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
        catalogue.close()


def test_seeding_again_respects_what_the_api_wrote_and_deleted(catalogue, plain_market):
    seed(catalogue, plain_market)
    catalogue.upsert([entry("p01", "mine now")])
    catalogue.delete("p02")
    rows = products()[:4]
    for row in rows:
        row["title"] = "from the table"
    write_products(plain_market, rows)
    seed(catalogue, plain_market)
    assert catalogue.get("p00")["title"] == "from the table"
    assert catalogue.get("p01")["title"] == "mine now"
    assert catalogue.get("p02") is None
    assert catalogue.get("p40")["title"] == "green sofa"  # its row left the table; it stays


def test_seeding_keeps_paths_re_encodes_odd_pictures_and_leaves_out_broken_ones(catalogue, plain_market):
    row = products()[0]
    row["images"] = [
        {"bytes": b"\x00 not a picture", "path": None},
        {"bytes": picture("blue", "GIF"), "path": None},
        {"bytes": None, "path": "photos/a.jpg"},
        {"bytes": None, "path": None},
    ]
    write_products(plain_market, [row])
    seed(catalogue, plain_market)
    assert catalogue.get("p00")["pictures"] == 2
    assert catalogue.picture("p00", 0).content_type == "image/jpeg"
    assert catalogue.picture("p00", 1) == Picture(None, None, "photos/a.jpg")


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


def test_replay_sends_the_apis_products_and_deletions_only(catalogue, plain_market):
    seed(catalogue, plain_market)
    catalogue.upsert([entry("mine")])
    catalogue.delete("p02")
    catalogue.done(catalogue.take(9))
    catalogue.replay()
    assert {(task.product_id, task.operation) for task in catalogue.take(9)} == {("mine", "upsert"), ("p02", "delete")}


def test_the_secret_is_made_once(tmp_path):
    one, two = Catalogue.open(tmp_path / "c.sqlite"), Catalogue.open(tmp_path / "c.sqlite")
    assert one.secret("cursor") == two.secret("cursor") != one.secret("other")
    assert len(one.secret("cursor")) == 32
    one.close(), two.close()


def test_what_is_no_catalogue_is_said_so(tmp_path):
    (tmp_path / "c.sqlite").write_bytes(b"this is not a database, however long it may be" * 50)
    with pytest.raises(MercatoError, match=r"catalogue .*c\.sqlite"):
        Catalogue.open(tmp_path / "c.sqlite")
