"""The files of logged rows become one an hour and one a day, wherever `kill -9` comes, and go when they are old."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mercato.catalogue.log_mover import LogMover
from mercato.catalogue.tidying import tidy
from mercato.catalogue.worker import IngestionWorker
from mercato.data.live import live_file_name, moved_at, rewriting_lock
from mercato.data.market import Market, MarketConfig, write_market_toml
from mercato.data.schema import EVENTS
from tests.support.served import wait_until

NOW = datetime(2026, 3, 10, 9, 30, tzinfo=UTC)
OURS, OTHERS = "aaaaaaaa", "bbbbbbbb"


def at(day: int, hour: int, minute: int = 0) -> datetime:
    return datetime(2026, 3, day, hour, minute, tzinfo=UTC)


def live(market: Market, first: int, last: int, moved: datetime, catalogue: str = OURS) -> Path:
    """A file of the log's rows FIRST … LAST, which are the sessions of these numbers."""
    rows = [
        {"timestamp": moved - timedelta(seconds=5), "session_id": str(number), "action_name": "click"}
        for number in range(first, last + 1)
    ]
    file = market.path / "events" / live_file_name(catalogue, first, last)
    pq.write_table(pa.Table.from_pylist(rows, schema=EVENTS.with_metadata(moved_at(moved))), file)
    return file


def files(market: Market) -> list[str]:
    return [file.stem.removeprefix("live-") for file in sorted((market.path / "events").glob("live-*"))]


def name(first: int, last: int, catalogue: str = OURS) -> str:
    return Path(live_file_name(catalogue, first, last)).stem.removeprefix("live-")


def sessions(market: Market) -> list[str]:
    return Market.open(market.path).arrow("events")["session_id"].to_pylist()


@pytest.fixture
def market(tmp_path) -> Market:
    (tmp_path / "market" / "events").mkdir(parents=True)
    write_market_toml(tmp_path / "market", MarketConfig())
    return Market.open(tmp_path / "market")


@pytest.fixture
def movers(catalogue, market) -> list[LogMover]:
    return [LogMover(catalogue, market.path, "events")]


def keeping(market: Market, days: int) -> Market:
    write_market_toml(market.path, MarketConfig(retention_days=days))
    return Market.open(market.path)


def test_a_past_day_and_a_past_hour_are_one_file_each(market, movers):
    moments = [at(8, 1), at(8, 23, 59), at(9, 0), at(9, 10), at(10, 8, 1), at(10, 8, 59), at(10, 9, 1), at(10, 9, 2)]
    for number, moved in enumerate(moments, 1):
        live(market, 2 * number - 1, 2 * number, moved)
    before = sessions(market)
    tidy(market, movers, NOW)
    merged = [name(1, 4), name(5, 8), name(9, 12)]
    assert files(market) == [*merged, name(13, 14), name(15, 16)]
    assert sessions(market) == before
    tidy(market, movers, NOW + timedelta(days=1))
    assert files(market) == [*merged[:2], name(9, 16)], "and the hours of a day are one once it is over"
    assert sessions(market) == before
    for file in (market.path / "events").glob("live-*"):
        assert file.stat().st_mode & 0o777 == 0o600 and pq.read_metadata(file).num_row_groups == 1


def test_many_rows_stand_in_groups(market, movers, monkeypatch):
    monkeypatch.setattr("mercato.catalogue.tidying._GROUP", 4)
    for number in range(1, 12, 2):
        live(market, number, number + 1, at(8, 1))
    tidy(market, movers, NOW)
    (file,) = (market.path / "events").glob("live-*")
    assert [pq.read_metadata(file).row_group(group).num_rows for group in range(3)] == [4, 4, 4]
    assert sessions(market) == [str(number) for number in range(1, 13)]


def test_the_files_of_two_catalogues_stay_apart(market, movers):
    for catalogue in (OURS, OTHERS):
        live(market, 1, 1, at(8, 1), catalogue)
        live(market, 2, 2, at(8, 2), catalogue)
    tidy(market, movers, NOW)
    assert files(market) == [name(1, 2, OURS), name(1, 2, OTHERS)] and sessions(market) == ["1", "2", "1", "2"]


def test_a_file_of_an_older_version_counts_as_moved_when_it_was_written(market, movers):
    for number in (1, 2):
        file = live(market, number, number, NOW)
        pq.write_table(pq.read_table(file).replace_schema_metadata(None), file)
    tidy(market, movers, datetime.now(UTC))
    assert len(files(market)) == 2
    tidy(market, movers, datetime.now(UTC) + timedelta(days=1))
    assert files(market) == [name(1, 2)]


def test_a_file_that_cannot_be_read_hinders_no_others(market, movers, caplog):
    live(market, 1, 1, at(7, 1))
    live(market, 2, 2, at(7, 2))
    broken = live(market, 3, 3, at(8, 1))
    broken.write_bytes(broken.read_bytes()[:-20])
    os.utime(broken, (at(8, 1).timestamp(),) * 2)
    live(market, 4, 4, at(8, 2))
    live(market, 5, 5, at(9, 1))
    live(market, 6, 6, at(9, 2))
    tidy(market, movers, NOW)
    assert files(market) == [name(1, 2), name(3, 3), name(4, 4), name(5, 6)]
    assert "2 live files are left as they are: table events: cannot read" in caplog.text


def test_nothing_is_moved_away_under_who_reads(market, movers):
    live(market, 1, 1, at(8, 1))
    live(market, 2, 2, at(8, 2))
    with rewriting_lock(market.path):
        tidy(market, movers, NOW)
        assert len(files(market)) == 2


def test_it_ends_when_it_is_to(market, movers):
    live(market, 1, 1, at(8, 1))
    live(market, 2, 2, at(8, 2))
    tidy(market, movers, NOW, ended=lambda: True)
    assert len(files(market)) == 2


def test_a_server_tidies(catalogue, market):
    live(market, 1, 1, at(8, 1), OTHERS)
    live(market, 2, 2, at(8, 2), OTHERS)
    with IngestionWorker(catalogue, [], market.path, "w"):
        wait_until(lambda: files(market) == [name(1, 2, OTHERS)])


def test_what_is_older_than_the_market_keeps_is_removed(market, movers):
    for day in (5, 6, 7, 8):
        live(market, day, day, at(day, 12))
    live(market, 9, 9, at(10, 8))
    tidy(market, movers, NOW)
    assert sessions(market) == ["5", "6", "7", "8", "9"], "by default nothing is"
    tidy(keeping(market, 3), movers, NOW)
    assert sessions(market) == ["7", "8", "9"]


def test_a_merged_day_is_as_old_as_its_last_rows(market, movers):
    live(market, 1, 1, at(7, 1))
    live(market, 2, 2, at(7, 12))
    tidy(market, movers, NOW)
    tidy(keeping(market, 3), movers, NOW)
    assert sessions(market) == ["1", "2"]
    tidy(keeping(market, 3), movers, NOW + timedelta(hours=3))
    assert not market.has("events")


def test_a_market_keeps_nothing_for_less_than_a_day_and_its_setting_is_read_back(market):
    assert keeping(market, 30).config.retention_days == 30
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        MarketConfig(retention_days=0)


def test_who_dies_at_any_step_leaves_every_row_once(catalogue, market, movers, tmp_path):
    """Real processes, each killed at another of their renames and removals."""
    for number in range(1, 5):
        live(market, number, number, at(8, number))
    live(market, 5, 5, at(9, 1))
    live(market, 6, 6, at(9, 2))
    every = [str(number) for number in range(1, 7)]
    copies = [shutil.copytree(market.path, tmp_path / f"killed-{step}") for step in range(1, 13)]
    command = [sys.executable, "-m", "tests.support.mortal_tidying", NOW.isoformat(), *map(str, copies)]
    ends = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    seen = set()
    for step, (copy, ended) in enumerate(zip(copies, ends, strict=True), 1):
        killed = Market.open(copy)
        assert sessions(killed) == every, f"right after step {step}"
        seen.add(len(files(killed)))
        tidy(killed, [LogMover(catalogue, killed.path, "events")], NOW)
        assert sessions(killed) == every and files(killed) == [name(1, 4), name(5, 6)]
        assert not [*(killed.path / "events").glob(".live-*")], "and nothing that was left half"
        assert ended == ("killed" if step <= 8 else "lived"), "there are two renames and six removals"
    assert max(seen) == 7, "one was killed with a merged file beside all that it holds"


def test_a_mover_takes_the_rows_of_a_merged_file_for_moved(catalogue, market, movers):
    row = {"timestamp": "2026-03-08T01:00:00+00:00", "action_name": "click"}
    catalogue.events.append([row | {"session_id": str(number)} for number in (1, 2, 3)])
    live(market, 1, 2, at(8, 1), catalogue.name)
    movers[0].recover()
    assert [number for number, _ in catalogue.events.oldest(9)] == [3]


def test_who_can_read_the_log_is_its_owner(catalogue, market, movers):
    live(market, 1, 1, at(8, 1)).chmod(0o644)  # as an older version left it
    movers[0].recover()
    catalogue.events.append([{"timestamp": "2026-03-08T01:00:00+00:00", "session_id": "2", "action_name": "click"}])
    movers[0].move()
    assert [file.stat().st_mode & 0o777 for file in (market.path / "events").glob("live-*")] == [0o600, 0o600]
