from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mercato.data.schema import EVENTS
from mercato.data.ubi import SEVERAL, locate, looks_like_ubi, stand_in

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
        "position": {"ordinal": 3, "placed_by": "exploration"},
        "country": "US",
        "latitude": 40.5,
        "longitude": -70,
    },
}


def test_an_event_has_the_columns_of_the_events_table() -> None:
    assert locate(CLICK) == (
        {
            "timestamp": "2018-11-13T20:20:39+02:00",
            "query_id": "00112233-4455-6677-8899-aabbccddeeff",
            "session_id": "s1",
            "client_id": "browser-7",
            "action_name": "click",
            "user_query": "lamp",
            "product_id": "P-1",
            "position": 3,
            "placed_by": "exploration",
            "country": "US",
            "latitude": 40.5,
            "longitude": -70,
            "received": None,
            "network": None,
        },
        [],
    )


def test_a_value_at_the_top_goes_before_one_in_the_attributes() -> None:
    flat = {"product_id": "P-2", "position": 1, "placed_by": " ", "country": "de"}
    assert locate(CLICK | flat).values == locate(CLICK).values | flat | {"placed_by": "exploration"}
    assert locate(CLICK, flat=["product_id"]).values["product_id"] is None
    assert locate(CLICK | {"product_id": 0}).values["product_id"] == 0


def test_a_query_record_is_a_search() -> None:
    query = {"user_query": "lamp", "query_id": "q", "query_attributes": {"country": "es", "session_id": "s"}}
    found = locate(query).values
    assert (found["action_name"], found["country"], found["session_id"]) == ("search", "es", "s")
    assert locate(query | {"action_name": " "}).values["action_name"] == "search"
    assert locate(query | {"action_name": "click"}).values["action_name"] == "click"
    assert locate(query | {"user_query": " "}).values["action_name"] is None
    assert locate(query, flat=["action_name"]).values["action_name"] is None


@pytest.mark.parametrize(
    ("attributes", "product", "position", "aside"),
    [
        ('{"object": {"object_id": "1"}}', "1", None, []),
        ("{", None, None, [("event_attributes", "is not an object", "{")]),
        ([1], None, None, [("event_attributes", "is not an object", [1])]),
        ({"object": "1"}, None, None, [("event_attributes.object", "is not an object", "1")]),
        (
            {"object": {"object_id": "1"}, "position": 3},
            "1",
            None,
            [("event_attributes.position", "is not an object", 3)],
        ),
        ({"object": [{"object_id": "1"}], "position": {"ordinal": 2}}, "1", 2, []),
        ({"object": {"object_id": ["1", "2"]}}, "1", None, [("event_attributes.object.object_id", SEVERAL, ["2"])]),
        (
            {"object": [{"object_id": "1"}, {"object_id": "2"}], "position": {"ordinal": 2}},
            "1",
            2,
            [("event_attributes.object", SEVERAL, [{"object_id": "2"}])],
        ),
    ],
)
def test_attributes_that_are_none_cost_themselves(
    attributes: object, product: str | None, position: int | None, aside: list[tuple[str, str, object]]
) -> None:
    found = locate({**CLICK, "event_attributes": attributes})
    assert (found.values["product_id"], found.values["position"], found.aside) == (product, position, aside)
    assert found.values["user_query"] == "lamp"


def test_another_event_of_the_query_then_the_client_then_the_query_stands_for_a_session() -> None:
    sessions = ["s", None, None, None, None]
    clients = ["c", "c", "c", None, None]
    queries = ["q", "q", "r", "t", None]
    assert stand_in(sessions, clients, queries) == ["s", "s", "c", "t", None]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["object", "position", "ordinal", "object_id", "placed_by"]), inner)
    ),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([*CLICK, "query_attributes", "country", "latitude"]), JSON))
def test_any_json_has_the_columns(record: dict[str, object]) -> None:
    assert list(locate(record).values) == EVENTS.names


FLAT = ["timestamp", "session_id", "query_id", "action_name", "user_query", "product_id"]


@pytest.mark.parametrize(
    ("names", "ubi"),
    [
        (CLICK.keys(), True),
        ([*FLAT, "event_attributes"], True),  # its flat columns are read too
        (["timestamp", "query_id", "user_query", "query_response_hit_ids", "shop"], True),
        (["timestamp", "query_id", "client_id", "user_query"], True),  # a query record
        (["timestamp", "query_id", "session_id", "user_query", "application"], True),
        (["timestamp", "query_id", "client_id", "action_name"], True),
        (["timestamp", "query_id", "action_name"], False),
        (["timestamp", "client_id", "user_query"], False),
        (["query_id", "client_id", "user_query"], False),
        (FLAT, False),
        ([*FLAT, "client_id"], False),
        ([*FLAT[:-1], "client_id", "sku"], False),  # a map renames the product
        (["timestamp", "query_id", "client_id", "user_query", "sku"], False),  # and gives the action
        (["timestamp", "query_id", "client_id", "action_name", "product_id"], False),
        (["timestamp", "session_id", "product_id", "client_id"], False),
        (["client_id"], False),
        ([], False),
    ],
)
def test_ubi_is_told_from_a_flat_log_that_knows_clients(names: list[str], ubi: bool) -> None:
    assert looks_like_ubi(names) == ubi
