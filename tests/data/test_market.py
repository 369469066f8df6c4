from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mercato.data.market import Engagement, Market, MarketConfig, write_market_toml
from mercato.data.schema import JUDGMENTS, PRODUCTS, TABLES
from mercato.errors import MercatoError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_market_toml(
        tmp_path, MarketConfig(name="Test", currency="EUR", engagement=Engagement(chain=("click", "purchase")))
    )
    pq.write_table(
        pa.table({"product_id": ["1", "2"], "title": ["lamp", "chair"], "price": [1, 2]}), tmp_path / "products.parquet"
    )
    return tmp_path


def test_the_settings_come_back_as_written(folder: Path) -> None:
    config = Market.open(folder).config
    assert (config.name, config.currency, config.engagement.chain) == ("Test", "EUR", ("click", "purchase"))
    assert config.engagement.window_hours == 24


def test_tables_come_in_their_schema_absent_columns_as_nulls(folder: Path) -> None:
    market = Market.open(folder)
    table = market.arrow("products")
    assert table.schema == PRODUCTS
    assert table["price"].to_pylist() == [1.0, 2.0]
    assert table["images"].null_count == 2
    assert market.arrow("products", ["title"]).column_names == ["title"]
    assert market.frame("products")["title"].to_list() == ["lamp", "chair"]


def test_a_table_may_be_a_folder_of_files(folder: Path) -> None:
    (folder / "judgments").mkdir()
    for number in (2, 1):
        rows = [{"query": f"q{number}", "product_id": "1", "grade": 1.0}]
        pq.write_table(pa.Table.from_pylist(rows), folder / "judgments" / f"{number}.parquet")
    market = Market.open(folder)
    assert market.has("judgments") and not market.has("events")
    assert market.arrow("judgments").schema == JUDGMENTS
    assert market.arrow("judgments")["query"].to_pylist() == ["q1", "q2"]


def test_what_is_missing_or_wrong_is_named(folder: Path) -> None:
    market = Market.open(folder)
    with pytest.raises(MercatoError, match="no events table"):
        market.arrow("events")
    pq.write_table(pa.table({"query": ["q"], "product_id": ["1"]}), folder / "judgments.parquet")
    with pytest.raises(MercatoError, match="table judgments, column grade: missing"):
        market.arrow("judgments")
    pq.write_table(pa.table({"query": ["q"], "product_id": ["1"], "grade": ["high"]}), folder / "judgments.parquet")
    with pytest.raises(MercatoError, match="table judgments, column grade: is string"):
        market.arrow("judgments")
    (folder / "judgments.parquet").write_bytes(b"PAR1")
    with pytest.raises(MercatoError, match="table judgments: cannot read"):
        market.arrow("judgments")


@pytest.mark.parametrize(
    ("toml", "why"),
    [
        ("name =", "not valid TOML"),
        ("curency = 'EUR'", "curency"),
        ("[engagement]\nchain = []", "engagement.chain"),
        ("[engagement]\nchain = ['click', 'click']", "twice"),
        ("[engagement]\nchain = ['search']", "no step that a searcher takes"),
        ("[engagement]\nmin_sessions = 0", "engagement.min_sessions"),
        ("[engagement]\nleft = 'positive'", "engagement.left"),
    ],
)
def test_wrong_settings_are_named(folder: Path, toml: str, why: str) -> None:
    (folder / "market.toml").write_text(toml)
    with pytest.raises(MercatoError, match=why):
        Market.open(folder)


def test_the_fingerprint_changes_with_the_data_only(folder: Path) -> None:
    before = Market.open(folder).fingerprint()
    (folder / "notes.txt").write_text("not a table")
    assert Market.open(folder).fingerprint() == before
    pq.write_table(pa.table({"product_id": ["1"], "title": ["lamp"]}), folder / "products.parquet")
    assert Market.open(folder).fingerprint() != before


def test_what_a_server_logs_is_not_of_the_fingerprint(folder: Path) -> None:
    """Nothing that learns reads it, and a training is resumed while a server logs."""
    before = Market.open(folder).fingerprint()
    for table in ("events", "features"):
        pq.write_table(pa.table({"query_id": ["1"]}), folder / f"{table}.parquet")
    assert Market.open(folder).fingerprint() == before


def test_of_live_files_those_whose_rows_another_one_holds_are_not_read(folder: Path) -> None:
    names = ["aa-2-3", "aa-1-4", "aa-4-4", "aa-5-6", "bb-1-2", "aa-1-3"]
    (folder / "events").mkdir()
    for name in [*(f"live-{name}.parquet" for name in names), "part-1.parquet", "live-of-mine.parquet"]:
        (folder / "events" / name).touch()
    read = [file.stem for file in Market.open(folder).files("events")]
    assert read == ["live-aa-1-4", "live-aa-5-6", "live-bb-1-2", "live-of-mine", "part-1"]


def test_every_table_has_a_schema_and_what_it_requires() -> None:
    assert list(TABLES) == ["products", "events", "judgments", "pairs", "lists", "features", "intents"]
