"""Events: what searchers saw and did, as anybody may send it and as rows of the market's table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from mercato.catalogue.query_ids import QuerySigner, Search
from mercato.data.coercion import coerce
from mercato.data.rules import violations
from mercato.data.schema import EVENTS, OF_SERVERS, REQUIRED
from mercato.data.ubi import PLACES, locate, stand_in
from mercato.errors import MercatoError

_AHEAD, _BACK = timedelta(minutes=5), timedelta(hours=24)  # how far a browser's clock is believed
_LONGEST = {"action_name": 100, "user_query": 512}  # of a log that anybody writes to
_TOLD = 100  # values that were set aside, one by one


class Received(NamedTuple):
    """Events as rows of the schema (`timestamp` in ISO 8601).

    Attributes:
        set_aside: what is not in them: "events.1.latitude: why".
        unsigned: how many of them came without a key and without a signed query id.
    """

    rows: list[dict[str, Any]]
    set_aside: list[str]
    unsigned: int


@dataclass(frozen=True)
class Stranger:
    """Who sends events without a key: from a network, and signed as far as a query id of theirs was."""

    network: str
    signer: QuerySigner
    lifetime: timedelta  # of the query ids

    def read(self, query_id: str | None) -> Search | None:
        """The search of a signed query id."""
        return self.signer.read(query_id, self.lifetime)


def receive(events: Sequence[Mapping[str, Any]], sender: Stranger | None = None) -> Received:
    """UBI events as anybody may send them; `sender` is None where they came with a key.

    One wrong value must not spoil the log that mining reads, nor cost the event: it is set aside. So is the query text
    of a stranger that is not what the search of its query id was for. A time more than five minutes ahead or a day back
    is replaced by the time of receipt, and so is one before the search of a signed query id.

    Raises:
        MercatoError: an event lacks what it must have; the message begins with its number and field.
    """
    now, located = datetime.now(UTC), [locate(event) for event in events]
    wrong = [{field: why for field, why, _ in one.aside} for one in located]
    columns: dict[str, list[Any]] = {}
    for column in EVENTS:
        given = [one.values[column.name] for one in located] if column.name not in OF_SERVERS else [None] * len(events)
        columns[column.name], bad = _read(column, given)
        for row, why in bad:
            wrong[row][_place(column.name, events[row])] = why
    columns["session_id"] = stand_in(columns["session_id"], columns["client_id"], columns["query_id"])
    searches: list[Search | None] = [None] * len(events)
    if sender is None:
        columns["received"] = ["key"] * len(events)
    else:
        searches = [sender.read(query_id) for query_id in columns["query_id"]]
        columns["received"] = ["signed" if search else "unsigned" for search in searches]
        columns["network"] = [sender.network] * len(events)
        for row, (search, query) in enumerate(zip(searches, columns["user_query"], strict=True)):
            if search and query and not search.asked_for(query):
                columns["user_query"][row], wrong[row]["user_query"] = None, "is not what its query_id was given for"
    for row, reasons in enumerate(wrong):
        for name in REQUIRED["events"]:
            if name in reasons or columns[name][row] is None:
                raise MercatoError(f"events.{row}.{name}: {reasons.get(name, 'is missing')}")
    columns["timestamp"] = [
        _believed(moment, now, search).isoformat()
        for moment, search in zip(columns["timestamp"], searches, strict=True)
    ]
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    told = [f"events.{row}.{field}: {why}" for row, of in enumerate(wrong) for field, why in of.items()]
    more = [f"and {len(told) - _TOLD:,} more values were set aside"] if len(told) > _TOLD else []
    return Received(rows, told[:_TOLD] + more, columns["received"].count("unsigned"))


def _read(column: pa.Field, given: list[Any]) -> tuple[list[Any], list[tuple[int, str]]]:
    """A column's values, null where they are wrong, and why these are."""
    result, unreadable = coerce(column.name, column.type, given)
    bad = [(one.row, one.why) for one in unreadable]
    if column.name == "action_name":  # a number is none that anybody would ask for
        bad += [(row, "is not text") for row, value in enumerate(given) if not isinstance(value, str | None)]
    bad += [(row, why) for why, rows in _rules(column.name, result) for row in rows]
    values: list[Any] = result.to_pylist()
    for row, _ in bad:
        values[row] = None
    return values, bad


def _rules(name: str, values: pa.ChunkedArray) -> Iterator[tuple[str, list[int]]]:
    if name == "timestamp":  # one that cannot be is replaced
        return
    for why, rows in violations("events", name, values):
        yield why, rows.tolist()
    if longest := _LONGEST.get(name):
        long = pc.fill_null(pc.greater(pc.utf8_length(values), longest), False).to_pylist()
        yield f"is longer than {longest} characters", [row for row, is_long in enumerate(long) if is_long]


def _place(column: str, event: Mapping[str, Any]) -> str:
    return column if event.get(column) is not None else PLACES.get(column, column)


def _believed(moment: datetime, now: datetime, search: Search | None) -> datetime:
    began = datetime.fromtimestamp(search.begun, UTC) - _AHEAD if search else now - _BACK
    return moment if max(began, now - _BACK) <= moment <= now + _AHEAD else now
