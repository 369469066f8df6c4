"""What the API wrote is in the products table for what learns and measures, from one mining to the next."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from mercato.catalogue.products import StoredImage
from mercato.catalogue.seeding import seed
from mercato.catalogue.store import Catalogue
from mercato.catalogue.written import take_written
from mercato.cli import app
from mercato.data.checking import check
from mercato.data.market import Engagement, Market, MarketConfig, write_market_toml
from mercato.data.schema import EVENTS, PRODUCTS
from mercato.training import train as training
from mercato.training.train import partial_folder
from tests.support.small_market import picture
from tests.support.stored import stored


@pytest.fixture
def market(tmp_path) -> Market:
    """Three products, of which t2 stands twice."""
    rows = [{"product_id": key, "title": f"{key} of the table"} for key in ("t1", "t2", "t3", "t2")]
    pq.write_table(pa.Table.from_pylist(rows, schema=PRODUCTS), tmp_path / "products.parquet")
    write_market_toml(tmp_path, MarketConfig(engagement=Engagement(min_sessions=1, validation_days=0, future_days=0)))
    return Market.open(tmp_path)


def titles(market: Market) -> dict[str, str]:
    return dict(zip(*market.arrow("products", ["product_id", "title"]).to_pydict().values(), strict=True))


def taken(market: Market) -> Market:
    take_written(market.path)
    return Market.open(market.path)


def snapshots(market: Market) -> list[str]:
    return sorted(file.name for file in (market.path / "products").glob("*"))


def log(market: Market, *products: str) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    rows = [
        {
            "timestamp": start + timedelta(hours=number), "action_name": action, "query_id": "q", "session_id": "s",
            "user_query": "lamp", "product_id": None if action == "search" else product,
        }
        for product in products
        for number, action in enumerate(("search", "click", "message", "seller_reply"))
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows, schema=EVENTS), market.path / "events.parquet")


def test_a_row_that_the_api_wrote_stands_for_that_of_the_table(catalogue, market):
    image = StoredImage("image/jpeg", picture())
    document = {"price": 9.5, "attributes": {"colour": "red"}, "created_at": "2026-01-02T03:04:05+00:00"}
    catalogue.products.upsert([stored("t2", "written"), stored("n", "new", [image], [[0.5, 1.0]], **document)])
    now = taken(market)
    assert titles(now) == {"n": "new", "t2": "written", "t1": "t1 of the table", "t3": "t3 of the table"}
    assert len(now.arrow("products")) == len(now.frame("products")) == 4, "neither of the table's two rows is left"
    new = now.arrow("products").to_pylist(maps_as_pydicts="strict")[0]
    assert new == dict.fromkeys(PRODUCTS.names) | document | {
        "product_id": "n", "title": "new", "created_at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "images": [{"bytes": image.content, "path": None}], "image_embeddings": [[0.5, 1.0]],
    }  # fmt: skip
    assert titles(now.as_imported()) == {key: f"{key} of the table" for key in ("t1", "t2", "t3")}
    assert [*titles_scanned(now)].count("written") == 1 and titles_scanned(now)[:2] == ["new", "written"]


def titles_scanned(market: Market) -> list[str]:
    return market.scan("products", ["title"]).to_table()["title"].to_pylist()


def test_a_deleted_product_keeps_the_row_of_the_table_and_else_has_none(catalogue, market):
    seed(catalogue, market)
    catalogue.products.upsert([stored("n"), stored("t1", "written")])
    taken(market)
    for key in ("n", "t1", "t2"):
        catalogue.products.delete(key)
    assert set(titles(taken(market)).items()) == {(key, f"{key} of the table") for key in ("t1", "t2", "t3")}


def test_many_are_read_page_by_page(catalogue, market, monkeypatch):
    monkeypatch.setattr("mercato.catalogue.written.PAGE", 3)
    catalogue.products.upsert([stored(f"n{number}") for number in range(10)])
    assert len(taken(market).arrow("products")) == 14
    assert pq.read_metadata(market.path / "products" / "live-api-000001.parquet").num_row_groups == 4


def test_the_fingerprint_follows_what_was_written_and_nothing_else(catalogue, market):
    catalogue.products.upsert([stored("n")])
    prints = [market.fingerprint(), taken(market).fingerprint()]
    seed(catalogue, market)
    catalogue.events.append([{"session_id": "s"}])
    assert taken(market).fingerprint() == prints[-1] and snapshots(market) == ["live-api-000001.parquet"]
    catalogue.products.upsert([stored("n", "other")])
    prints.append(taken(market).fingerprint())
    catalogue.products.delete("n")
    prints.append(taken(market).fingerprint())
    assert len(set(prints)) == 4


def test_a_new_catalogue_is_not_taken_for_the_one_before(catalogue, market):
    catalogue.products.upsert([stored("n", "one")])
    taken(market)
    (market.path / "catalogue.sqlite").rename(market.path / "old.sqlite")
    assert titles(taken(market))["n"] == "one", "without a catalogue, what is known stays"
    other = Catalogue.open(market.path / "catalogue.sqlite")
    other.products.upsert([stored("n", "two")])
    assert titles(taken(market))["n"] == "two"
    other.close()


def test_who_reads_a_market_sees_the_same_until_the_end(catalogue, market):
    """A training reads products several times and counts on their rows."""
    catalogue.products.upsert([stored("n")])
    reader = taken(market)
    before = reader.arrow("products", ["product_id"])
    catalogue.products.upsert([stored("m")])
    assert "m" in titles(taken(market))
    assert reader.arrow("products", ["product_id"]) == before
    catalogue.products.upsert([stored("o")])
    taken(market)
    assert snapshots(market) == ["live-api-000002.parquet", "live-api-000003.parquet"], "the last and the one before it"


def test_what_a_killed_process_left_is_swept(catalogue, market):
    (market.path / "products").mkdir()
    (market.path / "products" / ".live-api-000001.parquet.x1").touch()
    catalogue.products.upsert([stored("n")])
    taken(market)
    assert snapshots(market) == ["live-api-000001.parquet"]
    assert (market.path / "products" / "live-api-000001.parquet").stat().st_mode & 0o777 == 0o600


def test_files_of_ones_own_are_of_the_table_whatever_their_names(catalogue, market):
    catalogue.products.upsert([stored("n")])
    own = taken(market).path / "products" / "live-2026.parquet"
    pq.write_table(pa.Table.from_pylist([{"product_id": "o", "title": "own"}], schema=PRODUCTS), own)
    assert titles(taken(market))["o"] == "own" and own in taken(market).imported_files("products")


def test_a_market_without_anything_written_stays_as_it_is(catalogue, market):
    assert taken(market).files("products") == [market.path / "products.parquet"]
    seed(catalogue, market)
    assert not (taken(market).path / "products" / "live-api-000001.parquet").exists()


def test_neither_the_catalogue_nor_check_mistakes_it_for_the_import(catalogue, market):
    catalogue.products.upsert([stored("t1", "written")])
    taken(market)
    assert ids_twice(market) == ["t2"], "t1, of the API and of the table, is no mistake"
    catalogue.products.delete("t1")
    seed(catalogue, Market.open(market.path))
    assert catalogue.products.get("t1") is None
    taken(market)
    assert ids_twice(market) == ["t2"], "nor is it where nothing is left of what the API wrote"


def ids_twice(market: Market) -> list[str]:
    found = [problem.why for problem in check(market.path) if problem.column == "product_id"]
    return [why.split("'")[1] for why in found if "is given to an earlier product too" in why]


def mined(market: Market) -> dict:
    done = CliRunner().invoke(app, ["mine", str(market.path), "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_mining_keeps_the_pairs_of_what_the_api_wrote(catalogue, market):
    catalogue.products.upsert([stored("n")])
    log(market, "t1", "n", "stranger")
    report = mined(market)
    assert Market.open(market.path).arrow("pairs")["product_id"].to_pylist() == ["n", "t1"]
    assert (report["products"], report["unknown_products"]) == (2, 1)
    catalogue.products.delete("n")
    assert mined(market)["unknown_products"] == 2


@pytest.mark.parametrize("of_a_log", [False, True])
def test_training_reads_the_catalogue_where_there_is_nothing_to_mine(catalogue, market, monkeypatch, of_a_log):
    """But for a training that is resumed: it goes on with the products that it began with."""
    found = []
    monkeypatch.setattr(training, "train", lambda _, market, run: found.append("n" in titles(market)))
    if of_a_log:
        log(market, "t1")
    catalogue.products.upsert([stored("n")])
    run = market.path / "run"
    partial_folder(run).mkdir()
    for _ in range(2):
        done = CliRunner().invoke(app, ["train", "que2search", "--market", str(market.path), "--out", str(run)])
        assert done.exit_code == 0, done.output
        if partial_folder(run).is_dir():
            Path.rmdir(partial_folder(run))
    assert found == [False, not of_a_log]
