"""All that one client did leaves the log: imported tables, live files and waiting rows."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from mercato.catalogue import erasure
from mercato.catalogue.erasure import erase
from mercato.catalogue.log_mover import LogMover
from mercato.cli import app
from mercato.data.live import live_file_name, moved_at, when_moved
from mercato.data.market import Market, MarketConfig, write_market_toml
from mercato.data.schema import EVENTS, LISTS, PAIRS
from mercato.errors import MercatoError

TIME = datetime(2026, 3, 8, tzinfo=UTC)


def event(session: str, client: str | None = None, **more: Any) -> dict[str, Any]:
    return {"timestamp": TIME, "session_id": session, "client_id": client, "action_name": "click"} | more


def logged(session: str, client: str | None = None, **more: Any) -> dict[str, Any]:
    return event(session, client, **more) | {"timestamp": TIME.isoformat()}


def features(query_id: str) -> dict[str, Any]:
    return {"query_id": query_id, "product_id": "p", "position": 1, "features": [0.5], "features_version": "1"}


@pytest.fixture
def market(tmp_path) -> Market:
    write_market_toml(tmp_path, MarketConfig())
    return Market.open(tmp_path)


def write(market: Market, rows: list[dict[str, Any]], name: str = "events.parquet", schema=EVENTS) -> None:
    (market.path / name).parent.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), market.path / name)


def sessions(market: Market) -> list[str]:
    return market.arrow("events")["session_id"].to_pylist() if market.has("events") else []


def test_a_clients_events_are_removed_wherever_they_lie(catalogue, market, monkeypatch):
    monkeypatch.setattr(erasure, "_ROWS", 2)
    write(market, [event("a1", "anna"), event("b1", "bo"), event("b2", "bo"), event("a2", "anna"), event("b3")])
    moved = EVENTS.with_metadata(moved_at(TIME))
    file = "events/" + live_file_name("aaaaaaaa", 1, 2)
    write(market, [event("a3", "anna"), event("b4", "bo")], file, moved)
    write(market, [event("a3", "anna")], "events/" + live_file_name("aaaaaaaa", 1, 1), moved)  # a merge was killed
    catalogue.events.append([logged("a4", "anna"), logged("b5", "bo")])
    (market.path / "events.parquet").chmod(0o640)
    (market.path / file).chmod(0o600)

    erased = erase(market, "anna")
    assert (erased.events, erased.features) == (4, 0)
    assert sorted(sessions(market)) == ["b1", "b2", "b3", "b4", "b5"] and not catalogue.events.oldest(1)
    assert len([*(market.path / "events").glob("*.parquet")]) == 2, "what nobody reads any more is gone too"
    assert [(market.path / name).stat().st_mode & 0o777 for name in ("events.parquet", file)] == [0o640, 0o600]
    assert when_moved(market.path / file) == TIME, "and it does not get younger"
    assert erase(market, "anna").events == 0
    assert erase(market, "bo").events == 4 and sessions(market) == ["b3"]


def test_events_without_a_client_go_with_the_session_that_names_it(market):
    write(market, [event("s"), event("s", "anna"), event("s", "bo"), event("t"), event("s", "")])
    write(market, [event("s")], "events/part-1.parquet")
    assert erase(market, "anna").events == 4
    assert market.arrow("events", ["session_id", "client_id"]).to_pylist() == [
        {"session_id": "s", "client_id": "bo"},
        {"session_id": "t", "client_id": None},
    ]


def test_rows_that_a_killed_mover_left_in_the_log_are_not_moved_again(catalogue, market, monkeypatch):
    catalogue.events.append([logged("a", "anna"), logged("b", "bo")])
    with monkeypatch.context() as killed:
        killed.setattr(catalogue.events, "delete", lambda *_: None)
        LogMover(catalogue, market.path, "events").move()
    assert erase(market, "anna").events == 1 and sessions(market) == ["b"]


def test_the_features_of_the_clients_searches_go_too(catalogue, market):
    write(market, [event("a", "anna", query_id="q1"), event("b", "bo", query_id="q2"), event("b", "bo"), event("a")])
    catalogue.features.append([features("q1"), features("q2"), features("q1")])
    assert erase(market, "anna").features == 2
    assert market.arrow("features")["query_id"].to_pylist() == ["q2"]


def test_columns_of_ones_own_and_client_ids_that_are_numbers_are_no_hindrance(market):
    write(market, [event("a"), event("b")])
    table = pq.read_table(market.path / "events.parquet").drop_columns("client_id")
    table = table.append_column("client_id", pa.array([7, 8])).append_column("mine", pa.array(["x", "y"]))
    pq.write_table(table, market.path / "events.parquet")
    assert erase(market, "7").events == 1
    assert pq.read_table(market.path / "events.parquet") == table.slice(1)


def test_what_cannot_be_written_leaves_every_file_as_it_was(market, monkeypatch):
    write(market, [event("a", "anna")])
    write(market, [event("b", "anna")], "events/part-1.parquet")
    writer, written = erasure.pq.ParquetWriter, []

    def full_disk(*given, **named):
        written.append(given)
        if len(written) == 2:
            raise OSError("no space left on device")
        return writer(*given, **named)

    with monkeypatch.context() as patched:
        patched.setattr(erasure.pq, "ParquetWriter", full_disk)
        with pytest.raises(OSError, match="no space"):
            erase(market, "anna")
    assert sessions(market) == ["a", "b"]
    assert sorted(file.name for file in market.path.glob("*events*")) == ["events", "events.parquet"]


def test_a_market_without_events_has_nothing_to_erase(market):
    assert erase(market, "anna").events == 0
    with pytest.raises(MercatoError, match="client_id"):
        erase(market, "")


def test_the_verb_says_how_many_and_what_to_make_anew(market):
    def told(*more: str) -> str:
        done = CliRunner().invoke(app, ["erase", str(market.path), "--client", "anna", *more])
        assert done.exit_code == 0, done.output
        return done.stdout

    write(market, [event("a", "anna"), event("b", "bo")])
    write(market, [], "pairs.parquet", PAIRS)
    write(market, [], "lists.parquet", LISTS)
    first = " ".join(told().split())
    assert "1 events of client anna erased" in first and "pairs, lists (`mercato mine` makes them anew)" in first
    assert "anew" not in told(), "nothing was, that they could tell of"
    assert json.loads(told("--json")) == {
        "client": "anna", "events": 0, "features": 0, "made_before": ["pairs", "lists"],
    }  # fmt: skip
