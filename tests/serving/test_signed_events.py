"""Events without a key count as far as a search of this server led to them, and of one address as one."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi.testclient import TestClient

from mercato.catalogue.events import Stranger, receive
from mercato.catalogue.query_ids import QuerySigner
from mercato.data.market import Engagement, Market, MarketConfig
from mercato.data.mining import mine
from tests.support.served import WRITE, application, event, search, wait_until

DAY = timedelta(days=1)


def sent(app: Any, address: str, **fields: Any) -> dict[str, Any]:
    """What is said of a search and a click of one address, but for their number."""
    now = str(datetime.now(UTC))
    events = [event(action, timestamp=now, **fields) for action in ("search", "click")]
    answer = TestClient(app, client=(address, 1)).post("/v1/events", json={"events": events})
    return {name: told for name, told in answer.json().items() if name != "accepted"}


def test_events_of_searches_are_mined_and_invented_ones_are_not(market: Market) -> None:
    """Three addresses search and click; others invent sessions, queries and clients."""
    rules = Engagement(chain=("search", "click"), min_sessions=3, validation_days=0, future_days=0)
    market = replace(market, config=MarketConfig(engagement=rules))
    with application(market, flush_seconds=0.05) as app:
        client = TestClient(app)
        for number in range(3):
            query_id = search(client, query="Red  chair")["query_id"]
            assert sent(app, f"2001:db8:{number}::1", query_id=query_id, session_id=f"s{number}") == {}
            secret = {"session_id": f"i{number}", "user_query": "jane doe, 4 hidden street"}
            assert sent(app, f"10.0.0.{number}", query_id=f"q{number}", **secret) == {"unsigned": 2}
            of_another = [f"events.{row}.user_query: is not what its query_id was given for" for row in (0, 1)]
            assert sent(app, f"10.0.0.{number}", query_id=query_id, **secret) == {"set_aside": of_another}
        for number in range(40):
            fields = {"query_id": search(client, query="red chair")["query_id"], "session_id": f"x{number}"}
            place = {"event_attributes": {"object": {"object_id": "p01"}}}
            assert sent(app, f"2001:db8:9:{number}::", client_id=f"c{number}", **fields, **place) == {}
        wait_until(lambda: market.has("events") and len(market.frame("events")) == 98)
    events = market.frame("events")
    assert {*events["received"]} == {"signed", "unsigned"} and events["network"].n_unique() == 7
    assert "2001:" not in str(events.to_dicts())
    mine(market)
    pairs = market.frame("pairs").sort("product_id")
    assert pairs.select("query", "product_id", "weight").rows() == [
        ("red chair", "p00", 3.0),
        ("red chair", "p01", 1.0),
    ]


def test_a_query_id_holds_for_as_long_as_its_engagements_count(market: Market) -> None:
    """24 hours, from a page that may be an hour later than the search."""
    with application(market) as app:
        query_id = search(TestClient(app), query="red chair")["query_id"]
        clock = time.time()
        for hours, told in ((24.9, {}), (25.1, {"unsigned": 2})):
            app.state.services.query_ids = QuerySigner(
                app.state.services.catalogue.settings.secret("query id"), lambda hours=hours: clock + 3600 * hours
            )
            assert sent(app, "10.0.0.1", query_id=query_id) == told


def test_what_a_key_sends_is_believed(market: Market) -> None:
    with application(market, flush_seconds=0.05) as app:
        events = [event(query_id="of the shop"), event(query_id="of the shop", received="unsigned", network="made up")]
        answer = TestClient(app).post("/v1/events", json={"events": events}, headers=WRITE)
        assert answer.json() == {"accepted": 2}
        wait_until(lambda: market.has("events"))
    assert {*market.frame("events")["received"]} == {"key"} and market.frame("events")["network"].null_count() == 2


def test_a_key_that_may_only_read_is_in_every_copy_of_an_app(market: Market) -> None:
    with application(market, open_events=(2.0, 100.0)) as app:
        _, secret = app.state.services.catalogue.keys.add("storefront", ["read"])
        client = TestClient(app, headers={"X-API-Key": secret})
        events = {"events": [event(), event()]}
        assert client.post("/v1/events", json=events).json() == {"accepted": 2, "unsigned": 2}
        assert client.post("/v1/events", json=events).status_code == 429


def test_a_search_leads_to_nothing_before_it_began(market: Market) -> None:
    signer, began = QuerySigner(b"k"), datetime.now(UTC) - timedelta(hours=2)
    query_id = signer.sign("0" * 24, int(began.timestamp()), "red chair")
    before, after = (began + timedelta(minutes=minutes) for minutes in (-6, -4))
    events = [event(query_id=query_id, timestamp=str(moment)) for moment in (before, after)]
    times = [datetime.fromisoformat(row["timestamp"]) for row in receive(events, Stranger("n", signer, DAY)).rows]
    assert times[1] == after and times[0] > datetime.now(UTC) - timedelta(minutes=1)


def test_nobody_fills_the_columns_that_are_the_servers(market: Market) -> None:
    with application(market, flush_seconds=0.05) as app:
        assert sent(app, "10.0.0.1", received="key", network=None) == {"unsigned": 2}
        wait_until(lambda: market.has("events"))
    assert {*market.frame("events")["received"]} == {"unsigned"} and market.frame("events")["network"].null_count() == 0
