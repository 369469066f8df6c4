"""Which search an event belongs to where it does not say so itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mercato.data.market import Engagement, Market
from mercato.data.mining import MiningReport, mine
from mercato.errors import MercatoError
from tests.data.test_mining import CLOSING, comes_of, event, labels, market_of, mined, wild

SHOP = Engagement(chain=("click", "purchase"), min_sessions=1, validation_days=0, future_days=0)
ASKED = Engagement(chain=("click", "message", "seller_reply"), min_sessions=1, validation_days=0, future_days=0)
UNNAMED = {"query_id": None, "user_query": None}


def engaged(rows: list[dict[str, Any]]) -> set[tuple[str, str]]:
    return {(row["query"], row["product_id"]) for row in rows if row["label"] == 1}


def report_of(folder: Path, events: list[dict[str, Any]], engagement: Engagement) -> tuple[MiningReport, Market]:
    market = market_of(folder, events, engagement)
    return mine(market), market


def test_an_order_without_a_query_id_belongs_to_the_session_s_last_click_on_the_product(tmp_path: Path) -> None:
    log = [event(0, "click", "P", user_query="lamp"), event(1, "click", "P", query_id="q2", user_query="desk lamp")]
    log += [event(1.5, "click", "Q", query_id="q3", user_query="chair"), event(2, "purchase", "P", **UNNAMED)]
    log += [event(3, "click", "P", query_id="q4", user_query="later")]  # after it
    log += [event(1.8, "click", "P", query_id="q5", user_query="other", session_id="s2")]  # another's
    report, market = report_of(tmp_path, log, SHOP)
    assert engaged(market.arrow("pairs").to_pylist()) == {("desk lamp", "P")}
    assert report.attributed == 1
    assert report.funnel.steps[0].lost == ()


def test_the_chain_may_go_on_in_the_search_of_the_click(tmp_path: Path) -> None:
    """A message that knows no query, and the reply of a seller who knows the query's id."""
    message, reply = event(1, "message", "P", **UNNAMED), event(2, "seller_reply", "P", session_id="seller")
    assert engaged(mined(tmp_path, [event(0, "click", "P"), message, reply], ASKED)) == {("lamp", "P")}


@pytest.mark.parametrize(
    ("hours", "window", "expected"),
    [(8, 8.0, 1), (8.01, 8.0, 0), (24, None, 1), (24.01, None, 0), (0, 0, 0), (1, 0, 0), (24, 48.0, 1)],
)
def test_the_attribution_window_is_the_market_s(
    tmp_path: Path, hours: float, window: float | None, expected: int
) -> None:
    market = SHOP.model_copy(update={"attribution_window_hours": window})
    log = [event(0, "click", "P"), event(0, "impression", "Q"), event(hours, "purchase", "P", **UNNAMED)]
    report, _ = report_of(tmp_path, log, market)
    assert (report.attributed, report.pairs["train"]["engaged"]) == (expected, expected)
    events = report.funnel.steps[0]
    assert [(lost.count, "(purchase)" in lost.why) for lost in events.lost] == [(1, True)] * (1 - expected)
    assert events.kept == 2 + expected


def test_an_order_stays_in_the_search_of_its_own_text_where_that_clicked_on_the_product(tmp_path: Path) -> None:
    order = event(2, "purchase", "P", query_id=None, user_query="Lamp ")
    other = event(1, "click", "P", query_id="q2", user_query="chair")
    assert engaged(mined(tmp_path, [event(0, "click", "P", query_id=None), other, order], SHOP)) == {("lamp", "P")}
    assert engaged(mined(tmp_path, [other, order], SHOP)) == {("chair", "P")}
    long_ago = [event(-30, "click", "P", query_id=None), other, order]
    assert engaged(mined(tmp_path, long_ago, SHOP)) == {("chair", "P")}


def test_a_chain_without_clicks_attributes_to_its_first_step(tmp_path: Path) -> None:
    baskets = SHOP.model_copy(update={"chain": ("add_to_cart", "purchase")})
    order = event(2, "purchase", "P", **UNNAMED)
    assert engaged(mined(tmp_path, [event(0, "add_to_cart", "P"), order], baskets)) == {("lamp", "P")}
    orders = SHOP.model_copy(update={"chain": ("purchase",)})  # though the log may tell of clicks
    assert engaged(mined(tmp_path, [event(0, "click", "P"), order], orders)) == {("lamp", "P")}


def test_a_click_of_no_search_is_put_down_to_none(tmp_path: Path) -> None:
    """Someone came from elsewhere: that is no engagement with an earlier search."""
    report, _ = report_of(tmp_path, [event(0, "click", "P"), event(1, "click", "P", **UNNAMED), CLOSING], SHOP)
    assert report.attributed == 0
    assert [(lost.count, "(click)" in lost.why) for lost in report.funnel.steps[0].lost] == [(1, True)]


def test_sessions_that_share_a_query_id_are_searches_of_their_own(tmp_path: Path) -> None:
    """An id that is a hash of the text joins nobody's click with another's purchase; each is a person of its own."""
    log = [event(n, a, "P", session_id=f"s{n}") for n, a in enumerate(("click", "purchase", "click", "purchase"))]
    market = SHOP.model_copy(update={"min_sessions": 4})
    report, found = report_of(tmp_path, [*log, event(0, "impression", "Q"), CLOSING], market)
    assert labels(found.arrow("pairs").to_pylist()) == {("train", "P"): 0, ("train", "Q"): 0}
    assert report.shared_query_ids == 1
    both = [*log, event(3, "purchase", "P", session_id="s2")]
    assert [(r["label"], r["weight"]) for r in mined(tmp_path, both, market)] == [(1, 1.0)]


def test_a_seller_s_reply_is_claimed_by_the_last_who_asked_and_by_no_other(tmp_path: Path) -> None:
    log = []
    for n, session in enumerate(("s0", "s1", "s2")):
        of = {"session_id": session, "user_query": f"lamp {n}", "query_id": "shared"}
        log += [event(n, "click", "P", **of), event(n + 0.5, "message", "P", **of)]
    log += [event(3, "click", "P", session_id="s3", user_query="lamp 3", query_id="shared")]  # who asked nothing
    log += [event(1.6, "click", "Q", session_id="s4", query_id="shared"), event(1.7, "message", "Q", session_id="s4")]
    reply = event(2, "seller_reply", "P", session_id="seller", user_query=None, query_id="shared")
    assert engaged(mined(tmp_path, [*log, reply], ASKED)) == {("lamp 1", "P")}
    two = [*log, reply, {**reply, "timestamp": event(4, "click")["timestamp"]}]
    assert engaged(mined(tmp_path, two, ASKED)) == {("lamp 1", "P"), ("lamp 2", "P")}
    own = {**reply, "session_id": "s0", "timestamp": event(4, "click")["timestamp"]}
    assert engaged(mined(tmp_path, [*log, own], ASKED)) == {("lamp 0", "P")}  # where the log names the buyer's session


def test_a_seller_is_nobody_who_searched(tmp_path: Path) -> None:
    """No reply, claimed or not, makes its seller one of those who made the query."""
    floor = ASKED.model_copy(update={"min_sessions": 2})
    chain = [event(0, "click", "P"), event(1, "message", "P"), event(2, "seller_reply", "P", session_id="seller")]
    stray = event(3, "seller_reply", "Q", session_id="another seller")
    assert mined(tmp_path, [*chain, stray], floor) == []
    assert len(mined(tmp_path, [*chain, stray, event(3, "search", session_id="s2", query_id="q2")], floor)) == 1
    report, _ = report_of(tmp_path, [*chain, stray], ASKED)
    assert [(lost.count, "(seller_reply)" in lost.why) for lost in report.funnel.steps[0].lost] == [(1, True)]
    named = [{**e, "client_id": "of the seller", "country": "mx"} if "seller" in e["session_id"] else e for e in chain]
    nowhere = [{**e, "country": None} if "seller" not in e["session_id"] else e for e in named]
    (row,) = mined(tmp_path, nowhere, ASKED)
    assert row["country"] is None
    again = [{**e, "session_id": "s2", "query_id": "q2"} for e in chain[:2]]
    answered = {**named[2], "query_id": "q2"}
    assert len(mined(tmp_path, [*named, *again, answered], floor)) == 1  # two people, whose clients nobody knows


def test_a_seller_s_words_and_later_doings_change_nothing(tmp_path: Path) -> None:
    reply = event(2, "seller_reply", "P", session_id="seller")
    silent = [event(0, "click", "P", user_query=None), event(1, "message", "P", user_query=None)]
    assert mined(tmp_path, [*silent, reply], ASKED) == []  # the text is the seller's alone
    asking = [event(3, "click", "P", session_id="seller"), event(4, "message", "P", session_id="seller")]
    assert engaged(mined(tmp_path, [event(0, "click", "P"), event(1, "message", "P"), reply, *asking], ASKED))
    floor = ASKED.model_copy(update={"min_sessions": 2, "future_days": 1})
    later = [event(0, "impression", "Q"), reply, event(60, "click", "Z", session_id="seller")]
    assert "train" not in {row["split"] for row in mined(tmp_path, later, floor)}


def test_a_reply_answers_a_search_where_the_chain_has_no_step_before_it(tmp_path: Path) -> None:
    chain = ASKED.model_copy(update={"chain": ("search", "seller_reply")})
    log = [event(0, "search"), event(1, "seller_reply", "P", session_id="seller")]
    assert engaged(mined(tmp_path, log, chain)) == {("lamp", "P")}


def test_a_session_has_its_query_from_the_record_of_the_query_id(tmp_path: Path) -> None:
    """UBI's queries have no session: on the way in they have their client's."""
    searching = Engagement(chain=("search", "click", "purchase"), min_sessions=1, validation_days=0, future_days=0)
    record = event(0, "search", session_id="a client", client_id="a client")
    rest = [event(n, a, "P", user_query=None, country=None) for n, a in enumerate(("click", "purchase"), 1)]
    (row,) = mined(tmp_path, [record, *rest], searching)
    assert (row["query"], row["label"], row["country"]) == ("lamp", 1, "us")
    late = {**record, "timestamp": event(1.5, "search")["timestamp"]}  # clocks differ: the text is known all the same
    assert engaged(mined(tmp_path, [late, *rest], SHOP)) == {("lamp", "P")}
    earlier = event(-1, "search", session_id="another", user_query="chair")
    shown = event(0.5, "impression", "P", session_id="a client", user_query="shown")
    assert engaged(mined(tmp_path, [earlier, record, shown, *rest], SHOP)) == {("lamp", "P")}
    assert mined(tmp_path, [record, *rest], searching.model_copy(update={"min_sessions": 2})) == []  # one person
    assert mined(tmp_path, [{**record, "query_id": "q2"}, *rest], searching) == []


STEP = st.fixed_dictionaries(
    {
        "hours": st.integers(0, 24).map(lambda step: 4.0 * step),
        "action": st.sampled_from(["search", "click", "click", "message", "seller_reply", "seller_reply"]),
        "product": st.sampled_from(["P", "P", "Q", None]),
        "session_id": st.sampled_from(["s1", "s2", "seller"]),
        "query_id": st.sampled_from(["q1", "q1", "q2", None]),
        "user_query": st.sampled_from(["lamp", "chair", None]),
    }
)


@wild
@given(steps=st.lists(STEP, min_size=4, max_size=24))
def test_what_comes_later_decides_nothing_about_what_an_event_belongs_to(
    tmp_path: Path, steps: list[dict[str, Any]]
) -> None:
    """The pairs of the train split are the same without all that happened after it, if its days have events still."""
    log = [event(**step) for step in steps]
    periods = ASKED.model_copy(update={"future_days": 2, "window_hours": 48.0})
    end = [event(hour, "search", query_id="end", session_id="end", user_query="end") for hour in (96, 95, 71) * 3]
    cut = event(48, "search")["timestamp"]
    found = []
    for rows in (log, [row for row in log if row["timestamp"] <= cut]):
        market = market_of(tmp_path, [*rows, *end], periods)
        pairs = market.arrow("pairs").to_pylist() if comes_of(market) else []
        found.append([row for row in pairs if row["split"] == "train"])
    assert found[0] == found[1]


def test_nothing_mined_is_an_error_that_says_why_and_keeps_what_was_there(tmp_path: Path) -> None:
    market = market_of(tmp_path, [event(0, "click", "P"), event(1, "purchase", "P")], SHOP)
    mine(market)
    before = (tmp_path / "pairs.parquet").read_bytes()
    for events, engagement, why in (
        ([event(0, "click", "P")], SHOP.model_copy(update={"min_sessions": 3}), "1 searches 1 .* fewer than 3 people"),
        ([event(0, "click", "P")], SHOP, "1 chains 1 may go on after the end"),
        ([event(0, "click", "P", user_query=None)], SHOP, "1 searches 1 have no query text"),
        ([event(0, "search")], SHOP, "1 searches 1 displayed no product"),
        ([event(0, "purchase", "P", **UNNAMED)], SHOP, r"1 events 1 \(purchase\) have no query id"),
        ([event(0, "hover", "P", **UNNAMED)] * 2, SHOP, "2 events 2 have no query id and no query text"),
        ([event(0, "purchase", "P")], SHOP, "1 chains 1 have steps out of order"),
    ):
        with pytest.raises(MercatoError, match=f"nothing can be mined .*{why}") as error:
            mine(market_of(tmp_path, events, engagement))
        assert "\n" not in str(error.value)
        assert (tmp_path / "pairs.parquet").read_bytes() == before


def test_the_funnel_accounts_for_everything(tmp_path: Path) -> None:
    log = [event(0, "click", "P"), event(1, "purchase", "P"), event(2, "click", "Q"), event(0, "impression", "R")]
    log += [event(3, "hover", "P", **UNNAMED, session_id="s9"), event(3, "purchase", "Z", **UNNAMED)]
    log += [event(3, "search", query_id="q2", user_query=None, session_id="s2")]
    log += [{**event(0, "click", "P"), "session_id": None}, {**CLOSING, "timestamp": None}]
    log += [event(50, "click", "P", session_id="s3", query_id="q3")]
    report, _ = report_of(tmp_path, log, SHOP)
    assert [
        (s["step"], s["found"], s["kept"], [one["count"] for one in s["lost"]]) for s in report.funnel.as_list()
    ] == [
        ("events", 10, 6, [1, 1, 1, 1]),
        ("sessions", 4, 3, [1]),
        ("searches", 3, 2, [1]),
        ("chains", 3, 1, [1, 1]),
        ("pairs", 3, 3, []),
    ]
    assert report.as_dict()["funnel"] == report.funnel.as_list()
