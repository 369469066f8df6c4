"""The catalogue's database: connections and transactions, over SQLite or PostgreSQL.

What a write transaction committed is on disk (SQLite: WAL, synchronous=FULL).
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from mercato.catalogue.migrations import migrate
from mercato.catalogue.tables import WRITES
from mercato.errors import DamagedError, FullError, MercatoError
from mercato.files import sync
from mercato.manifest import AT_START


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
            for each in (self._reader, self._writer):
                sa.event.listen(each, "handle_error", _say_damage)
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
            if is_url:
                return cls._migrated(str(where))
            file = Path(where)
            if not file.exists():
                cls._create(file)
            check_file(file)
            _keep_private(file)
            return cls._migrated(f"sqlite:///{file}")
        except DamagedError:
            raise
        except MercatoError as error:
            raise MercatoError(f"catalogue {shown}: {error}") from None
        except (sa.exc.SQLAlchemyError, sqlite3.Error, OSError, ValueError) as error:
            raise MercatoError(f"catalogue {shown}: cannot be opened: {getattr(error, 'orig', error)}") from None

    @classmethod
    def _migrated(cls, url: str) -> Self:
        database = cls(url)
        try:
            with database.write() as connection:
                migrate(connection)
        except BaseException:
            database.close()
            raise
        return database

    @classmethod
    def _create(cls, file: Path) -> None:
        """Make a file of empty tables, whole or not at all: one that is empty is never taken for a new one."""
        with TemporaryDirectory(prefix=f".{file.name}.", dir=file.parent) as folder:
            fresh = Path(folder) / file.name
            _keep_private(fresh)
            cls._migrated(f"sqlite:///{fresh}").close()
            with suppress(FileExistsError):  # another process was faster
                os.link(fresh, file)
        sync(file.parent)

    def check(self) -> None:
        """Have SQLite look for damage in its file, where that is no larger than what is digested of others at a start.

        Raises:
            DamagedError: there is some.
        """
        name = self._reader.url.database
        if self._reader.dialect.name == "sqlite" and name and Path(name).stat().st_size <= AT_START:
            with self.read() as connection:
                found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
            if found != "ok":
                raise damaged(Path(name), str(found))

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


def damaged(file: Path, why: str) -> DamagedError:
    """The error of a catalogue that is not what was written."""
    line = " ".join(why.split())
    return DamagedError(
        f"catalogue {file} is damaged: {line}: put a backup in its place. Without one, move it away: the next `mercato"
        " serve` says how to begin anew from the market's tables, without what the API wrote"
    )


def check_file(file: Path) -> None:
    """Refuse a file that is no SQLite database, not all of one, or one of something else, and change nothing in it.

    Raises:
        DamagedError: it is that.
    """
    with file.open("rb") as content:
        head = content.read(16)
    if not head:
        raise damaged(file, "it is empty")
    if not head.startswith(b"SQLite format 3\0"):
        raise damaged(file, "it is no SQLite database")
    with reading_only(file) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables >= {"products", "outbox", "settings"}:
        raise damaged(file, "it has no tables of a catalogue's")


@contextmanager
def reading_only(file: Path) -> Iterator[sqlite3.Connection]:
    """A connection that changes nothing.

    Raises:
        DamagedError: what is read of it is damaged.
    """
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            yield connection
    except sqlite3.OperationalError:  # of a file that may not be read
        raise
    except sqlite3.DatabaseError as error:
        raise damaged(file, str(error)) from None


def _say_damage(context: Any) -> None:
    """Wherever a query meets damage, say so in one line."""
    error = context.original_exception
    if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        raise damaged(Path(context.engine.url.database), str(error)) from error


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
