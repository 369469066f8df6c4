from __future__ import annotations

from threading import Thread

import numpy as np
import pytest

from mercato.catalogue import log_mover
from mercato.catalogue.log_mover import LogMover
from mercato.data.market import Market, MarketConfig, write_market_toml


def event(session: str) -> dict[str, str]:
    return {"timestamp": "2024-06-01T10:00:00+00:00", "session_id": session, "action_name": "click"}


@pytest.fixture
def market(tmp_path) -> Market:
    (tmp_path / "market").mkdir()
    write_market_toml(tmp_path / "market", MarketConfig())
    return Market.open(tmp_path / "market")


def test_events_are_kept_in_order_and_a_number_is_never_used_twice(catalogue):
    catalogue.events.append([event("a"), event("b"), event("c")])
    assert [(number, row["session_id"]) for number, row in catalogue.events.oldest(2)] == [(1, "a"), (2, "b")]
    catalogue.events.delete(1, 3)
    assert catalogue.events.oldest(9) == []
    catalogue.events.append([event("d")])
    assert catalogue.events.oldest(9) == [(4, event("d"))]
    catalogue.events.append([])


def test_files_are_bounded_by_bytes_too(catalogue, market, monkeypatch):
    monkeypatch.setattr(log_mover, "BYTES_PER_FILE", 2_000)
    catalogue.events.append([event("s") | {"user_query": "a" * 950} for _ in range(4)] + [event("s")] * 9)
    mover = LogMover(catalogue, market.path, "events")
    assert [mover.move() for _ in range(4)] == [2, 2, 9, 0]
    catalogue.events.append([event("s") | {"user_query": "a" * 3_000}] * 2)
    assert [mover.move() for _ in range(3)] == [1, 1, 0], "one row, however long, is a file's worth"


def test_an_append_that_fails_leaves_nothing(catalogue):
    with pytest.raises(TypeError):
        catalogue.events.append([event("a"), event("b") | {"position": object()}])
    assert catalogue.events.oldest(9) == []


def test_moved_events_are_in_the_markets_table_and_no_longer_in_the_log(catalogue, market):
    mover = LogMover(catalogue, market.path, "events", rows_per_file=2)
    catalogue.events.append([event(name) for name in "abc"])
    assert [mover.move(), mover.move(), mover.move()] == [2, 1, 0]
    assert sorted(market.frame("events")["session_id"]) == ["a", "b", "c"] and catalogue.events.oldest(9) == []


def test_features_are_moved_to_a_table_of_their_own(catalogue, market):
    """What is unknown is null."""
    features = np.array([0.1, np.nan, 3], np.float32)
    row = {"query_id": "q", "product_id": "p", "position": 1, "features": features, "features_version": "3 run"}
    catalogue.features.append([row])
    assert LogMover(catalogue, market.path, "events").move() == 0
    assert LogMover(catalogue, market.path, "features").move() == 1 and not market.has("events")
    (moved,) = market.arrow("features").to_pylist()
    assert moved == row | {"features": [np.float32(0.1), None, 3], "ranked_by": None, "rank_score": None}


def test_events_that_a_file_already_holds_are_not_moved_again(catalogue, market, monkeypatch):
    """As after a process that was killed between the file and the deletion, and one killed before it named its file."""
    catalogue.events.append([event("a"), event("b")])
    with monkeypatch.context() as killed:
        killed.setattr(catalogue.events, "delete", lambda *_: None)
        LogMover(catalogue, market.path, "events").move()
    catalogue.events.append([event("c")])
    after = LogMover(catalogue, market.path, "events")
    (whole,) = (market.path / "events").glob("live-*")
    whole.with_name(f".{whole.name}.x1").touch()
    after.recover()
    assert not [*(market.path / "events").glob(".live-*")]
    after.move()
    assert sorted(market.frame("events")["session_id"]) == ["a", "b", "c"]


def test_a_mover_waits_for_the_one_that_moves(catalogue, market, monkeypatch):
    """Else both would write the events that both have read."""
    first, second = (LogMover(catalogue, market.path, "events", rows_per_file=2) for _ in range(2))
    catalogue.events.append([event(name) for name in "abc"])
    oldest, other = catalogue.events.oldest, Thread(target=second.move)

    def overtaken(limit: int, *given: float):
        events = oldest(limit, *given)
        if limit == 2 and not other.ident:
            other.start()
            other.join(0.5)  # it cannot end: it waits for the lock
        return events

    with monkeypatch.context() as between:
        between.setattr(catalogue.events, "oldest", overtaken)
        assert first.move() == 2
        other.join()
    assert sorted(market.frame("events")["session_id"]) == ["a", "b", "c"] and first.move() == 0


def test_a_mover_finishes_what_a_killed_one_began(catalogue, market, monkeypatch):
    running = LogMover(catalogue, market.path, "events")
    catalogue.events.append([event("a"), event("b")])
    with monkeypatch.context() as killed:
        killed.setattr(catalogue.events, "delete", lambda *_: None)
        LogMover(catalogue, market.path, "events").move()
    catalogue.events.append([event("c")])
    while running.move():
        pass
    assert sorted(market.frame("events")["session_id"]) == ["a", "b", "c"]
