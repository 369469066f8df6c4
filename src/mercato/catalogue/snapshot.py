"""A catalogue's SQLite file read as it is at one moment, in whatever version, while others go on writing to it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from mercato.catalogue.database import check_file, damaged, reading_only
from mercato.catalogue.ledger import FOLLOWED

_PAGES = 4_096  # of the file, 4 KiB each, between two words of progress


@dataclass(frozen=True)
class Snapshot:
    """A catalogue at one moment."""

    file: Path
    _connection: sqlite3.Connection

    @classmethod
    @contextmanager
    def of(cls, file: Path) -> Iterator[Snapshot]:
        """Read a catalogue as it is now, until the block ends; nothing is changed, and nobody waits.

        Raises:
            DamagedError: it is no catalogue, or not all of one.
        """
        check_file(file)
        with reading_only(file) as connection:
            connection.isolation_level = None  # the driver begins and ends nothing by itself
            connection.execute("BEGIN")
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # only reading begins a transaction
            yield cls(file, connection)

    @property
    def schema(self) -> int:
        """The version of its schema."""
        return int(self._one("SELECT version FROM schema_version")) if self._has("schema_version") else 1

    @property
    def last_number(self) -> int:
        """The number of its last write; 0: it is older than these numbers, and is to be read anew."""
        return int(self._one("SELECT last FROM writes")) if self._has("writes") else 0

    def setting(self, name: str) -> str | None:
        """A stored setting, or None."""
        found = self._connection.execute("SELECT value FROM settings WHERE name = ?", (name,)).fetchone()
        return None if found is None else str(found[0])

    def waiting(self) -> list[str]:
        """The products in the outbox."""
        return [name for (name,) in self._connection.execute("SELECT product_id FROM outbox ORDER BY product_id")]

    def follows(self, fingerprint: str) -> bool:
        """See `GenerationLedger.is_followed`."""
        return fingerprint in json.loads(self.setting(FOLLOWED) or "{}")

    def copy(self, target: Path, done: Callable[[float], object] = lambda _: None) -> None:
        """Write it to an empty file, and look for damage there; `done` is told of the shares of it that are.

        Raises:
            DamagedError: there is some.
        """
        left = 1.0

        def progress(_: int, remaining: int, total: int) -> None:
            nonlocal left
            now = remaining / max(total, 1)
            done(left - now)
            left = now

        with closing(sqlite3.connect(target)) as copy:
            self._connection.backup(copy, pages=_PAGES, progress=progress)
            (found,) = copy.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise damaged(self.file, found)

    def _has(self, table: str) -> bool:
        return bool(self._one("SELECT count(*) FROM sqlite_master WHERE name = ?", table))

    def _one(self, query: str, *given: str) -> int:
        return int(self._connection.execute(query, given).fetchone()[0])
