"""Events on their way from the catalogue, where they are acknowledged, to the market's table, where they are mined.

Each move writes `events/live-CATALOGUE-FIRST-LAST.parquet` whole, then drops the rows FIRST … LAST from the catalogue.
A process killed between the two leaves both; `recover` drops what a file already holds, so an event is in the table
exactly once. The catalogue's own name is part of the file's: a new catalogue does not mistake old files for its own.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mercato.catalogue.store import Catalogue
from mercato.data.schema import EVENTS
from mercato.data.ubi import parse_ubi_event, share_sessions
from mercato.errors import MercatoError
from mercato.files import write_atomic

_AHEAD, _BACK = timedelta(minutes=5), timedelta(hours=24)  # how far a browser's clock is believed
_COUNTRY = re.compile("[a-z]{2}")


def event_rows(events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """UBI events as anybody may send them, as rows of the events schema (`timestamp` in ISO 8601).

    One wrong value must not spoil the log that mining reads: a time more than five minutes ahead or a day back becomes
    the time of receipt, and a country that is not two letters becomes none.

    Raises:
        MercatoError: an event is not one; the message begins with its number and field.
    """
    now, rows = datetime.now(UTC), []
    for number, event in enumerate(events):
        try:
            rows.append((event, parse_ubi_event(_without_wrong_countries(event))))
        except MercatoError as error:
            raise MercatoError(f"events.{number}.{error}") from None
    return [row | {"timestamp": _believed(row["timestamp"], now).isoformat()} for row in share_sessions(rows)]


def _believed(moment: datetime, now: datetime) -> datetime:
    return moment if now - _BACK <= moment <= now + _AHEAD else now


def _without_wrong_countries(event: Mapping[str, Any]) -> Mapping[str, Any]:
    def checked(fields: Any) -> Any:
        if not isinstance(fields, Mapping) or "country" not in fields:
            return fields
        country = fields["country"]
        right = isinstance(country, str) and _COUNTRY.fullmatch(country.strip().lower())
        return {**fields, "country": country if right else None}

    nested = {name: checked(event[name]) for name in ("event_attributes", "query_attributes") if name in event}
    return {**checked(event), **nested}


class EventMover:
    """Moves a catalogue's events to Parquet files in a folder. One process moves at a time."""

    def __init__(self, catalogue: Catalogue, folder: Path, rows_per_file: int = 50_000) -> None:
        self._catalogue, self._folder, self._rows = catalogue, folder, rows_per_file
        self._prefix = f"live-{catalogue.secret('name').hex()[:8]}-"

    def recover(self) -> None:
        """Drop the events that a file already holds; call it once, before the first `move`."""
        for file in self._folder.glob(f"{self._prefix}*.parquet"):
            first, last = file.stem.removeprefix(self._prefix).split("-")
            self._catalogue.drop_events(int(first), int(last))

    def move(self) -> int:
        """Move the oldest events, one file's worth; returns how many."""
        events = self._catalogue.events(self._rows)
        if not events:
            return 0
        first, last = events[0][0], events[-1][0]
        rows = [row | {"timestamp": datetime.fromisoformat(row["timestamp"])} for _, row in events]
        content = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows, schema=EVENTS), content)
        write_atomic(self._folder / f"{self._prefix}{first:012}-{last:012}.parquet", content.getvalue())
        _sync(self._folder)
        self._catalogue.drop_events(first, last)
        return len(events)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
