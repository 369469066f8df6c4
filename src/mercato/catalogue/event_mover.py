"""The event mover: from the catalogue's log, where events are acknowledged, to the market's table, which is mined.

Each move writes `events/live-CATALOGUE-FIRST-LAST.parquet` whole, then deletes the rows FIRST … LAST from the log. A
process killed between the two leaves both; `recover` deletes what a file already holds, so an event is in the table
exactly once. The catalogue's own name is part of the file's: a new catalogue does not mistake old files for its own.
"""

from __future__ import annotations

import io
import os
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mercato.catalogue.store import Catalogue
from mercato.data.schema import EVENTS
from mercato.files import write_atomic


class EventMover:
    """Moves a catalogue's events to Parquet files in a folder. One process moves at a time."""

    def __init__(self, catalogue: Catalogue, folder: Path, rows_per_file: int = 50_000) -> None:
        self._catalogue, self._folder, self._rows = catalogue, folder, rows_per_file
        self._prefix = f"live-{catalogue.settings.secret('name').hex()[:8]}-"

    def recover(self) -> None:
        """Delete the events that a file already holds; call it once, before the first `move`."""
        for file in self._folder.glob(f"{self._prefix}*.parquet"):
            first, last = file.stem.removeprefix(self._prefix).split("-")
            self._catalogue.events.delete(int(first), int(last))

    def move(self) -> int:
        """Move the oldest events, one file's worth; returns how many."""
        events = self._catalogue.events.oldest(self._rows)
        if not events:
            return 0
        first, last = events[0][0], events[-1][0]
        rows = [row | {"timestamp": datetime.fromisoformat(row["timestamp"])} for _, row in events]
        content = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows, schema=EVENTS), content)
        write_atomic(self._folder / f"{self._prefix}{first:012}-{last:012}.parquet", content.getvalue())
        _sync(self._folder)
        self._catalogue.events.delete(first, last)
        return len(events)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
