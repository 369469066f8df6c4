from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from pathlib import Path
from threading import Thread
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mercato.data.checking import Problem, check
from mercato.data.live import rewriting_lock
from mercato.data.market import Engagement, Market, MarketConfig, write_market_toml
from mercato.data.mining import MiningReport, mine
from mercato.data.normalize import normalize
from mercato.data.schema import EVENTS, FEATURES, LISTS, PAIRS, PRODUCTS
from mercato.errors import MercatoError

START = datetime(2026, 1, 1, tzinfo=UTC)
CHAIN = ("search", "click", "message", "seller_reply")
ONE_SESSION = Engagement(min_sessions=1, validation_days=0, future_days=0)
IGNORED = ONE_SESSION.model_copy(update={"left": "ignored"})


def event(hours: float, action: str, product: str | None = None, **more: Any) -> dict[str, Any]:
    row = {"query_id": "q1", "session_id": "s1", "user_query": "lamp", "country": "us"} | more
    return {"timestamp": START + timedelta(hours=hours), "action_name": action, "product_id": product, **row}


def market_of(folder: Path, events: list[dict[str, Any]], engagement: Engagement = ONE_SESSION) -> Market:
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(events, schema=EVENTS), folder / "events.parquet")
    write_market_toml(folder, MarketConfig(engagement=engagement))
    return Market.open(folder)


def mined(folder: Path, events: list[dict[str, Any]], engagement: Engagement = ONE_SESSION) -> list[dict[str, Any]]:
    market = market_of(folder, events, engagement)
    return market.arrow("pairs").to_pylist() if comes_of(market) else []


def comes_of(market: Market) -> bool:
    """Mine; whether anything came of it."""
    try:
        mine(market)
    except MercatoError as error:
        assert "nothing can be mined" in str(error)
        return False
    return True


def labels(rows: list[dict[str, Any]]) -> dict[tuple[str, str], int]:
    return {(row["split"], row["product_id"]): row["label"] for row in rows}


def full_chain(product: str, *, start: float = 0, step: float = 1, **more: Any) -> list[dict[str, Any]]:
    return [
        event(start + step * i, action, None if action == "search" else product, **more)
        for i, action in enumerate(CHAIN)
    ]


def test_mining_waits_for_who_replaces_files_of_the_log_and_sweeps_up_after_the_killed(tmp_path: Path) -> None:
    market = market_of(tmp_path, full_chain("A"))
    (tmp_path / ".lists.parquet.x1").touch()
    mining = Thread(target=mine, args=[market])
    with rewriting_lock(tmp_path):
        mining.start()
        mining.join(0.5)
        assert mining.is_alive() and not market.has("pairs")
    mining.join()
    assert market.has("pairs") and not (tmp_path / ".lists.parquet.x1").exists()


def logged_as(*features: float | None, **more: Any) -> dict[str, Any]:
    row = {"query_id": "q1", "product_id": "A", "position": 1, "features": list(features), "features_version": "3 run"}
    return row | more


def test_lists_have_the_features_that_their_products_were_ordered_by(tmp_path: Path) -> None:
    """By search and product, once though a page was asked for twice, and nothing that leads back to the search."""
    shown = [event(at, "impression", product, position=at) for at, product in ((1, "A"), (2, "B"))]
    other = [row | {"query_id": "q2"} for row in shown]
    market = market_of(tmp_path, [*shown, *other])
    mine(market)
    plain = market.arrow("lists").to_pylist()
    assert "features" not in pq.read_schema(tmp_path / "lists.parquet").names
    rows = [logged_as(0.5, None), logged_as(0.25, 1, position=9), logged_as(2, 3, query_id="q3")]
    pq.write_table(pa.Table.from_pylist(rows, schema=FEATURES), tmp_path / "features.parquet")
    mine(market)
    told = market.arrow("lists").to_pylist()
    assert sorted((row["product_id"], row["features"] or [], row["features_version"] or "") for row in told) == [
        ("A", [], ""), ("A", [0.5, None], "3 run"), ("B", [], ""), ("B", [], ""),
    ]  # fmt: skip
    assert [{**row, "list_id": None} for row in plain] == [
        row | {"list_id": None, "features": None, "features_version": None} for row in told
    ]
    assert {row["list_id"] for row in told if row["features"] is None and row["product_id"] == "A"} < {
        row["list_id"] for row in plain
    }


def test_lists_say_what_the_order_did_not_place(tmp_path: Path) -> None:
    """And are what they were but for that. A product that was pinned and shown again below is a pinned one."""
    shown = [event(at, "impression", product, position=at) for at, product in enumerate("ABCD", 1)]
    again = event(5, "impression", "A", position=9)
    market = market_of(tmp_path, [*shown, again])
    mine(market)
    plain = market.arrow("lists").to_pylist()
    assert "placed_by" not in pq.read_schema(tmp_path / "lists.parquet").names
    placed = [row | {"placed_by": by} for row, by in zip(shown, ("pin", None, "exploration", None), strict=True)]
    mine(market_of(tmp_path, [*placed, again]))
    told = market.arrow("lists").to_pylist()
    assert {row["product_id"]: row["placed_by"] for row in told} == {
        "A": "pin",
        "B": None,
        "C": "exploration",
        "D": None,
    }
    assert [row | {"list_id": None, "placed_by": None} for row in told] == [row | {"list_id": None} for row in plain]
    assert check_errors(tmp_path, "lists") == []
    mine(market_of(tmp_path, [row | {"placed_by": "luck"} for row in shown]))
    assert [problem.column for problem in check_errors(tmp_path, "lists")] == ["placed_by"] * 4


def check_errors(folder: Path, table: str) -> list[Problem]:
    catalogue = [{"product_id": product, "title": "lamp"} for product in "ABCD"]
    pq.write_table(pa.Table.from_pylist(catalogue, schema=PRODUCTS), folder / "products.parquet")
    try:
        return [each for each in check(folder) if each.table == table and each.severity == "error"]
    finally:
        (folder / "products.parquet").unlink()


def test_features_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    market = market_of(tmp_path, full_chain("A"))
    pq.write_table(pa.Table.from_pylist([logged_as(0.5, position="first")]), tmp_path / "features.parquet")
    with pytest.raises(MercatoError, match="table features"):
        mine(market)
    assert not market.has("pairs")


def test_the_whole_chain_is_an_engagement_and_its_row_is_exact(tmp_path: Path) -> None:
    shown = [event(0.5, "impression", "P", position=2), event(0.6, "impression", "P", position=5)]
    rows = mined(tmp_path, [*full_chain("P"), *shown, event(0.7, "impression", "P")])
    assert rows == [
        {
            "query": "lamp",
            "country": "us",
            "product_id": "P",
            "label": 1,
            "weight": 1.0,
            "last_seen": START,  # the day
            "split": "train",
            "grade": None,  # which only judges give
            "impressions": 3,
            "clicks": 1,
            "depth": 3,
            "position": 3.5,
        }
    ]


def test_a_step_missing_out_of_order_or_of_another_product_is_no_engagement(tmp_path: Path) -> None:
    click, message, reply = (event(h, a, "P") for h, a in ((1, "click"), (2, "message"), (3, "seller_reply")))
    search = event(0, "search")
    assert labels(mined(tmp_path, [search, click, message, reply])) == {("train", "P"): 1}
    assert mined(tmp_path, [search, click, reply], IGNORED) == []
    assert mined(tmp_path, [click, message, reply]) == []
    assert mined(tmp_path, [search, click, message, {**reply, "product_id": "Q"}], IGNORED) == []
    assert mined(tmp_path, [search, click, message, {**reply, "query_id": "q2"}], IGNORED) == []
    late = {**message, "timestamp": reply["timestamp"] + timedelta(hours=1)}
    assert mined(tmp_path, [search, click, late, reply], IGNORED) == []
    assert mined(tmp_path, [{**search, "timestamp": START + timedelta(hours=1.5)}, click, message, reply]) == []


def test_the_rows_of_the_file_may_be_in_any_order_and_equal_times_count_as_in_order(tmp_path: Path) -> None:
    assert labels(mined(tmp_path, full_chain("P")[::-1])) == {("train", "P"): 1}
    assert labels(mined(tmp_path, full_chain("P", step=0)[::-1])) == {("train", "P"): 1}


def test_the_window_is_from_first_to_last_step_and_a_later_search_opens_it_anew(tmp_path: Path) -> None:
    slow = [event(0, "search"), event(1, "click", "P"), event(2, "message", "P"), event(25, "seller_reply", "P")]
    assert mined(tmp_path, slow, IGNORED) == []
    exact = [*slow[:3], event(24, "seller_reply", "P")]
    assert labels(mined(tmp_path, exact)) == {("train", "P"): 1}
    again = [*slow, event(10, "search"), event(11, "click", "P"), event(12, "message", "P")]
    assert labels(mined(tmp_path, again)) == {("train", "P"): 1}
    click_too_early = [*slow, event(10, "search"), event(12, "message", "P")]
    assert mined(tmp_path, click_too_early, IGNORED) == []


def test_shown_without_any_step_is_a_negative(tmp_path: Path) -> None:
    log = [event(0, "search"), *(event(0.1, "impression", p) for p in "BC")]
    log += [event(1, "click", "B"), event(2, "message", "B"), event(3, "seller_reply", "B")]
    assert labels(mined(tmp_path, log)) == {("train", "B"): 1, ("train", "C"): 0}


def clicked_and_left(**more: Any) -> list[dict[str, Any]]:
    """One search that engages with E, is shown S, clicks C and writes about M without an answer."""
    log = [*full_chain("E", **more), *(event(0.1, "impression", p, **more) for p in "ESCM")]
    return [*log, event(1, "click", "C", **more), event(2, "click", "M", **more), event(3, "message", "M", **more)]


CLOSING = event(24, "search", user_query="other", query_id="end", session_id="end")  # when the windows have closed


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        ("negative", {"E": (1, None, 3), "S": (0, None, 0), "C": (0, None, 1), "M": (0, None, 2)}),
        ("ignored", {"E": (1, None, 3), "S": (0, None, 0)}),
        ("graded", {"E": (1, 1.0, 3), "S": (0, 0.0, 0), "C": (0, 1 / 3, 1), "M": (0, 2 / 3, 2)}),
    ],
)
def test_what_was_clicked_and_left_is_what_the_market_says(
    tmp_path: Path, left: str, expected: dict[str, tuple[int, float | None, int]]
) -> None:
    rows = mined(tmp_path, [*clicked_and_left(), CLOSING], ONE_SESSION.model_copy(update={"left": left}))
    assert {row["product_id"]: (row["label"], row["grade"], row["depth"]) for row in rows} == expected


def test_a_chain_that_may_still_go_on_when_its_split_ends_is_no_negative(tmp_path: Path) -> None:
    soon = {**CLOSING, "timestamp": CLOSING["timestamp"] - timedelta(seconds=1)}
    assert labels(mined(tmp_path, [*clicked_and_left(), soon])) == {("train", "E"): 1, ("train", "S"): 0}
    # A cut inside the log ends a split as the end of the log does: what comes after it is not known before.
    periods = Engagement(min_sessions=1, validation_days=0, future_days=1)
    for day, told in ((47.9, {"E", "S"}), (48, {"E", "S", "C", "M"})):
        rows = mined(tmp_path, [*clicked_and_left(), event(25, "message", "C"), event(day, "search")], periods)
        assert {row["product_id"] for row in rows if row["split"] == "train"} == told


def test_a_list_tells_what_came_of_it_once_its_window_has_closed(tmp_path: Path) -> None:
    """All of it or nothing: of what was shown shortly before a split ends only successes are known."""
    log = [{**e, "position": 1} for e in clicked_and_left()]
    for hours, told in (
        (24.05, {"E": None, "S": None, "C": None, "M": None}),
        (24.1, {"E": 3, "S": 0, "C": 1, "M": 2}),
    ):
        market = market_of(tmp_path, [*log, event(hours, "search", user_query="other", query_id="end")])
        mine(market)
        lists = market.arrow("lists").to_pylist()
        assert {row["product_id"]: row["depth"] for row in lists} == told, hours


def test_a_list_is_closed_when_what_it_displayed_last_is(tmp_path: Path) -> None:
    """Its second page may have been shown just now."""
    log = [event(0, "search"), event(0.1, "impression", "A", position=1), event(20, "impression", "B", position=2)]
    for hours, told in ((43.9, {None}), (44, {0})):
        market = market_of(tmp_path, [*log, event(hours, "search", user_query="other", query_id="end")])
        mine(market)
        assert {row["depth"] for row in market.arrow("lists").to_pylist()} == told


def test_a_pair_that_one_search_left_is_ignored_though_another_only_saw_it(tmp_path: Path) -> None:
    saw = {"query_id": "q2", "session_id": "s2", "user_query": "lamp"}
    log = [*clicked_and_left(), *(event(2, "impression", p, **saw) for p in "ECS"), event(2, "search", **saw), CLOSING]
    rows = {row["product_id"]: (row["label"], row["depth"]) for row in mined(tmp_path, log, IGNORED)}
    assert rows == {"E": (1, 3), "S": (0, 0)}


def test_a_list_s_time_of_day_is_in_no_table(tmp_path: Path) -> None:
    """Pairs and lists share query, country, product and day: together they tell no more."""
    log = [{**e, "position": 1} for e in clicked_and_left()]
    tables = []
    for late in (0.0, 5.5):
        moved = [{**e, "timestamp": e["timestamp"] + timedelta(hours=late)} for e in log]
        market = market_of(tmp_path, [*moved, event(60, "search", user_query="other", query_id="end")])
        mine(market)
        tables.append((market.arrow("pairs"), market.arrow("lists")))
    assert tables[0] == tables[1] and len(tables[0][1]) == 4


def test_a_chain_that_was_begun_anew_closes_with_its_last_window(tmp_path: Path) -> None:
    shop = Engagement(chain=("click", "purchase"), min_sessions=1, validation_days=0, future_days=0)
    log = [event(0, "click", "P"), event(10, "click", "P")]
    assert mined(tmp_path, [*log, event(33, "search", query_id="end")], shop) == []
    assert labels(mined(tmp_path, [*log, event(34, "search", query_id="end")], shop)) == {("train", "P"): 0}


def test_a_click_in_a_search_that_began_before_the_cut_tells_nothing_after_it(tmp_path: Path) -> None:
    periods = Engagement(min_sessions=1, validation_days=0, future_days=1)
    log = [event(0, "search"), event(0.1, "impression", "P"), event(24.1, "click", "P"), event(48, "search")]
    assert labels(mined(tmp_path, log, periods)) == {("train", "P"): 0}


def test_depth_is_of_one_search_and_counts_are_of_all(tmp_path: Path) -> None:
    log = []
    for number in range(3):
        more = {"query_id": f"q{number}", "session_id": f"s{number}"}
        log += [event(0, "search", **more), event(0.1, "impression", "P", position=2 + number, **more)]
        log += [event(1, "click", "P", **more)] * number  # 0, 1 and 2 clicks
    (row,) = mined(tmp_path, [*log, CLOSING])
    assert (row["label"], row["weight"], row["impressions"], row["clicks"], row["depth"]) == (0, 3.0, 3, 3, 1)
    assert row["position"] == 3.0


def test_weights_count_sessions_and_engaged_wins(tmp_path: Path) -> None:
    log = []
    for session in "abc":
        more = {"query_id": f"q{session}", "session_id": session}
        log += [
            event(0, "search", **more),
            event(0.1, "impression", "P", **more),
            event(0.1, "impression", "N", **more),
        ]
        log += [event(0.2, "impression", "N", **more)]
    log += full_chain("P", query_id="qa", session_id="a") + full_chain("P", start=5, query_id="qa2", session_id="a")
    log += full_chain("P", query_id="qb", session_id="b")
    rows = mined(tmp_path, log)
    assert {(row["product_id"], row["label"], row["weight"]) for row in rows} == {("P", 1, 2.0), ("N", 0, 3.0)}


def test_an_engaged_pair_weighs_and_dates_by_those_who_engaged(tmp_path: Path) -> None:
    log = full_chain("P", query_id="q0", session_id="s0")
    for session in "abc":
        log += [event(10, "impression", "P", query_id=session, session_id=session)]
    (row,) = mined(tmp_path, log)
    assert (row["label"], row["weight"], row["last_seen"]) == (1, 1.0, START)
    assert (row["impressions"], row["depth"]) == (3, 3)


def test_what_a_search_was_for_is_not_told_before_it_is_known(tmp_path: Path) -> None:
    periods = Engagement(min_sessions=1, validation_days=0, future_days=1)
    known = [event(0, "impression", "P"), event(48, "search", user_query="other", query_id="end")]
    later = [event(0, "impression", "Q", query_id="late", user_query=None), event(30, "search", query_id="late")]
    assert labels(mined(tmp_path, [*known, *later], periods)) == {("train", "P"): 0}


def test_queries_are_one_by_their_normal_form_and_countries_apart(tmp_path: Path) -> None:
    log = []
    for number, (query, country) in enumerate([("Ｌamp ", "us"), ("  lamp", "us"), ("LAMP", "mx"), ("lamps", "us")]):
        more = {"query_id": f"q{number}", "session_id": f"s{number}", "user_query": query, "country": country}
        log += [event(0, "search", **more), event(1, "impression", "P", **more)]
    rows = {(row["query"], row["country"]): row["weight"] for row in mined(tmp_path, log)}
    assert rows == {("lamp", "us"): 2.0, ("lamp", "mx"): 1.0, ("lamps", "us"): 1.0}


def test_without_query_ids_the_session_and_the_query_make_the_search(tmp_path: Path) -> None:
    log = full_chain("P", query_id=None)
    assert labels(mined(tmp_path, log)) == {("train", "P"): 1}
    log[2] = {**log[2], "session_id": "another"}
    assert mined(tmp_path, log) == []


def test_the_query_of_a_search_may_be_on_its_first_event_alone(tmp_path: Path) -> None:
    log = [{**row, "user_query": row["user_query"] if i == 0 else None} for i, row in enumerate(full_chain("P"))]
    assert [row["query"] for row in mined(tmp_path, log)] == ["lamp"]


def test_a_shop_has_its_own_chain_and_needs_no_impressions(tmp_path: Path) -> None:
    shop = Engagement(chain=("click", "purchase"), min_sessions=1, validation_days=0, future_days=0)
    log = [event(0, "click", "P"), event(1, "purchase", "P"), event(0, "click", "Q"), event(2, "purchase", "R")]
    rows = mined(tmp_path, log, shop)
    assert labels(rows) == {("train", "P"): 1}
    assert [(row["depth"], row["clicks"], row["impressions"], row["position"]) for row in rows] == [(2, 1, 0, None)]
    assert not (tmp_path / "lists.parquet").exists()
    only = Engagement(chain=("purchase",), min_sessions=1, validation_days=0, future_days=0)
    assert labels(mined(tmp_path, log, only)) == {("train", "P"): 1, ("train", "R"): 1}


def test_a_query_of_too_few_sessions_is_never_mined(tmp_path: Path) -> None:
    floor = Engagement(min_sessions=3, validation_days=0, future_days=0)
    log = []
    for query, sessions in (("secret", ["a", "b", "a", "b"]), ("lamp", ["a", "b", "c"])):
        for number, session in enumerate(sessions):
            log += full_chain("P", user_query=query, query_id=f"{query}{number}", session_id=session)
    market = market_of(tmp_path, log, floor)
    report = mine(market)
    assert market.arrow("pairs")["query"].to_pylist() == ["lamp"]
    assert report.queries_below_floor == 1


def test_an_empty_client_or_country_is_none(tmp_path: Path) -> None:
    """Else a thousand people without an id would be one, and a country without a name a country of its own."""
    log = [event(0, "search", query_id=f"q{n}", session_id=f"s{n}", client_id="", country="") for n in range(3)]
    log += [event(1, "impression", "P", query_id="q0", session_id="s0", client_id="", country="")]
    (row,) = mined(tmp_path, log, ONE_SESSION.model_copy(update={"min_sessions": 3}))
    assert row["country"] is None and row["label"] == 0


def test_a_query_id_that_looks_like_a_session_is_another_search(tmp_path: Path) -> None:
    """Without a query id a search is named by its session and query; an id of the same letters is not it."""
    unnamed = [event(0, "search", query_id=None), event(1, "click", "P", query_id=None)]
    named = [event(2, a, "P", query_id="session 2 s1lamp", session_id="s2") for a in ("message", "seller_reply")]
    assert labels(mined(tmp_path, [*unnamed, *named], IGNORED)) == {}


def test_one_person_of_many_sessions_does_not_pass_the_floor(tmp_path: Path) -> None:
    floor = Engagement(min_sessions=3, validation_days=0, future_days=0)
    log = [e for s in "abc" for e in full_chain("P", query_id=s, session_id=s)]
    assert len(mined(tmp_path, log, floor)) == 1  # three sessions, nobody knows whose
    assert mined(tmp_path, [{**e, "client_id": "anna"} for e in log], floor) == []
    once = [{**e, "client_id": "anna" if e["action_name"] == "click" else None} for e in log]  # on one event of each
    assert mined(tmp_path, once, floor) == []
    assert len(mined(tmp_path, [{**e, "client_id": "of " + e["session_id"]} for e in log], floor)) == 1
    two = [{**e, "client_id": None if e["session_id"] == "c" else "anna"} for e in log]
    assert mined(tmp_path, two, floor) == []  # anna, and session c


def test_the_floor_of_a_split_counts_nobody_who_came_after_its_end(tmp_path: Path) -> None:
    """Two sessions of the future do not make a pair of the one session of the past."""
    floor = Engagement(min_sessions=3, validation_days=1, future_days=1)
    log = [event(0, "search"), event(0.1, "impression", "P", position=1)]
    for number, hours in enumerate((30, 60), start=2):  # the validation day, the future day
        more = {"query_id": f"q{number}", "session_id": f"s{number}"}
        log += [event(hours, "search", **more), event(hours, "impression", "P", position=1, **more)]
    market = market_of(tmp_path, [*log, event(72, "search", query_id="end", user_query="other")], floor)
    report = mine(market)
    for table in ("pairs", "lists"):
        assert market.arrow(table)["split"].to_pylist() == ["future"]
    assert report.queries_below_floor == 1  # the other one


def test_no_trace_of_a_person_is_in_the_tables(tmp_path: Path) -> None:
    log = [*full_chain("P"), event(0.1, "impression", "P", position=1)]
    logged = pa.Table.from_pylist([logged_as(0.5, query_id="of-anna", product_id="P")], schema=FEATURES)
    pq.write_table(logged, tmp_path / "features.parquet")
    mined(tmp_path, [{**e, **dict.fromkeys(("session_id", "query_id", "client_id"), "of-anna")} for e in log])
    assert pq.read_schema(tmp_path / "pairs.parquet").names == [name for name in PAIRS.names if name != "grade"]
    assert pq.read_schema(tmp_path / "lists.parquet").names == [name for name in LISTS.names if name != "placed_by"]
    assert pq.read_table(tmp_path / "lists.parquet")["features"].to_pylist() == [[0.5]]
    for table in ("pairs", "lists"):
        assert b"anna" not in (tmp_path / f"{table}.parquet").read_bytes()


def test_a_list_leads_to_no_session_query_id_or_hour(tmp_path: Path) -> None:
    """Who made which search, under which id and when in the day: other answers give the same rows."""

    def lists(folder: str, sessions: str, ids: str, hours: list[float]) -> pa.Table:
        log = []
        for number, (session, query_id, hour) in enumerate(zip(sessions, ids, hours, strict=True)):
            more = {"session_id": session, "query_id": query_id, "user_query": "lamp" if number < 4 else "chair"}
            log += [event(hour, "search", **more)]
            log += [event(hour, "impression", p, position=i, **more) for i, p in enumerate("ABC"[number % 2 :], 1)]
            log += [event(hour, "click", "B", **more)] * (number == 2)
        market = market_of(tmp_path / folder, [*log, event(80, "search", query_id="end", user_query="other")])
        mine(market)
        return market.arrow("lists")

    table = lists("one", "aabbcc", "123456", [1, 2, 3, 26, 5, 6])
    assert table == lists("other", "cbacba", "654321", [20, 4, 1, 40, 2, 9])
    assert (
        len(table) == 3 + 2 + 3 + 2 + 3 + 2
    )  # the first and the third differ by a click, the second and fourth in day
    rows = table.to_pylist()
    assert {(row["query"], row["day"].day) for row in rows} == {("lamp", 1), ("lamp", 2), ("chair", 1)}
    assert len({row["list_id"] for row in rows}) == 6
    same = lists("same", "abcdef", "123456", [1, 2, 1, 2, 1, 2])  # the second and fourth are alike to a row
    assert len({row["list_id"] for row in same.to_pylist()}) == 6


def test_a_list_is_what_one_search_displayed_each_product_at_its_best_position(tmp_path: Path) -> None:
    log = [event(0, "search"), event(0.1, "impression", "A", position=3), event(0.2, "impression", "A", position=1)]
    log += [event(0.1, "impression", "B", position=2), event(0.1, "impression", "C"), event(1, "click", "D")]
    market = market_of(tmp_path, [*log, *full_chain("B"), event(25, "search", query_id="end")])
    report = mine(market)
    rows = market.arrow("lists").to_pylist()
    assert [(row["product_id"], row["position"], row["depth"]) for row in rows] == [("A", 1, 0), ("B", 2, 3)]
    assert {row["split"] for row in rows} == {"train"}
    assert report.lists == {"train": 1, "validation": 0, "future": 0}


def test_both_tables_are_written_or_neither(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = [*full_chain("P"), event(0.1, "impression", "P", position=1)]
    market = market_of(tmp_path, log)
    mine(market)
    before = {name: (tmp_path / name).read_bytes() for name in ("pairs.parquet", "lists.parquet")}
    market = market_of(tmp_path, [*log, event(0.1, "impression", "Q", position=2)])
    synced: list[int] = []

    def full_at_the_second(file: int) -> None:
        synced.append(file)
        if len(synced) == 2:
            raise OSError("disk full")

    monkeypatch.setattr("mercato.files.os.fsync", full_at_the_second)
    with pytest.raises(OSError, match="disk full"):
        mine(market)
    monkeypatch.undo()
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert len(list(tmp_path.iterdir())) == 5  # these, events, market.toml and the lock: nothing half written is left
    mine(market_of(tmp_path, full_chain("P")))
    assert not (tmp_path / "lists.parquet").exists()  # an earlier log's would tell of another one
    for table in ("pairs", "lists"):
        (tmp_path / table).mkdir()
        with pytest.raises(MercatoError, match=f"is a folder of {table}"):
            mine(market)
        (tmp_path / table).rmdir()


def test_products_that_left_the_catalogue_are_left_out_and_counted(tmp_path: Path) -> None:
    shown = [event(0.1, "impression", "gone", position=1), event(0.1, "impression", "P", position=2)]
    market = market_of(tmp_path, full_chain("P") + full_chain("gone") + shown)
    pq.write_table(pa.table({"product_id": ["P"], "title": ["a lamp"]}), tmp_path / "products.parquet")
    report = mine(market)
    assert market.arrow("pairs")["product_id"].to_pylist() == ["P"]
    assert [(row["product_id"], row["position"]) for row in market.arrow("lists").to_pylist()] == [("P", 2)]
    assert report.unknown_products == 1
    assert report.pairs["train"] == {"engaged": 1, "shown": 0}


def test_splits_are_periods_and_a_chain_across_a_cut_is_none(tmp_path: Path) -> None:
    periods = Engagement(min_sessions=1, validation_days=1, future_days=1)
    day = 24.0
    log = full_chain("T", start=10, query_id="a") + full_chain("V", start=day + 10, query_id="b")
    log += [*full_chain("F", start=2 * day + 10, query_id="c"), event(3 * day, "search", query_id="end")]
    across = full_chain("X", start=day - 1.5, query_id="d")  # the cut is at 24 h: search and click before it
    across += full_chain("W", start=day - 0.5, query_id="f")  # here only the search is before it
    shown_then_clicked = [event(day - 1, "impression", "Y", query_id="e"), event(day + 1, "click", "Y", query_id="e")]
    rows = mined(tmp_path, log + across + shown_then_clicked, periods)
    assert labels(rows) == {("train", "T"): 1, ("validation", "V"): 1, ("future", "F"): 1, ("train", "Y"): 0}


def test_a_log_of_nothing_and_a_missing_log_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(MercatoError, match="no rows"):
        mine(market_of(tmp_path, []))
    (tmp_path / "events.parquet").unlink()
    with pytest.raises(MercatoError, match="no events table"):
        mine(Market.open(tmp_path))


def test_events_of_the_future_are_ignored_and_counted(tmp_path: Path) -> None:
    periods = Engagement(min_sessions=1, validation_days=1, future_days=1)
    log = (
        full_chain("T", query_id="a")
        + full_chain("V", start=34, query_id="b")
        + full_chain("F", start=58, query_id="c")
    )
    stray = {**event(0, "impression", "Z"), "timestamp": datetime(2199, 1, 1, tzinfo=UTC)}
    market = market_of(tmp_path, [*log, stray, {**stray, "timestamp": datetime.now(UTC) + timedelta(days=2)}], periods)
    report = mine(market)
    assert (report.events, report.future_events) == (len(log) + 2, 2)
    assert labels(market.arrow("pairs").to_pylist()) == {("train", "T"): 1, ("validation", "V"): 1, ("future", "F"): 1}
    with pytest.raises(MercatoError, match="future"):
        mine(market_of(tmp_path, [stray]))


def test_the_log_may_be_many_files_of_kindred_types_and_none_other(tmp_path: Path) -> None:
    folder = tmp_path / "shop[1]" / "country=xx"
    folder.mkdir(parents=True)
    market = market_of(folder, full_chain("P")[:2])
    (folder / "events").mkdir()
    rest = pa.Table.from_pylist(full_chain("P")[2:], schema=EVENTS).drop_columns(["latitude", "country"])
    nanoseconds = pa.timestamp("ns", "Europe/Berlin")
    rest = rest.set_column(0, "timestamp", rest["timestamp"].cast(nanoseconds))
    rest = rest.set_column(1, "query_id", rest["query_id"].dictionary_encode())
    pq.write_table(rest, folder / "events" / "more.parquet")
    mine(market)
    assert [(row["country"], row["label"]) for row in market.arrow("pairs").to_pylist()] == [("us", 1)]
    for wrong, why in ((pa.array([True, True]), "bool"), (pa.array(["soon", "late"]), "timestamp")):
        pq.write_table(rest.set_column(0, "timestamp", wrong), folder / "events" / "more.parquet")
        with pytest.raises(MercatoError, match=why):
            mine(market)
    pq.write_table(rest.drop_columns(["session_id"]), folder / "events" / "more.parquet")
    with pytest.raises(MercatoError, match="session_id: missing from more"):
        mine(market)


def test_the_report_counts_what_was_written(tmp_path: Path) -> None:
    report = mine(market_of(tmp_path, [*clicked_and_left(), CLOSING]))
    assert isinstance(report, MiningReport)
    assert (report.events, report.queries, report.products) == (12, 1, 4)
    assert report.pairs == {
        "train": {"engaged": 1, "shown": 3},
        "validation": {"engaged": 0, "shown": 0},
        "future": {"engaged": 0, "shown": 0},
    }
    assert report.left == {"train": 2, "validation": 0, "future": 0}
    assert {"left", "lists", "pairs"} <= report.as_dict().keys()


# ------------------------------------------------------------- against a slow reference, on random logs


Rows = list[tuple[Any, ...]]


def reference(events: list[dict[str, Any]], engagement: Engagement) -> tuple[Rows, Rows]:
    """Mining as its docstring says it, in loops: one search, one product, one choice of start at a time."""
    last = max(e["timestamp"] for e in events)
    held_out = engagement.future_days + engagement.validation_days
    ends = (last - days_with_events(events, held_out), last - days_with_events(events, engagement.future_days), last)
    window = timedelta(hours=engagement.window_hours)
    period = {id(e): min(p for p in range(3) if e["timestamp"] <= ends[p]) for e in events}
    searches: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    clients: dict[str, tuple[int, str]] = {}
    networks: dict[Any, tuple[int, str]] = {}
    own_clients: dict[Any, tuple[int, str]] = {}
    events = sorted(events, key=lambda e: e["timestamp"])
    for e in events:
        if key := belongs_to(e, events, engagement):
            searches[key].append(e)
            stranger = e["network"] and e["received"] in ("signed", "unsigned")
            if e["client_id"]:
                of = own_clients if stranger else clients
                of.setdefault(key if stranger else e["session_id"], (period[id(e)], e["client_id"]))
            if stranger:
                networks.setdefault(key, (period[id(e)], e["network"]))
    asked = {key: list(rows) for key, rows in searches.items()}
    borrowers = set()
    for (query_id, session), rows in searches.items():
        own = {period[id(e)] for e in rows if e["user_query"]}
        if period[id(rows[0])] not in own and (record := record_of(query_id, rows, asked)):
            borrowers.add((query_id, session))
            known = period[id(record)]
            record = {
                **record,
                "client_id": None,
                "action_name": None if record["product_id"] else record["action_name"],
            }
            record |= {"session_id": session, "product_id": None}
            period[id(record)] = known
            rows.append(record)
            rows.sort(key=lambda e: e["timestamp"])
    again = repeated(searches, networks, period)
    made, outcomes, lists = defaultdict(list), defaultdict(list), defaultdict(list)
    for number, (search, rows) in enumerate(searches.items()):
        session = rows[0]["session_id"]
        texts = [(e["timestamp"], normalize(e["user_query"]), period[id(e)]) for e in rows if e["user_query"]]
        for now in range(3):
            here = [e for e in rows if period[id(e)] == now]
            known = [text for text in texts if text[2] <= now]
            if not known:
                continue
            query = min(known)[1]
            person = ("session", session)
            for of, name in ((own_clients, search), (clients, session)):
                if of.get(name, (3,))[0] <= now:
                    person = ("client", of[name][1])
            network = networks[search][1] if networks.get(search, (3,))[0] <= now else None
            if search not in borrowers:
                made[query, now].append((person, network, asked_of(search)))
            places = [(e["timestamp"], e["country"]) for e in rows if e["country"] and period[id(e)] <= now]
            key = (now, query, min(places)[1] if places else None)
            for product in {e["product_id"] for e in here} - {None}:
                own = [e for e in here if e["product_id"] == product]
                shown = [e for e in own if e["action_name"] == "impression"]
                stepped = any(e["action_name"] in engagement.steps for e in own)
                walks = walked(here, product, engagement)
                depth, at = max(((depth, time) for _, depth, time in walks), default=(None, None))
                begun = max((start for start, _, _ in walks), default=None)
                if not stepped:
                    if not shown:
                        continue
                    depth, at = 0, shown[-1]["timestamp"]
                elif begun is None or (depth < len(engagement.steps) and begun + window > ends[now]):
                    depth = None
                voice = (person, at and person[0] == "client" and at.date())
                counted = again.get(search, 3) > now
                outcomes[*key, product].append(((voice, network, asked_of(search)), depth, stepped, at, own, counted))
                positions = [e["position"] for e in shown if e["position"] is not None]
                if positions and counted:
                    times = (shown[0]["timestamp"], shown[-1]["timestamp"])
                    lists[number, *key].append((product, min(positions), depth, times))
    splits, enough = ("train", "validation", "future"), engagement.min_sessions
    pairs = [
        (splits[now], query, country, product, *pair)
        for (now, query, country, product), seen in outcomes.items()
        if people(made[query, now]) >= enough and (pair := one_pair(seen, engagement))
    ]
    displayed = [
        (splits[now], query, country, *one_list(rows, ends[now] - window))
        for (_, now, query, country), rows in lists.items()
        if people(made[query, now]) >= enough
    ]
    return sorted(pairs, key=repr), sorted(displayed, key=repr)


def named(e: dict[str, Any]) -> tuple[Any, Any] | None:
    """The search that an event names: a query id in a session, or a text in a session."""
    if e["query_id"]:
        return e["query_id"], e["session_id"]
    query = normalize(e["user_query"] or "")
    return (("text", query), e["session_id"]) if query else None


def belongs_to(e: dict[str, Any], events: list[dict[str, Any]], engagement: Engagement) -> tuple[Any, Any] | None:
    """The search of an event: that of its session's last click on its product, where it is a step without query id."""
    own, window = named(e), timedelta(hours=engagement.attribution_hours)
    later = e["action_name"] in engagement.steps and e["action_name"] != "click"
    if e["query_id"] or not e["product_id"] or not later or not window:
        return own
    clicks = [
        named(c)
        for c in events
        if (c["session_id"], c["product_id"]) == (e["session_id"], e["product_id"])
        and c["action_name"] in ("click", engagement.steps[0])
        and e["timestamp"] - window <= c["timestamp"] <= e["timestamp"]
        and named(c)
    ]
    return own if own in clicks or not clicks else clicks[-1]


def record_of(
    query_id: Any, rows: list[dict[str, Any]], asked: dict[Any, list[dict[str, Any]]]
) -> dict[str, Any] | None:
    """What tells the text of a query id whose own session does not: the last record before the session's events."""
    records = [e for (of, _), those in asked.items() if of == query_id for e in those if e["user_query"]]
    before = [e for e in records if e["timestamp"] <= rows[0]["timestamp"]]
    before = [e for e in before if not e["product_id"]] or before
    when = itemgetter("timestamp")
    return max(before, key=when) if before else min(records, key=when, default=None)


def one_list(rows: list[tuple[Any, ...]], told_until: datetime) -> tuple[Any, ...]:
    """The day of a list and its (product, position, depth), the latter where the list's window has closed."""
    first, last = min(first for *_, (first, _) in rows), max(last for *_, (_, last) in rows)
    return first.date(), sorted(((*row, depth if last <= told_until else None) for *row, depth, _ in rows), key=repr)


def repeated(
    searches: dict[Any, list[dict[str, Any]]], networks: dict[Any, tuple[int, str]], period: dict[int, int]
) -> dict[Any, int]:
    """The searches of networks that are not the first with products of their query id, or query; and from when on."""
    strangers = []
    for search, (known, network) in networks.items():
        texts = [
            (e["timestamp"], normalize(e["user_query"]), period[id(e)]) for e in searches[search] if e["user_query"]
        ]
        shown = [period[id(e)] for e in searches[search] if e["product_id"]]
        if texts and shown:
            known = max(known, min(text[2] for text in texts), min(shown))
            strangers.append((known, min(e["timestamp"] for e in searches[search]), search, network, min(texts)[1]))
    again: dict[Any, int] = {}
    seen: set[Any] = set()
    for known, _, search, network, query in sorted(strangers, key=lambda each: each[:2]):
        names = {("asked", asked_of(search)), (network, query)}
        if names & seen:
            again[search] = known
        seen |= names
    return again


def asked_of(search: tuple[Any, Any]) -> Any:
    """The query id of a search; the search itself where it has none."""
    return search[0] if isinstance(search[0], str) else search


def people(known: list[tuple[Any, str | None, Any]]) -> int:
    """How many they are: those of networks no more than there are networks, and than query ids."""
    named, strangers = {who for who, network, _ in known if not network}, [each for each in known if each[1]]
    of_strangers = min((len({*column}) for column in zip(*strangers, strict=True)), default=0)
    return min(len({who for who, *_ in known}), len(named) + of_strangers)


def days_with_events(events: list[dict[str, Any]], wanted: int) -> timedelta:
    """How long before the last event so many days begin; those that are next to empty count together."""
    last, begun, pooled = max(e["timestamp"] for e in events), 0, 0
    sessions = defaultdict(set)
    for e in events:
        stranger = e["network"] and e["received"] in ("signed", "unsigned")
        sessions[(last - e["timestamp"]).days].add((stranger, e["network"] if stranger else e["session_id"]))
    usual = sorted(map(len, sessions.values()))[(len(sessions) - 1) // 2]
    while wanted:
        pooled += len(sessions.get(begun, ()))
        begun += 1
        if pooled * 10 >= usual or begun > max(sessions) + 1:
            wanted, pooled = wanted - 1, 0
    return timedelta(days=begun)


def one_pair(seen: list[tuple[Any, ...]], engagement: Engagement) -> tuple[Any, ...] | None:
    """label, weight, last_seen, grade, impressions, clicks, depth and position of what all searches did."""
    steps, labelled = len(engagement.steps), []
    click = "click" if "click" in engagement.chain else engagement.steps[0]
    for whose, depth, stepped, at, _, counted in seen:
        if depth == steps:
            labelled.append((1, whose, at))
        elif counted and depth is not None and not (stepped and engagement.left == "ignored"):
            labelled.append((0, whose, at))
    if not labelled:
        return None
    label = max(got for got, *_ in labelled)
    if engagement.left == "ignored" and any(depth and depth < steps for _, depth, *_ in seen) and not label:
        return None
    shown, clicked, places = 0, 0, []
    for (_, network, _), *_, events, counted in seen:
        impressions = [e for e in events if e["action_name"] == "impression"]
        clicks = sum(e["action_name"] == click for e in events)
        positions = [e["position"] for e in impressions if e["position"] is not None]
        if counted and network:  # a stranger shows and clicks once
            shown, clicked, places = shown + bool(impressions), clicked + bool(clicks), places + sorted(positions)[:1]
        elif counted:
            shown, clicked, places = shown + len(impressions), clicked + clicks, places + positions
    depth = max(depth for _, depth, *_ in seen if depth is not None)
    return (
        label,
        float(people([whose for got, whose, _ in labelled if got == label])),
        max(at for got, _, at in labelled if got == label).replace(hour=0, minute=0, second=0, microsecond=0),
        depth / steps if engagement.left == "graded" else None,
        shown,
        clicked,
        depth,
        sum(places) / len(places) if places else None,
    )


def walked(here: list[dict[str, Any]], product: str, engagement: Engagement) -> list[tuple[datetime, int, datetime]]:
    """(start, depth, time) of every step that is in order and in the window, from every start."""
    found = []
    for start in here:
        if start["action_name"] != engagement.chain[0] or start["product_id"] not in (None, product):
            continue
        reached = [start]
        for number, action in enumerate(engagement.chain):
            if number:
                first = min(e["timestamp"] for e in reached)
                reached = [e for e in here if e["action_name"] == action and e["product_id"] == product]
                reached = [e for e in reached if e["timestamp"] >= first]
            if not reached:
                break
            depth = sum(step in engagement.steps for step in engagement.chain[: number + 1])
            times = [e["timestamp"] for e in reached if e["product_id"] == product and depth]
            window = timedelta(hours=engagement.window_hours)
            found += [(start["timestamp"], depth, t) for t in times if t - start["timestamp"] <= window]
    return found


ROW = st.fixed_dictionaries(  # the commoner values are written twice, so that chains come about
    {
        "timestamp": st.integers(0, 18).map(lambda step: START + timedelta(hours=4 * step)),
        "query_id": st.sampled_from(["q1", "q1", "q2", None]),
        "session_id": st.sampled_from(["s1", "s1", "s2"]),
        "client_id": st.sampled_from([None, None, "c1", "c2"]),
        "action_name": st.sampled_from(["search", "impression", "click", "click", "purchase", "purchase", "hover"]),
        "user_query": st.sampled_from(["lamp", "lamp", "LAMP ", "chair", None]),
        "product_id": st.sampled_from(["A", "A", "B", None]),
        "position": st.sampled_from([1, 2, 7, None]),
        "country": st.sampled_from(["us", None]),
        "network": st.sampled_from([None, None, "n1", "n2"]),
        "received": st.sampled_from(["signed", "signed", "key"]),
    }
)
ENGAGEMENT = st.builds(
    Engagement,
    chain=st.sampled_from(
        [
            *(("search", "click", "purchase"), ("click", "purchase"), ("purchase",), ("search", "click")),
            ("search", "impression", "click"),
        ]
    ),
    left=st.sampled_from(["negative", "ignored", "graded"]),
    window_hours=st.sampled_from([4.0, 24.0]),
    attribution_window_hours=st.sampled_from([None, None, 0, 8.0]),
    min_sessions=st.integers(1, 2),
    validation_days=st.integers(0, 2),
    future_days=st.integers(0, 2),
)
wild = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def distinct_first_words(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give events distinct times, so that which event of a search is first is not a matter of a tie."""
    return [{**e, "timestamp": e["timestamp"] + timedelta(seconds=i)} for i, e in enumerate(events)]


@wild
@given(events=st.lists(ROW, min_size=4, max_size=24).map(distinct_first_words), engagement=ENGAGEMENT)
def test_mining_is_what_its_slow_reference_says(
    tmp_path: Path, events: list[dict[str, Any]], engagement: Engagement
) -> None:
    market = market_of(tmp_path, events, engagement)
    pairs, lists = reference(events, engagement)
    if not comes_of(market):
        assert (pairs, lists) == ([], [])
        return
    order = ("split", "query", "country", "product_id", "label", "weight", "last_seen", "grade")
    order += ("impressions", "clicks", "depth", "position")
    rows = market.arrow("pairs").to_pylist()
    assert sorted((tuple(row[name] for name in order) for row in rows), key=repr) == pairs
    displayed = defaultdict(list)
    for row in market.arrow("lists").to_pylist() if market.has("lists") else ():
        key = tuple(row[name] for name in ("list_id", "split", "query", "country", "day"))
        displayed[key].append(tuple(row[name] for name in ("product_id", "position", "depth")))
    assert sorted(((*key[1:], sorted(rows, key=repr)) for key, rows in displayed.items()), key=repr) == lists


@wild
@given(events=st.lists(ROW, min_size=4, max_size=24).map(distinct_first_words))
def test_no_pair_of_a_split_knows_what_came_after_it(tmp_path: Path, events: list[dict[str, Any]]) -> None:
    """Rewriting all that happened after the train cut leaves the train pairs as they were."""
    chain = ("search", "click", "purchase")
    periods = Engagement(chain=chain, window_hours=12, min_sessions=2, validation_days=1, future_days=1)
    end = START + timedelta(days=4)
    cut = end - timedelta(days=2)
    closing = [event(hour, "search", query_id="end", session_id="end") for hour in (4 * 24, 4 * 24 - 1, 3 * 24 - 1) * 3]
    before = [e for e in events if e["timestamp"] <= cut]
    tables = []
    for log in ([*events, *closing], [*before, *closing]):
        market = market_of(tmp_path, log, periods)
        found = comes_of(market)
        names = [name for name in ("pairs", "lists") if found and market.has(name)]
        tables += [{name: market.arrow(name).to_pylist() for name in names}]
    for name in ("pairs", "lists"):
        whole, past = ([row for row in table.get(name, []) if row["split"] == "train"] for table in tables)
        assert whole == past
    for row in tables[0].get("pairs", ()):
        assert row["last_seen"] <= cut if row["split"] == "train" else row["last_seen"] >= cut
