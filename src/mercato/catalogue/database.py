"""The catalogue's database: connections and transactions, over SQLite or PostgreSQL.

What a write transaction committed is on disk (SQLite: WAL, synchronous=FULL).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from mercato.catalogue.migrations import migrate
from mercato.catalogue.tables import WRITES
from mercato.errors import FullError, MercatoError


class Database:
    """One SQL database. Safe to share between threads: writers take turns, readers never wait for them."""

    def __init__(self, url: str) -> None:
        """Use `Database.open`."""
        engine = sa.create_engine(url, hide_parameters=True)  # errors end in logs: no product, no person
        self._writer, self._reader, self._turn = engine, engine, Lock()
        self._insert: Any = postgresql.insert
        if engine.dialect.name == "sqlite":
            self._insert = sqlite.insert
            self._reader = sa.create_engine(url, pool_size=16, hide_parameters=True)
            sa.event.listen(self._reader, "connect", _prepare_sqlite)
            sa.event.listen(self._writer, "connect", _prepare_sqlite)
            sa.event.listen(self._writer, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))

    @classmethod
    def open(cls, where: str | Path) -> Self:
        """Open or create a database: a file path (SQLite; only its owner may read it) or an SQLAlchemy URL.

        An older version's tables are brought up to date, in one transaction.

        Raises:
            MercatoError: it cannot be opened, is not a catalogue, or was made by a newer version of Mercato.
        """
        is_url = "://" in str(where)
        shown = sa.engine.make_url(str(where)).render_as_string(hide_password=True) if is_url else where
        try:
            if not is_url:
                _keep_private(Path(where))
            database = cls(str(where) if is_url else f"sqlite:///{where}")
            with database.write() as connection:
                migrate(connection)
        except MercatoError as error:
            raise MercatoError(f"catalogue {shown}: {error}") from None
        except (sa.exc.SQLAlchemyError, OSError, ValueError) as error:
            raise MercatoError(f"catalogue {shown}: cannot be opened: {getattr(error, 'orig', error)}") from None
        return database

    def close(self) -> None:
        """Close every connection."""
        self._reader.dispose()
        self._writer.dispose()

    def read(self) -> AbstractContextManager[sa.Connection]:
        """A connection to read from."""
        return self._reader.connect()

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A write transaction, committed and on disk when the block ends, rolled back where it raises.

        Raises:
            FullError: the disk has no room for it.
        """
        try:
            with self._turn, self._writer.begin() as connection:
                yield connection
        except sa.exc.OperationalError as error:
            if "disk is full" in str(error.orig):
                raise FullError("the catalogue's disk is full") from None
            raise

    def numbers(self, connection: sa.Connection, count: int) -> range:
        """Numbers for so many writes of a transaction, above those of every one that was committed before.

        Who has read the catalogue up to `last_number` has seen every write of a lower number, whatever clocks say.
        """
        counted = sa.update(WRITES).values(last=WRITES.c.last + count).returning(WRITES.c.last)
        last: int = connection.execute(counted).scalar_one()  # the row is locked until the commit
        return range(last - count + 1, last + 1)

    def last_number(self) -> int:
        """The number of the last write that was committed; 0: there was none."""
        with self.read() as connection:
            return int(connection.execute(sa.select(WRITES.c.last)).scalar_one())

    def insert(self, table: sa.Table) -> Any:
        """The dialect's INSERT, which has `on_conflict_do_update` and `on_conflict_do_nothing`."""
        return self._insert(table)


def _keep_private(file: Path) -> None:
    """The database holds secrets and what searchers did: mode 0600, which SQLite gives to its -wal and -shm as well."""
    os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
    for own in (file, *(file.with_name(file.name + ending) for ending in ("-wal", "-shm"))):
        if own.exists():
            own.chmod(0o600)


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver begins nothing by itself: writers say BEGIN IMMEDIATE
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=30000"):
        connection.execute(f"PRAGMA {pragma}")
