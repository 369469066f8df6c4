"""The log mover: from a log of the catalogue, where rows are acknowledged, to the market's table, which is mined.

Each move writes `TABLE/live-CATALOGUE-FIRST-LAST.parquet` whole, then deletes the rows FIRST … LAST from the log. A
process killed between the two leaves both; `recover` deletes what a file already holds, so a row is in the table
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

from mercato.catalogue.row_log import RowLog
from mercato.catalogue.store import Catalogue
from mercato.data.schema import TABLES, TIMESTAMP
from mercato.files import write_atomic


class LogMover:
    """Moves what a catalogue has logged of a table ("events", "features") to Parquet files of a market.

    Of the processes that do, one moves at a time.
    """

    def __init__(self, catalogue: Catalogue, market: Path, table: str, rows_per_file: int = 50_000) -> None:
        self._log: RowLog = getattr(catalogue, table)
        self._schema, self._folder, self._rows = TABLES[table], market / table, rows_per_file
        self._times = [field.name for field in self._schema if field.type == TIMESTAMP]
        self._lock = self._folder / ".moving.lock"
        self._prefix = f"live-{catalogue.settings.secret('name').hex()[:8]}-"

    def recover(self) -> None:
        """Delete the rows that a file already holds, and what killed processes left half; call it before any `move`."""
        with self._moving():
            for left in self._folder.glob(f".{self._prefix}*"):
                left.unlink()
            for first, last in self._moved():
                self._log.delete(first, last)

    def move(self) -> int:
        """Move the oldest rows, one file's worth; returns how many."""
        if not self._log.oldest(1):
            return 0
        with self._moving():
            return self._move()

    def _move(self) -> int:
        found = self._log.oldest(self._rows)
        if not found:
            return 0
        for first, last in self._moved():
            if first <= found[0][0] <= last:  # another process was killed between its file and its delete
                self._log.delete(first, last)
                return last - first + 1
        first, last = found[0][0], found[-1][0]
        rows = [row | {name: datetime.fromisoformat(row[name]) for name in self._times} for _, row in found]
        content = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows, schema=self._schema), content)
        write_atomic(self._folder / f"{self._prefix}{first:012}-{last:012}.parquet", content.getvalue())
        self._log.delete(first, last)
        return len(found)

    def _moving(self) -> FileLock:
        self._folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self._lock)

    def _moved(self) -> Iterator[tuple[int, int]]:
        """The first and the last row of each file of this catalogue."""
        for file in self._folder.glob(f"{self._prefix}*.parquet"):
            first, last = file.stem.removeprefix(self._prefix).split("-")
            yield int(first), int(last)
