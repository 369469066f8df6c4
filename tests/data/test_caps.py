"""Nobody makes a market's pairs alone: not with many names, not from one address, not of their own products."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mercato.data.market import Caps, Engagement, Market, MarketConfig, write_market_toml
from mercato.data.mining import MiningReport, mine
from mercato.data.schema import EVENTS, PRODUCTS
from mercato.data.searches import days_back
from mercato.errors import MercatoError

START = datetime(2026, 1, 1, 12, tzinfo=UTC)
CHAIN = ("search", "click", "purchase")
ENGAGEMENT = Engagement(chain=CHAIN, min_sessions=1, validation_days=0, future_days=0)
SELLERS = {"A": "anna", "B": "anna", "C": "anna", "D": "dora", "E": None, "F": None}
SIGNED = {"received": "signed", "network": "n1"}


def chain(number: int, product: str = "A", *, minutes: float = 0.0, **more: Any) -> list[dict[str, Any]]:
    """A search, a click and a purchase of one session, all with their own query id."""
    row = {"query_id": f"q{number}", "session_id": f"s{number}", "user_query": "lamp"} | more
    return [
        {"timestamp": START + timedelta(minutes=minutes + step), "action_name": action}
        | {"product_id": None if action == "search" else product}
        | row
        for step, action in enumerate(CHAIN)
    ]


def market_of(folder: Path, events: list[dict[str, Any]], **engagement: Any) -> Market:
    pq.write_table(pa.Table.from_pylist(events, schema=EVENTS), folder / "events.parquet")
    products = [{"product_id": name, "title": name, "seller_id": seller} for name, seller in SELLERS.items()]
    pq.write_table(pa.Table.from_pylist(products, schema=PRODUCTS), folder / "products.parquet")
    write_market_toml(folder, MarketConfig(engagement=ENGAGEMENT.model_copy(update=engagement)))
    return Market.open(folder)


def mined(folder: Path, *chains: list[dict[str, Any]], **engagement: Any) -> tuple[dict[str, float], MiningReport]:
    """The weights of the engaged pairs by product, and the report."""
    market = market_of(folder, [event for chain in chains for event in chain], **engagement)
    report = mine(market)
    return {row["product_id"]: row["weight"] for row in market.arrow("pairs").to_pylist() if row["label"]}, report


def lost(report: MiningReport, word: str, step: int = 0) -> int:
    return sum(lost.count for lost in report.funnel.steps[step].lost if word in lost.why)


def test_forty_invented_sessions_weigh_as_one(tmp_path: Path) -> None:
    many = [chain(number, minutes=number, client_id=f"c{number}", **SIGNED) for number in range(40)]
    assert mined(tmp_path, *many)[0] == {"A": 1.0}


def test_sessions_of_a_key_or_a_file_weigh_as_many(tmp_path: Path) -> None:
    many = [chain(number, minutes=number, received="key" if number % 2 else None) for number in range(40)]
    assert mined(tmp_path, *many)[0] == {"A": 40.0}


def test_each_address_and_day_is_a_voice_and_no_more_than_there_are_clients(tmp_path: Path) -> None:
    networks = [chain(n, minutes=n, client_id=f"c{n % 2}", **SIGNED | {"network": f"n{n % 5}"}) for n in range(40)]
    assert mined(tmp_path, *networks)[0] == {"A": 2.0}
    networks = [chain(n, minutes=n, client_id=f"c{n}", **SIGNED | {"network": f"n{n % 5}"}) for n in range(40)]
    assert mined(tmp_path, *networks)[0] == {"A": 5.0}


def test_a_query_id_that_many_addresses_send_is_one_voice(tmp_path: Path) -> None:
    shared = [chain(n, query_id="q", **SIGNED | {"network": f"n{n}"}) for n in range(5)]
    assert mined(tmp_path, *shared)[0] == {"A": 1.0}
    assert mined(tmp_path, *(chain(n, query_id="q") for n in range(5)))[0] == {"A": 5.0}


def test_a_client_is_one_voice_a_day(tmp_path: Path) -> None:
    again = [chain(number, minutes=60 * 8 * number, client_id="c") for number in range(5)]  # 12 o'clock to 20 tomorrow
    assert mined(tmp_path, *again)[0] == {"A": 2.0}


def test_three_tabs_and_three_names_of_one_address_are_below_the_privacy_floor(tmp_path: Path) -> None:
    secret = "jane doe hidden street"
    names = [chain(n, user_query=secret, client_id=f"c{n}", **SIGNED) for n in range(3)]
    others = [chain(n, "B", client_id=f"c{n}", **SIGNED | {"network": f"n{n}"}) for n in range(3, 6)]
    weights, report = mined(tmp_path, *names, *others, min_sessions=3)
    assert weights == {"B": 3.0} and report.queries_below_floor == 1


def test_known_people_and_one_address_are_counted_together(tmp_path: Path) -> None:
    known = [chain(n, client_id=f"c{n}") for n in range(2)]
    same = [chain(n + 2, client_id=f"c{n}", **SIGNED) for n in range(2)]
    with pytest.raises(MercatoError, match="fewer than 3 people"):
        mined(tmp_path, *known, *same, min_sessions=3)
    assert mined(tmp_path, *known, chain(9, client_id="c9", **SIGNED), min_sessions=3)[0] == {"A": 3.0}


def test_contact_data_is_never_mined(tmp_path: Path) -> None:
    pasted = [chain(n, user_query="jane +49 170 1234567", country="us") for n in range(3)]
    weights, report = mined(tmp_path, *pasted, chain(9, "B"))
    assert weights == {"B": 1.0} and report.contacts == 1 and lost(report, "telephone", 2) == 3


def test_unsigned_events_are_mined_where_the_market_says_so(tmp_path: Path) -> None:
    invented = [chain(n, received="unsigned", network="n1") for n in range(3)]
    with pytest.raises(MercatoError, match=r"9 events .* all came without an API key .*mine_unsigned = true"):
        mined(tmp_path, *invented)
    weights, report = mined(tmp_path, *invented, chain(9, "B"))
    assert weights == {"B": 1.0} and report.unsigned == lost(report, "without an API key") == 9
    weights, report = mined(tmp_path, *invented, chain(9, "B"), mine_unsigned=True)
    assert weights == {"A": 1.0, "B": 1.0} and report.unsigned == 0


def test_an_unsigned_event_moves_no_split(tmp_path: Path) -> None:
    today = chain(9, received="unsigned", minutes=60 * 24 * 30)
    market = market_of(tmp_path, [*chain(1), *chain(2, "B", minutes=60 * 24), *today], future_days=1)
    mine(market)
    assert {row["product_id"]: row["split"] for row in market.arrow("pairs").to_pylist()} == {
        "A": "train",
        "B": "future",
    }


@pytest.mark.parametrize(
    ("buyer", "own"),
    [
        ({"client_id": "anna"}, True),
        ({"session_id": "anna"}, False),  # names of sessions and of sellers may be alike by chance
        ({"client_id": "phone of anna"}, True),  # which answered as the seller
        ({"session_id": "inbox of anna"}, True),
        ({"client_id": "somebody"}, False),
    ],
)
def test_what_sellers_do_on_their_own_products_is_left_out(tmp_path: Path, buyer: dict[str, Any], own: bool) -> None:
    steps = ("search", "click", "message", "seller_reply")

    def asked(number: int, product: str, replies: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
        row = {"query_id": f"q{number}", "session_id": f"s{number}", "user_query": "lamp", "client_id": None} | more
        events = [row | {"action_name": step, "product_id": None if step == "search" else product} for step in steps]
        events[-1] |= replies
        return [event | {"timestamp": START + timedelta(minutes=step)} for step, event in enumerate(events)]

    anna = {"session_id": "inbox of anna", "client_id": "phone of anna"}
    honest = asked(1, "C", anna, client_id="buyer")
    fraud = [
        *asked(2, "B", anna, **buyer),
        *asked(3, "D", {"session_id": "d", "client_id": "dora"}, **{"session_id": "t3"} | buyer),
    ]
    weights, report = mined(tmp_path, honest, fraud, chain=steps)
    assert weights == {"C": 1.0, "D": 1.0} | ({} if own else {"B": 1.0})
    assert lost(report, "products of their own") == (3 if own else 0)  # all but the search, and the reply with them


@pytest.mark.parametrize("client_known_at", [0, 24 * 60])
def test_who_turns_out_to_be_the_seller_later_is_not_known_before(tmp_path: Path, client_known_at: int) -> None:
    """A row of a split is a function of what happened up to its end."""
    before = chain(1, "A", client_id=None if client_known_at else "phone")
    later = {"timestamp": START + timedelta(days=2), "action_name": "search", "user_query": "lamp"}
    if client_known_at:  # whose session it was
        now = [later | {"session_id": "s1", "client_id": "anna", "query_id": "q1"}]
    else:  # whose phone it was: it answers for the seller
        asked = chain(2, "B")[0] | {"action_name": "message", "product_id": "B"}
        reply = {"action_name": "seller_reply", "session_id": "inbox", "client_id": "phone", "product_id": "B"}
        now = [asked | {"timestamp": later["timestamp"]}, later | reply | {"query_id": "q2"}]
    steps = ("search", "click", "purchase", "message", "seller_reply")
    market = market_of(tmp_path, [*before, *now], future_days=1, chain=steps, left="graded", window_hours=1)
    mine(market)
    assert [row["depth"] for row in market.arrow("pairs").to_pylist() if row["split"] == "train"] == [2]


def test_the_network_of_a_seller_is_not_the_buyers(tmp_path: Path) -> None:
    steps = ("search", "click", "purchase", "seller_reply")
    reply = {"action_name": "seller_reply", "session_id": "inbox", "received": "signed", "network": "n1"}
    asked = [chain(n) for n in range(3)]
    answered = [[*events, events[-1] | reply | {"timestamp": START + timedelta(hours=1)}] for events in asked]
    assert mined(tmp_path, *answered, chain=steps)[0] == {"A": 3.0}


@pytest.mark.parametrize(
    ("cap", "whose"),
    [
        ({"client_searches": 2}, lambda n: {"client_id": "robot"}),
        ({"client_searches": 2}, lambda n: {"session_id": "robot"}),
        ({"address_searches": 2}, lambda n: SIGNED),
    ],
)
def test_searches_past_a_days_number_are_left_out(tmp_path: Path, cap: dict[str, int], whose: Any) -> None:
    first = [chain(n, product, minutes=10 * n, **whose(n)) for n, product in enumerate("EDB")]
    later = chain(7, "C", minutes=60 * 24, **whose(7) | ({"network": "n2"} if "network" in whose(7) else {}))
    weights, report = mined(tmp_path, *first, later, caps=Caps(**cap))
    assert weights == {"E": 1.0, "D": 1.0, "C": 1.0} and lost(report, "more searches") == 3


def test_an_address_of_events_with_a_key_has_no_number(tmp_path: Path) -> None:
    many = [chain(n, product, received="key") for n, product in enumerate("EDB")]
    assert mined(tmp_path, *many, caps=Caps(address_searches=1))[0] == {"B": 1.0, "D": 1.0, "E": 1.0}


def shown(products: str, **more: Any) -> list[dict[str, Any]]:
    row = {"query_id": "q1", "session_id": "s1", "user_query": "lamp"} | more
    return [
        {"timestamp": START, "action_name": "impression", "product_id": product, "position": place} | row
        for place, product in enumerate(products, 1)
    ]


def test_a_search_of_a_stranger_shows_no_more_than_a_search_can(tmp_path: Path) -> None:
    events = [
        *shown("ABC", **SIGNED),
        *shown("ABCDE", session_id="s2"),
        *shown("DE", session_id="s3", query_id="q3", **SIGNED),
    ]
    report = mine(market_of(tmp_path, [*events, *chain(9)], caps=Caps(search_products=2)))
    assert report.lists["train"] == 2 and lost(report, "more products than a search shows") == 3


def test_what_strangers_saw_and_clicked_is_counted_once(tmp_path: Path) -> None:
    """A thousand names and searches of one address for one query, and a thousand events of one search."""
    honest = [
        event for n in range(20) for event in [*shown("AB", query_id=f"h{n}", session_id=f"h{n}"), *chain(100 + n, "B")]
    ]
    names = [
        e
        for n in range(50)
        for e in [*shown("A", session_id=f"x{n}", **SIGNED), *chain(1, session_id=f"x{n}", **SIGNED)]
    ]
    searches = [
        e
        for n in range(50)
        for e in shown("A", session_id="y", query_id=f"y{n}", timestamp=START + timedelta(hours=1), **SIGNED)
    ]
    events = (shown("A") + chain(1)) * 50
    repeats = [event | {"session_id": "z", "query_id": "z", "received": "signed", "network": "n2"} for event in events]
    market = market_of(tmp_path, honest + names + searches + repeats)
    report = mine(market)
    (pair,) = (row for row in market.arrow("pairs").to_pylist() if row["product_id"] == "A")
    assert (pair["impressions"], pair["clicks"], pair["position"], pair["weight"]) == (22, 2, 1.0, 2.0)
    assert report.lists["train"] == 22


def test_an_engagement_of_a_later_search_is_one(tmp_path: Path) -> None:
    looked = shown("A", query_id="q1", session_id="s1", **SIGNED)
    bought = chain(2, minutes=60, session_id="s2", **SIGNED)
    assert mined(tmp_path, looked, bought)[0] == {"A": 1.0}


def test_strangers_name_nobody_elses_session(tmp_path: Path) -> None:
    honest = [chain(n) for n in range(10)]
    row = {"action_name": "search", "timestamp": START - timedelta(hours=1), "product_id": None, "user_query": "lamp"}
    named = [row | SIGNED | {"session_id": f"s{n}", "query_id": f"x{n}", "client_id": "anna"} for n in range(10)]
    assert mined(tmp_path, *honest, named, min_sessions=3)[0] == {"A": 10.0}


@pytest.mark.parametrize("named", [{"client_id": "robot"}, {"session_id": "s9"}])
def test_a_stranger_who_names_somebody_uses_up_nothing_of_theirs(tmp_path: Path, named: dict[str, str]) -> None:
    bare = {"action_name": "search", "product_id": None, "user_query": "lamp", "session_id": "x"} | SIGNED | named
    early = [bare | {"timestamp": START - timedelta(hours=1), "query_id": f"x{n}"} for n in range(5)]
    assert mined(tmp_path, early, chain(9, client_id=named.get("client_id")), caps=Caps(client_searches=2))[0] == {
        "A": 1.0
    }


def test_a_stranger_makes_nobody_a_seller(tmp_path: Path) -> None:
    steps = ("search", "click", "message", "seller_reply")
    row = {"query_id": "x", "user_query": "lamp", "product_id": "A", "timestamp": START - timedelta(hours=1)} | SIGNED
    asked = row | {"action_name": "message", "session_id": "x"}
    reply = row | {"action_name": "seller_reply", "session_id": "s1", "client_id": "victim"}
    honest = [e | {"action_name": step} for e, step in zip(chain(1, client_id="victim"), steps, strict=False)]
    answered = honest[-1] | {"action_name": "seller_reply", "timestamp": START + timedelta(hours=1)}
    assert mined(tmp_path, [asked, reply], [*honest, answered], chain=steps)[0] == {"A": 1.0}


def test_a_search_that_showed_nothing_is_no_list(tmp_path: Path) -> None:
    bare = {
        "action_name": "search",
        "product_id": None,
        "user_query": "lamp",
        "timestamp": START - timedelta(minutes=5),
    }
    events = [bare | SIGNED | {"query_id": "q1", "session_id": "x"}, *shown("AB", **SIGNED)]
    assert mine(market_of(tmp_path, events)).lists["train"] == 1


def test_one_address_does_not_say_where_a_query_comes_from(tmp_path: Path) -> None:
    number = {"user_query": "jane 06 12 34 56 78"}
    people = [chain(n, country="fr", **number) for n in range(3)]
    strangers = [chain(10 + n, country="us", session_id="x", **number, **SIGNED) for n in range(6)]
    assert mined(tmp_path, *people, *strangers, chain(9, "B"))[0] == {"B": 1.0}


def test_a_stranger_that_says_to_be_the_seller_is(tmp_path: Path) -> None:
    weights, report = mined(tmp_path, chain(1, client_id="anna", **SIGNED), chain(2, "D", client_id="anna", **SIGNED))
    assert weights == {"D": 1.0} and lost(report, "products of their own") == 2


def test_a_buyer_whose_app_logs_the_reply_is_no_seller(tmp_path: Path) -> None:
    steps = ("search", "click", "purchase", "seller_reply")
    asked = chain(1, client_id="buyer")
    reply = asked[-1] | {
        "action_name": "seller_reply",
        "session_id": "evening",
        "timestamp": START + timedelta(hours=8),
    }
    assert mined(tmp_path, [*asked, reply], chain=steps)[0] == {"A": 1.0}


def test_an_imported_log_has_its_own_network(tmp_path: Path) -> None:
    wifi = [chain(n, network="wifi", received=None) for n in range(5)]
    assert mined(tmp_path, *wifi, [chain(9, network="", **{"received": "signed"})[0]], min_sessions=3)[0] == {"A": 5.0}


def test_contact_data_of_a_country_is_of_those_who_searched_from_it(tmp_path: Path) -> None:
    number = "lego 0612345678"
    here = [chain(n, user_query=number, country="us") for n in range(3)]
    elsewhere = [chain(9, "B", country="fr"), *([chain(10, "C", user_query="jean ٠٦١٢٣٤٥٦٧٨", country="fr")])]
    assert mined(tmp_path, *here, *elsewhere)[0] == {"A": 3.0, "B": 1.0}
    later = chain(11, user_query=number, country="fr", minutes=60 * 48)
    market = market_of(tmp_path, [event for each in (*here, later) for event in each], future_days=1)
    mine(market)
    assert [row["split"] for row in market.arrow("pairs").to_pylist()] == ["train", "future"]


def test_a_number_in_a_title_is_a_parts(tmp_path: Path) -> None:
    events = [chain(n, user_query="filter 2125551234", country="us") for n in range(3)]
    assert mined(tmp_path, *events, chain(9, "B"))[0] == {"B": 1.0}
    market = market_of(tmp_path, [event for each in events for event in each])
    titles = [{"product_id": "A", "title": "Water Filter 2125551234"}]
    pq.write_table(pa.Table.from_pylist(titles, schema=PRODUCTS), tmp_path / "products.parquet")
    assert mine(market).contacts == 0
    titles[0]["title"] = "Water Filter 21255512349"  # which is another number
    pq.write_table(pa.Table.from_pylist(titles, schema=PRODUCTS), tmp_path / "products.parquet")
    with pytest.raises(MercatoError, match="look like an e-mail address or a telephone number"):
        mine(market)


@pytest.mark.parametrize("wrong", [-(2**63) + 1, 2**63 - 1])
@pytest.mark.parametrize("session", ["s2", None])
def test_an_infinite_timestamp_is_counted_once(tmp_path: Path, wrong: int, session: str | None) -> None:
    bad = chain(2, session_id=session)
    times = pa.array([wrong] * 3, pa.int64()).cast(pa.timestamp("us", tz="UTC"))
    market = market_of(tmp_path, chain(1))
    whole = [pq.read_table(tmp_path / "events.parquet"), pa.Table.from_pylist(bad, schema=EVENTS)]
    whole[1] = whole[1].set_column(0, "timestamp", times)
    pq.write_table(pa.concat_tables(whole), tmp_path / "events.parquet")
    assert [step.count for step in mine(market).funnel.steps[0].lost] == [3]


@pytest.mark.parametrize("wrong", [-(2**63), -(2**63) + 1, 2**63 - 1])
def test_an_infinite_timestamp_is_none(tmp_path: Path, wrong: int) -> None:
    market = market_of(tmp_path, chain(1))
    bad = pa.Table.from_pylist(chain(2), schema=EVENTS)
    times = pa.array([wrong] * 3, pa.int64()).cast(pa.timestamp("us", tz="UTC"))
    pq.write_table(
        pa.concat_tables([pq.read_table(tmp_path / "events.parquet"), bad.set_column(0, "timestamp", times)]),
        tmp_path / "events.parquet",
    )
    assert mine(market).pairs["train"]["engaged"] == 1


@pytest.mark.parametrize(
    ("days", "cut"),
    [
        ({30: 5, 2: 5, 1: 5, 0: 5}, 2),  # future is two days of sessions
        ({33: 20, 32: 20, 31: 20, 30: 20, 0: 1}, 32),  # one event today is no day
        ({33: 20, 32: 20, 31: 20, 30: 20, 0: 2}, 31),  # a tenth is
        ({**dict.fromkeys(range(3, 9), 20), 2: 1, 1: 1, 0: 1}, 4),  # and so are two quiet days together
        ({**dict.fromkeys(range(9, 70), 500), **dict.fromkeys(range(9), 40)}, 4),  # or a trickle after a flood
        ({**dict.fromkeys(range(70), 1), 30: 500, 31: 500}, 2),  # sales make the other days no less
        ({10: 5, 7: 5, 3: 5, 0: 5}, 4),
        ({0: 5}, 2),  # days before the first event count as they are
    ],
)
def test_splits_are_counted_over_days_that_have_sessions(days: dict[int, int], cut: int) -> None:
    assert days_back(days, 2) == cut
    assert days_back(days, 0) == 0


def test_an_empty_log_has_no_days():
    assert (days_back({}, 0), days_back({}, 3)) == (0, 3)
