"""User Behavior Insights 1.3 (github.com/o19s/ubi, schema/1.3.0): where its JSON records have the `events` columns."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from mercato.data.mapping import Section, missing_column
from mercato.data.reading import Aside, Source, Values
from mercato.data.schema import EVENTS

ATTRIBUTES = ("event_attributes", "query_attributes")
PLACES = {
    "product_id": "event_attributes.object.object_id",
    "position": "event_attributes.position.ordinal",
    "placed_by": "event_attributes.position.placed_by",
}
SEVERAL = "are products after the first: log an event of each"
_OWN = {*ATTRIBUTES, "query_response_id", "query_response_hit_ids", "object_id_field"}
_SHARED = {"application", "message", "message_type", "query_id", "session_id", "client_id"}
_SHARED |= {"timestamp", "action_name", "user_query", "country", "latitude", "longitude"}


class Located(NamedTuple):
    """A record's values by column, as they are; and what can be none of them: (field, why, value)."""

    values: dict[str, Any]
    aside: list[tuple[str, str, Any]]


def looks_like_ubi(names: Iterable[str]) -> bool:
    """Whether a file's top-level fields are those of UBI records rather than the flat `events` columns.

    They are where one is UBI's own; or where all are UBI's, and as flat columns would lack what every event needs: the
    action of a query record, the session of an event that a client stands for.
    """
    names = set(names)
    if names & _OWN:
        return True
    if not {"timestamp", "query_id"} <= names <= _SHARED:
        return False
    if "action_name" in names:
        return "client_id" in names and "session_id" not in names
    return "user_query" in names


def locate(record: Mapping[str, Any], flat: Collection[str] = ()) -> Located:
    """The values of one UBI event, or UBI query, by columns of `events`; nothing is checked, none is lost unsaid.

    A value at the top goes before one in the attributes, and alone counts for the columns that are `flat`. A query
    record (a `user_query` and no `action_name`) becomes the action "search". `country`, `latitude` and `longitude` are
    Mercato's additions, as is `event_attributes.position.placed_by`: the standard lets attributes be extended.
    """
    aside: list[tuple[str, str, Any]] = []
    event, query = (_object(_decoded(record.get(name)), name, aside) for name in ATTRIBUTES)
    attributes = event or query
    thing = attributes.get("object")
    if isinstance(thing, list) and thing:
        thing = _first(thing, "event_attributes.object", aside)
    thing = _object(thing, "event_attributes.object", aside)
    place = _object(attributes.get("position"), "event_attributes.position", aside)
    product = thing.get("object_id")
    if isinstance(product, list) and product:
        product = _first(product, PLACES["product_id"], aside)
    nested = {
        "product_id": product,
        "position": place.get("ordinal"),
        "placed_by": place.get("placed_by"),
        **{name: attributes.get(name) for name in ("session_id", "country", "latitude", "longitude")},
    }
    values = {name: record.get(name) for name in EVENTS.names}
    for name, value in nested.items():
        if name not in flat and _blank(values[name]):
            values[name] = value
    if "action_name" not in flat and _blank(values["action_name"]) and not _blank(values["user_query"]):
        values["action_name"] = "search"
    return Located(values, aside)


def located_source(source: Source, section: Section) -> Source:
    """A file of UBI records with the `events` columns beside its own, the map's renames among them.

    Raises:
        MercatoError: the map names what the file lacks.
    """
    own = {name: source.objects(name) for name in ATTRIBUTES}
    nested = {name: [_decoded(value) for value in values] for name, values in own.items() if values is not None}
    source = replace(source, columns=source.columns | nested)
    records = source.records()
    for name, theirs in section.rename.items():
        values = source.objects(theirs)
        if values is None:
            raise missing_column(source, theirs)
        for record, value in zip(records, values, strict=True):
            record[name] = value
    flat = {*section.rename} - {"action_name"} | {*section.constant} & {"action_name"}
    located = [locate(record, flat) for record in records]
    columns: dict[str, Values] = {name: [one.values[name] for one in located] for name in EVENTS.names}
    aside = [Aside(number, *lost) for number, one in zip(source.numbers, located, strict=True) for lost in one.aside]
    return replace(source, columns=source.columns | columns, aside=aside)


def _decoded(attributes: Any) -> Any:
    """Attributes that a file without nested values has as JSON text."""
    if isinstance(attributes, str) and attributes.lstrip().startswith("{"):
        try:
            return json.loads(attributes)
        except (ValueError, RecursionError):
            pass
    return attributes


def stand_in(
    sessions: Sequence[str | None], clients: Sequence[str | None], queries: Sequence[str | None]
) -> list[str | None]:
    """The session of each event: its own, else that of another event of its query, else its client, else its query."""
    known = {query: session for query, session in zip(queries, sessions, strict=True) if query and session}
    return [
        session or known.get(query or "") or client or query
        for session, client, query in zip(sessions, clients, queries, strict=True)
    ]


def _blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _first(several: list[Any], field: str, aside: list[tuple[str, str, Any]]) -> Any:
    if len(several) > 1:
        aside.append((field, SEVERAL, several[1:]))
    return several[0]


def _object(value: Any, field: str, aside: list[tuple[str, str, Any]]) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return value
    if not _blank(value):
        aside.append((field, "is not an object", value))
    return {}
