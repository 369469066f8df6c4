from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mercato.data.market import Engagement, Market, MarketConfig, write_market_toml
from mercato.data.mining import MiningReport, mine
from mercato.data.normalize import normalize
from mercato.data.schema import EVENTS, PAIRS
from mercato.errors import MercatoError

START = datetime(2026, 1, 1, tzinfo=UTC)
CHAIN = ("search", "click", "message", "seller_reply")
ONE_SESSION = Engagement(min_sessions=1, validation_days=0, future_days=0)


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
    mine(market)
    return market.arrow("pairs").to_pylist()


def labels(rows: list[dict[str, Any]]) -> dict[tuple[str, str], int]:
    return {(row["split"], row["product_id"]): row["label"] for row in rows}


def full_chain(product: str, *, start: float = 0, step: float = 1, **more: Any) -> list[dict[str, Any]]:
    return [
        event(start + step * i, action, None if action == "search" else product, **more)
        for i, action in enumerate(CHAIN)
    ]


def test_the_whole_chain_is_an_engagement_and_its_row_is_exact(tmp_path: Path) -> None:
    rows = mined(tmp_path, [*full_chain("P"), event(0.5, "impression", "P")])
    assert rows == [
        {
            "query": "lamp",
            "country": "us",
            "product_id": "P",
            "label": 1,
            "weight": 1.0,
            "last_seen": START + timedelta(hours=3),
            "split": "train",
            "grade": None,  # which only judges give
        }
    ]


def test_a_step_missing_out_of_order_or_of_another_product_is_no_engagement(tmp_path: Path) -> None:
    click, message, reply = (event(h, a, "P") for h, a in ((1, "click"), (2, "message"), (3, "seller_reply")))
    search = event(0, "search")
    assert labels(mined(tmp_path, [search, click, message, reply])) == {("train", "P"): 1}
    assert mined(tmp_path, [search, click, reply]) == []
    assert mined(tmp_path, [click, message, reply]) == []
    assert mined(tmp_path, [search, click, message, {**reply, "product_id": "Q"}]) == []
    assert mined(tmp_path, [search, click, message, {**reply, "query_id": "q2"}]) == []
    assert (
        mined(tmp_path, [search, click, {**message, "timestamp": reply["timestamp"] + timedelta(hours=1)}, reply]) == []
    )
    assert mined(tmp_path, [{**search, "timestamp": START + timedelta(hours=1.5)}, click, message, reply]) == []


def test_the_rows_of_the_file_may_be_in_any_order_and_equal_times_count_as_in_order(tmp_path: Path) -> None:
    assert labels(mined(tmp_path, full_chain("P")[::-1])) == {("train", "P"): 1}
    assert labels(mined(tmp_path, full_chain("P", step=0)[::-1])) == {("train", "P"): 1}


def test_the_window_is_from_first_to_last_step_and_a_later_search_opens_it_anew(tmp_path: Path) -> None:
    slow = [event(0, "search"), event(1, "click", "P"), event(2, "message", "P"), event(25, "seller_reply", "P")]
    assert mined(tmp_path, slow) == []
    exact = [*slow[:3], event(24, "seller_reply", "P")]
    assert labels(mined(tmp_path, exact)) == {("train", "P"): 1}
    again = [*slow, event(10, "search"), event(11, "click", "P"), event(12, "message", "P")]
    assert labels(mined(tmp_path, again)) == {("train", "P"): 1}
    click_too_early = [*slow, event(10, "search"), event(12, "message", "P")]
    assert mined(tmp_path, click_too_early) == []


def test_shown_without_any_step_is_a_negative_and_a_click_alone_is_nothing(tmp_path: Path) -> None:
    log = [event(0, "search"), *(event(0.1, "impression", p) for p in "ABC"), event(1, "click", "A")]
    log += [event(1, "click", "B"), event(2, "message", "B"), event(3, "seller_reply", "B")]
    assert labels(mined(tmp_path, log)) == {("train", "B"): 1, ("train", "C"): 0}


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
    assert labels(mined(tmp_path, log, shop)) == {("train", "P"): 1}
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


def test_no_trace_of_a_person_is_in_the_pairs(tmp_path: Path) -> None:
    mined(tmp_path, full_chain("P", session_id="session-of-anna", query_id="query-of-anna"))
    assert pq.read_schema(tmp_path / "pairs.parquet").names == [name for name in PAIRS.names if name != "grade"]
    assert b"anna" not in (tmp_path / "pairs.parquet").read_bytes()


def test_products_that_left_the_catalogue_are_left_out_and_counted(tmp_path: Path) -> None:
    market = market_of(tmp_path, full_chain("P") + full_chain("gone"))
    pq.write_table(pa.table({"product_id": ["P"], "title": ["a lamp"]}), tmp_path / "products.parquet")
    report = mine(market)
    assert market.arrow("pairs")["product_id"].to_pylist() == ["P"]
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
    report = mine(market_of(tmp_path, [*full_chain("P"), event(0, "impression", "N")]))
    assert isinstance(report, MiningReport)
    assert (report.events, report.queries, report.products) == (5, 1, 2)
    assert report.pairs == {
        "train": {"engaged": 1, "shown": 1},
        "validation": {"engaged": 0, "shown": 0},
        "future": {"engaged": 0, "shown": 0},
    }


# ------------------------------------------------------------- against a slow reference, on random logs


def reference(events: list[dict[str, Any]], engagement: Engagement) -> list[tuple[Any, ...]]:
    """Mining as its docstring says it, in loops: one search, one product, one choice of start at a time."""
    last = max(e["timestamp"] for e in events)
    future = last - timedelta(days=engagement.future_days)
    validation = future - timedelta(days=engagement.validation_days)
    period = {id(e): 2 if e["timestamp"] > future else 1 if e["timestamp"] > validation else 0 for e in events}
    searches: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for e in sorted(events, key=lambda e: (e["timestamp"], e["session_id"])):
        query = normalize(e["user_query"] or "")
        if e["query_id"] or query:
            searches[e["query_id"] or (e["session_id"], query)].append(e)
    made, outcomes = defaultdict(set), defaultdict(set)
    for rows in searches.values():
        texts = [(e["timestamp"], normalize(e["user_query"]), period[id(e)]) for e in rows if e["user_query"]]
        if texts:
            made[min(texts)[1]].add(rows[0]["session_id"])
        for now in range(3):
            here = [e for e in rows if period[id(e)] == now]
            known = [text for text in texts if text[2] <= now]
            if not known:
                continue
            places = [(e["timestamp"], e["country"]) for e in rows if e["country"] and period[id(e)] <= now]
            key = (now, min(known)[1], min(places)[1] if places else None)
            for product in {e["product_id"] for e in here} - {None}:
                own = [e for e in here if e["product_id"] == product]
                ends = chain_ends(here, product, engagement)
                if ends:
                    outcomes[*key, product, 1].add((rows[0]["session_id"], max(ends)))
                elif not any(e["action_name"] in engagement.chain for e in own):
                    shown = [e["timestamp"] for e in own if e["action_name"] == "impression"]
                    if shown:
                        outcomes[*key, product, 0].add((rows[0]["session_id"], max(shown)))
    return sorted(
        (
            (
                *(("train", "validation", "future")[now], query, country, product, label),
                *(float(len({session for session, _ in seen})), max(time for _, time in seen)),
            )
            for (now, query, country, product, label), seen in outcomes.items()
            if len(made[query]) >= engagement.min_sessions
            and not (label == 0 and (now, query, country, product, 1) in outcomes)
        ),
        key=repr,
    )


def chain_ends(here: list[dict[str, Any]], product: str, engagement: Engagement) -> list[datetime]:
    chain, ends = engagement.chain, []
    for start in here:
        if start["action_name"] != chain[0] or start["product_id"] not in (None, product):
            continue
        if len(chain) == 1 and start["product_id"] is None:
            continue
        times = [start["timestamp"]]
        reached = [start["timestamp"]]
        for action in chain[1:]:
            reached = [
                e["timestamp"]
                for e in here
                if e["action_name"] == action and e["product_id"] == product and e["timestamp"] >= min(reached)
            ]
            if not reached:
                break
        else:
            ends += [time for time in reached if time - times[0] <= timedelta(hours=engagement.window_hours)]
    return ends


ROW = st.fixed_dictionaries(  # the commoner values are written twice, so that chains come about
    {
        "timestamp": st.integers(0, 18).map(lambda step: START + timedelta(hours=4 * step)),
        "query_id": st.sampled_from(["q1", "q1", "q2", None]),
        "session_id": st.sampled_from(["s1", "s1", "s2"]),
        "action_name": st.sampled_from(["search", "impression", "click", "click", "purchase", "purchase", "hover"]),
        "user_query": st.sampled_from(["lamp", "lamp", "LAMP ", "chair", None]),
        "product_id": st.sampled_from(["A", "A", "B", None]),
        "country": st.sampled_from(["us", None]),
    }
)
ENGAGEMENT = st.builds(
    Engagement,
    chain=st.sampled_from([("search", "click", "purchase"), ("click", "purchase"), ("purchase",), ("search", "click")]),
    window_hours=st.sampled_from([4.0, 24.0]),
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
    rows = mined(tmp_path, events, engagement)
    order = ("split", "query", "country", "product_id", "label", "weight", "last_seen")
    assert sorted((tuple(row[name] for name in order) for row in rows), key=repr) == reference(events, engagement)


@wild
@given(events=st.lists(ROW, min_size=4, max_size=24).map(distinct_first_words))
def test_no_pair_of_a_split_knows_what_came_after_it(tmp_path: Path, events: list[dict[str, Any]]) -> None:
    """Rewriting all that happened after the train cut leaves the train pairs as they were."""
    periods = Engagement(chain=("search", "click", "purchase"), min_sessions=1, validation_days=1, future_days=1)
    end = START + timedelta(days=4)
    cut = end - timedelta(days=2)
    closing = event(4 * 24, "search", query_id="end", session_id="end")
    before = [e for e in events if e["timestamp"] <= cut]
    whole = mined(tmp_path, [*events, closing], periods)
    past = mined(tmp_path, [*before, closing], periods)
    assert [row for row in whole if row["split"] == "train"] == [row for row in past if row["split"] == "train"]
    for row in whole:
        assert (row["split"] == "train") == (row["last_seen"] <= cut)
