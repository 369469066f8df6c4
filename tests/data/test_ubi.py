from __future__ import annotations

from datetime import UTC, datetime

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mercato.data.schema import EVENTS
from mercato.data.ubi import looks_like_ubi, parse_ubi_event, share_sessions
from mercato.errors import MercatoError

CLICK = {
    "application": "shop",
    "action_name": "click",
    "query_id": "00112233-4455-6677-8899-aabbccddeeff",
    "session_id": "s1",
    "client_id": "browser-7",
    "timestamp": "2018-11-13T20:20:39+02:00",
    "user_query": "lamp",
    "event_attributes": {
        "object": {"object_id": "P-1", "object_id_field": "sku"},
        "position": {"ordinal": 3},
        "country": "US",
        "latitude": 40.5,
        "longitude": -70,
    },
}


def test_an_event_becomes_a_row_of_the_events_table() -> None:
    assert parse_ubi_event(CLICK) == {
        "timestamp": datetime(2018, 11, 13, 18, 20, 39, tzinfo=UTC),
        "query_id": "00112233-4455-6677-8899-aabbccddeeff",
        "session_id": "s1",
        "client_id": "browser-7",
        "action_name": "click",
        "user_query": "lamp",
        "product_id": "P-1",
        "position": 3,
        "placed_by": None,
        "country": "us",
        "latitude": 40.5,
        "longitude": -70.0,
    }


def test_what_placed_the_product_is_kept() -> None:
    attributes = {**CLICK["event_attributes"], "position": {"ordinal": 3, "placed_by": "exploration"}}
    row = parse_ubi_event({**CLICK, "event_attributes": attributes})
    assert row == parse_ubi_event(CLICK) | {"placed_by": "exploration"}


def test_a_query_record_is_a_search_and_takes_the_session_of_its_events() -> None:
    query = {"user_query": "lamp", "query_id": CLICK["query_id"], "client_id": "b", "timestamp": "2018-11-13T18:20:00Z"}
    rows = share_sessions([(record, parse_ubi_event(record)) for record in (query, CLICK)])
    assert pa.Table.from_pylist(rows, schema=EVENTS).column_names == EVENTS.names
    assert [row["action_name"] for row in rows] == ["search", "click"]
    assert [row["session_id"] for row in rows] == ["s1", "s1"]


def test_the_client_then_the_query_stands_for_a_missing_session() -> None:
    assert parse_ubi_event({**CLICK, "session_id": None})["session_id"] == "browser-7"
    assert parse_ubi_event({**CLICK, "session_id": None, "client_id": None})["session_id"] == CLICK["query_id"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"action_name": None, "user_query": None}, "action_name"),
        ({"action_name": 5}, "action_name"),
        ({"action_name": "x" * 101}, "action_name"),
        ({"timestamp": None}, "timestamp"),
        ({"timestamp": "yesterday"}, "timestamp"),
        ({"timestamp": True}, "timestamp"),
        ({"query_id": ["q"]}, "query_id"),
        ({"session_id": None, "client_id": None, "query_id": None}, "session_id"),
        ({"user_query": "\ud800"}, "user_query"),
        ({"event_attributes": "none"}, "event_attributes"),
        ({"event_attributes": {"object": []}}, "event_attributes.object"),
        ({"event_attributes": {"object": {"object_id": 1.5}}}, "event_attributes.object.object_id"),
        ({"event_attributes": {"position": {"ordinal": -1}}}, "event_attributes.position.ordinal"),
        ({"event_attributes": {"position": {"ordinal": "1"}}}, "event_attributes.position.ordinal"),
        ({"event_attributes": {"position": {"placed_by": "luck"}}}, "event_attributes.position.placed_by"),
        ({"event_attributes": {"position": {"placed_by": []}}}, "event_attributes.position.placed_by"),
        ({"event_attributes": {"latitude": 91}}, "latitude"),
        ({"event_attributes": {"longitude": float("nan")}}, "longitude"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, object], field: str) -> None:
    with pytest.raises(MercatoError, match=f"^{field}: "):
        parse_ubi_event({**CLICK, **change})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["object", "position", "ordinal", "object_id", "placed_by"]), inner)
    ),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([*CLICK, "query_attributes", "country", "latitude"]), JSON))
def test_any_json_is_a_row_or_a_clear_error(record: dict[str, object]) -> None:
    try:
        assert list(parse_ubi_event(record)) == EVENTS.names
    except MercatoError as error:
        assert ": " in str(error)


FLAT = ["timestamp", "session_id", "query_id", "action_name", "user_query", "product_id"]


@pytest.mark.parametrize(
    ("names", "ubi"),
    [
        (CLICK.keys(), True),
        (["timestamp", "query_id", "client_id", "user_query"], True),  # a query record
        (["timestamp", "query_id", "client_id", "action_name"], True),
        (FLAT, False),
        ([*FLAT, "client_id"], False),
        ([*FLAT[:-1], "client_id", "sku"], False),  # a map renames the product
        (["timestamp", "session_id", "product_id", "client_id"], False),  # and a map gives the action
    ],
)
def test_ubi_is_told_from_a_flat_log_that_knows_clients(names: list[str], ubi: bool) -> None:
    assert looks_like_ubi(names) == ubi
