"""The log mover: from a log of the catalogue, where rows are acknowledged, to the market's table, which is mined.

Each move writes `TABLE/live-CATALOGUE-FIRST-LAST.parquet` whole, then deletes the rows FIRST … LAST from the log. A
process killed between the two leaves both; `recover` deletes what a file already holds, so a row is in the table
exactly once. The catalogue's own name is part of the file's: a new catalogue does not mistake old files for its own.
Later the files are merged (`mercato.catalogue.tidying`).
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from mercato.catalogue.row_log import RowLog
from mercato.catalogue.store import Catalogue
from mercato.data.live import live_file_name, moved_at, split_merged
from mercato.data.schema import TABLES, TIMESTAMP
from mercato.files import atomic_files, sweep

BYTES_PER_FILE = 1 << 24  # of rows, as the log has them: as many again and more are in memory while they are moved


class LogMover:
    """Moves what a catalogue has logged of a table ("events", "features") to Parquet files of a market (mode 0600).

    Of the processes that do, one moves at a time.
    """

    def __init__(self, catalogue: Catalogue, market: Path, table: str, rows_per_file: int = 50_000) -> None:
        self._log: RowLog = getattr(catalogue, table)
        self.table, self.folder = table, market / table
        self._schema, self._rows = TABLES[table], rows_per_file
        self._times = [field.name for field in self._schema if field.type == TIMESTAMP]
        self._catalogue = catalogue.name

    def recover(self) -> None:
        """Delete the rows that a file already holds, and what killed processes left half; call it before any `move`."""
        with self.moving():
            sweep(self.folder, f"live-{self._catalogue}-*")
            for first, last in self._moved():
                self._log.delete(first, last)
            for file in self.folder.glob("live-*.parquet"):  # older versions let everybody read them
                file.chmod(0o600)

    def move(self) -> int:
        """Move the oldest rows, one file's worth; returns how many."""
        if not self._log.oldest(1):
            return 0
        with self.moving():
            return self._move()

    def _move(self) -> int:
        found = self._log.oldest(self._rows, BYTES_PER_FILE)
        if not found:
            return 0
        for first, last in self._moved():
            if first <= found[0][0] <= last:  # another process was killed between its file and its delete
                self._log.delete(first, last)
                return last - first + 1
        first, last = found[0][0], found[-1][0]
        rows = [row | {name: datetime.fromisoformat(row[name]) for name in self._times} for _, row in found]
        table = pa.Table.from_pylist(rows, schema=self._schema.with_metadata(moved_at(datetime.now(UTC))))
        with atomic_files(self.folder / live_file_name(self._catalogue, first, last), mode=0o600) as (fresh,):
            pq.write_table(table, fresh)
        self._log.delete(first, last)
        return len(found)

    def moving(self) -> FileLock:
        """Held by who moves: while another holds it, no row leaves the log for a file."""
        return moving_lock(self.folder)

    def _moved(self) -> Iterator[tuple[int, int]]:
        """The first and the last row of each file of this catalogue."""
        for file in split_merged(self.folder.glob("live-*.parquet"))[0]:
            if file.catalogue == self._catalogue:
                yield file.first, file.last


def moving_lock(folder: Path) -> FileLock:
    """Held by who moves rows into a table's folder, and by who must not have a row leave the log meanwhile."""
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / ".moving.lock")
