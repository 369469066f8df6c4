"""User Behavior Insights 1.3 (github.com/o19s/ubi, schema/1.3.0): its JSON records ↔ rows of the `events` table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mercato.data.coercion import parse_time
from mercato.data.rules import PLACED_BY
from mercato.errors import MercatoError


def parse_ubi_event(record: Mapping[str, Any]) -> dict[str, Any]:
    """One UBI event, or UBI query, as a row of the `events` table.

    A query record (a `user_query` and no `action_name`) becomes the action "search". The session is `session_id`, else
    `client_id`, else the `query_id` alone. `country`, `latitude` and `longitude` are Mercato's additions, at the top or
    in `event_attributes` (the standard lets attributes be extended), and `event_attributes.position.placed_by`.

    Args:
        record: decoded JSON with `action_name`, `timestamp` (ISO 8601), `query_id`, `client_id`, `session_id`,
            `user_query`, `event_attributes.object.object_id`, `event_attributes.position.ordinal`; others are ignored.

    Returns:
        A dictionary with every column of `EVENTS`; `timestamp` is a UTC datetime.

    Raises:
        MercatoError: a required field is missing, or one has a wrong type or range; the message begins with its name.
    """
    if not isinstance(record, Mapping):
        raise MercatoError("the event is not a JSON object")
    attributes = _object(record, "event_attributes", "event_attributes") or _object(
        record, "query_attributes", "query_attributes"
    )
    thing = _object(attributes, "object", "event_attributes.object")
    place = _object(attributes, "position", "event_attributes.position")
    query = _text(record, "user_query", None)
    query_id = _text(record, "query_id", 100)
    action = _text(record, "action_name", 100) or ("search" if query is not None else None)
    if action is None:
        raise MercatoError("action_name: is missing (a query record has a user_query instead)")
    session = _text(record, "session_id", 100) or _text(attributes, "session_id", 100)
    client = _text(record, "client_id", 100)
    session = session or client or query_id
    if session is None:
        raise MercatoError("session_id: is missing, and there is no client_id or query_id to stand for it")
    if record.get("timestamp") is None:
        raise MercatoError("timestamp: is missing")
    try:
        timestamp = parse_time(record["timestamp"])
    except ValueError as error:
        raise MercatoError(f"timestamp: {error}") from None
    country = _text(record, "country", 2) or _text(attributes, "country", 2)
    return {
        "timestamp": timestamp,
        "query_id": query_id,
        "session_id": session,
        "client_id": client,
        "action_name": action,
        "user_query": query,
        "product_id": _identifier(thing, "object_id", "event_attributes.object.object_id"),
        "position": _ordinal(place),
        "placed_by": _placed_by(place),
        "country": country.lower() if country else None,
        "latitude": _coordinate(record, attributes, "latitude", 90),
        "longitude": _coordinate(record, attributes, "longitude", 180),
    }


def share_sessions(rows: Sequence[tuple[Mapping[str, Any], dict[str, Any]]]) -> list[dict[str, Any]]:
    """Give rows whose record names no session that of the same query's other records; returns the rows."""
    known = {row["query_id"]: row["session_id"] for record, row in rows if record.get("session_id") and row["query_id"]}
    for record, row in rows:
        if not record.get("session_id"):
            row["session_id"] = known.get(row["query_id"], row["session_id"])
    return [row for _, row in rows]


def looks_like_ubi(names: Iterable[str]) -> bool:
    """Whether a file's top-level fields are those of UBI records rather than the flat `events` columns.

    A `client_id` tells nothing: both have one. UBI knows a product as an object of the event's attributes alone.
    """
    names = set(names)
    if "event_attributes" in names or "product_id" in names:
        return "event_attributes" in names
    return "action_name" not in names if "user_query" in names else "client_id" in names


def _object(record: Mapping[str, Any], name: str, field: str) -> Mapping[str, Any]:
    value = record.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise MercatoError(f"{field}: is not an object")
    return value


def _text(record: Mapping[str, Any], name: str, longest: int | None) -> str | None:
    value = record.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise MercatoError(f"{name}: is not text")
    if longest is not None and len(value) > longest:
        raise MercatoError(f"{name}: has {len(value)} characters, at most {longest} are allowed")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise MercatoError(f"{name}: is not valid Unicode text") from None
    return value.strip() or None


def _identifier(record: Mapping[str, Any], name: str, field: str) -> str | None:
    value = record.get(name)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > 256:
        raise MercatoError(f"{field}: is not text of at most 256 characters or a whole number")
    return _text({name: value}, name, None)


def _ordinal(place: Mapping[str, Any]) -> int | None:
    value = place.get("ordinal")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
        raise MercatoError("event_attributes.position.ordinal: is not a whole number from 0")
    return value


def _placed_by(place: Mapping[str, Any]) -> str | None:
    value = place.get("placed_by")
    if value is not None and value not in PLACED_BY:
        raise MercatoError(f"event_attributes.position.placed_by: is none of {', '.join(PLACED_BY)}")
    return value


def _coordinate(record: Mapping[str, Any], attributes: Mapping[str, Any], name: str, bound: int) -> float | None:
    value = record.get(name, attributes.get(name))
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not -bound <= value <= bound:
        raise MercatoError(f"{name}: is not a number from -{bound} to {bound}")
    return float(value)
