"""The event mover: from the catalogue's log, where events are acknowledged, to the market's table, which is mined.

Each move writes `events/live-CATALOGUE-FIRST-LAST.parquet` whole, then deletes the rows FIRST … LAST from the log. A
process killed between the two leaves both; `recover` deletes what a file already holds, so an event is in the table
exactly once. The catalogue's own name is part of the file's: a new catalogue does not mistake old files for its own.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from mercato.catalogue.store import Catalogue
from mercato.data.schema import EVENTS
from mercato.files import sync, write_atomic


class EventMover:
    """Moves a catalogue's events to Parquet files in a folder. Of the processes that do, one moves at a time."""

    def __init__(self, catalogue: Catalogue, folder: Path, rows_per_file: int = 50_000) -> None:
        self._catalogue, self._folder, self._rows = catalogue, folder, rows_per_file
        self._lock = folder / ".moving.lock"
        self._prefix = f"live-{catalogue.settings.secret('name').hex()[:8]}-"

    def recover(self) -> None:
        """Delete the events that a file already holds; call it once, before the first `move`."""
        with self._moving():
            for first, last in self._moved():
                self._catalogue.events.delete(first, last)

    def move(self) -> int:
        """Move the oldest events, one file's worth; returns how many."""
        if not self._catalogue.events.oldest(1):
            return 0
        with self._moving():
            return self._move()

    def _move(self) -> int:
        events = self._catalogue.events.oldest(self._rows)
        if not events:
            return 0
        for first, last in self._moved():
            if first <= events[0][0] <= last:  # another process was killed between its file and its delete
                self._catalogue.events.delete(first, last)
                return last - first + 1
        first, last = events[0][0], events[-1][0]
        rows = [row | {"timestamp": datetime.fromisoformat(row["timestamp"])} for _, row in events]
        content = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows, schema=EVENTS), content)
        write_atomic(self._folder / f"{self._prefix}{first:012}-{last:012}.parquet", content.getvalue())
        sync(self._folder)
        self._catalogue.events.delete(first, last)
        return len(events)

    def _moving(self) -> FileLock:
        self._folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self._lock)

    def _moved(self) -> Iterator[tuple[int, int]]:
        """The first and the last event of each file of this catalogue."""
        for file in self._folder.glob(f"{self._prefix}*.parquet"):
            first, last = file.stem.removeprefix(self._prefix).split("-")
            yield int(first), int(last)
