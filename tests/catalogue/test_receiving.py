"""Events as anybody may send them: a wrong value is set aside and said, an event that is none is refused."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mercato.catalogue.events import receive
from mercato.data.schema import EVENTS
from mercato.errors import MercatoError
from tests.support.served import event

PLACE = "event_attributes.position"


def attributes(**given: Any) -> dict[str, Any]:
    return event(event_attributes={"object": {"object_id": "p00"}, "position": {"ordinal": 1}} | given)


@pytest.mark.parametrize(
    ("wrong", "told", "lost"),
    [
        (attributes(position={"ordinal": "third"}), f"{PLACE}.ordinal: is not a number", "position"),
        (attributes(position={"ordinal": -1}), f"{PLACE}.ordinal: is negative", "position"),
        (attributes(position=3), f"{PLACE}: is not an object", "position"),
        (attributes(position={"placed_by": "luck"}), f"{PLACE}.placed_by: is none of pin, exploration", "placed_by"),
        (attributes(latitude=900), "latitude: is outside -90 … 90", "latitude"),
        (attributes(longitude="far"), "longitude: is not a number", "longitude"),
        (attributes(country="USA"), "country: is not a two-letter lower-case ISO 3166-1 code", "country"),
        (
            attributes(object={"object_id": "x" * 257}),
            "event_attributes.object.object_id: is longer than 256 characters",
            "product_id",
        ),
        (event(product_id={}), "product_id: is not text", "product_id"),
        (event(client_id="x" * 257), "client_id: is longer than 256 characters", "client_id"),
        (event(user_query="x" * 513), "user_query: is longer than 512 characters", "user_query"),
        (event(query_id="a\nb"), "query_id: has a control character or a line break", "query_id"),
        (event(query_id=[{}]), "query_id: is not text", "query_id"),
        (event(user_query={"text": "lamp"}), "user_query: is not text", "user_query"),
    ],
)
def test_a_wrong_value_is_set_aside_and_the_batch_is_kept(wrong: dict[str, Any], told: str, lost: str) -> None:
    received = receive([event("search"), wrong, event()])
    assert received.set_aside == [f"events.1.{told}"]
    assert [row["action_name"] for row in received.rows] == ["search", "click", "click"]
    assert received.rows[1][lost] is None
    right = {name: value for name, value in received.rows[2].items() if name not in (lost, "timestamp", "position")}
    assert right.items() <= received.rows[1].items()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"timestamp": "yesterday"}, "timestamp: is not an ISO 8601 time or an epoch"),
        ({"timestamp": 10**400}, "timestamp: "),
        ({"timestamp": None}, "timestamp: is missing"),
        ({"action_name": 3}, "action_name: is not text"),
        ({"action_name": "x" * 101}, "action_name: is longer than 100"),
        ({"action_name": None, "user_query": None}, "action_name: is missing"),
        ({"session_id": "x" * 257}, "session_id: is longer than 256"),
        ({"session_id": None, "client_id": None, "query_id": None}, "session_id: is missing"),
    ],
)
def test_an_event_without_what_it_needs_refuses_the_batch_with_its_place(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(MercatoError, match=rf"^events\.1\.{told}"):
        receive([event(), event(**wrong), event(timestamp=None)])


def test_the_longest_values_are_kept() -> None:
    longest = {"query_id": "q" * 256, "session_id": "s" * 256, "client_id": "c" * 256, "action_name": "a" * 100}
    longest |= {"user_query": "u" * 512}
    received = receive([event(**longest, product_id="p" * 256)])
    assert received.set_aside == [] and longest.items() <= received.rows[0].items()
    assert received.rows[0]["product_id"] == "p" * 256


def test_times_near_now_are_believed() -> None:
    now = datetime.now(UTC)
    near = [now - timedelta(hours=23), now + timedelta(minutes=4)]
    far = [now - timedelta(hours=25), now + timedelta(minutes=6), datetime(9999, 12, 31, tzinfo=UTC)]
    received = receive([event(timestamp=moment.isoformat()) for moment in near + far])
    moments = [datetime.fromisoformat(row["timestamp"]) for row in received.rows]
    assert moments[:2] == near and received.set_aside == []
    assert all(abs(moment - now) < timedelta(minutes=1) for moment in moments[2:])


def test_a_long_list_of_values_is_cut() -> None:
    told = receive([attributes(latitude=900)] * 103).set_aside
    assert (len(told), told[99], told[100]) == (
        101,
        "events.99.latitude: is outside -90 … 90",
        "and 3 more values were set aside",
    )
    assert len(receive([attributes(latitude=900)] * 100).set_aside) == 100


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.just(10**400),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["object", "position", "ordinal", "object_id", "country"]), inner)
    ),
    max_leaves=5,
)


@given(st.lists(st.dictionaries(st.sampled_from([*event(), "client_id", "product_id", "latitude"]), JSON), max_size=3))
def test_any_json_is_taken_or_refused_by_its_place(wild: list[dict[str, Any]]) -> None:
    try:
        received = receive([event(), *wild])
    except MercatoError as error:
        assert str(error).startswith("events.")
        return
    assert len(received.rows) == 1 + len(wild)
    assert all(list(row) == EVENTS.names for row in received.rows)
    json.dumps(received, allow_nan=False).encode()
