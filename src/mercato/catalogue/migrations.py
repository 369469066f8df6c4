"""Schema migrations: an older catalogue is brought up to today's tables step by step, in the caller's transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import sqlalchemy as sa

from mercato.catalogue.tables import METADATA, SCHEMA_VERSION, WRITES
from mercato.errors import MercatoError


def migrate(connection: sa.Connection) -> None:
    """Make the tables of an empty database, or bring those of an older version up to date, losing nothing.

    DDL is transactional in SQLite and in PostgreSQL: a process killed on the way leaves the version that it found.

    Raises:
        MercatoError: a newer Mercato made the database, or its tables are not a catalogue's.
    """
    version = _version(connection)
    check_version(version)
    if version == newest():
        return
    if version > 0:
        for step in _STEPS[version - 1 :]:
            step(connection)
    METADATA.create_all(connection)  # after the steps: what they made is left as it is
    if version == 0:
        connection.execute(sa.insert(WRITES).values(last=0))
    connection.execute(sa.delete(SCHEMA_VERSION))
    connection.execute(sa.insert(SCHEMA_VERSION).values(version=newest()))


def newest() -> int:
    """The version of the schema that this Mercato writes."""
    return 1 + len(_STEPS)


def check_version(version: int) -> None:
    """Refuse the tables of a newer Mercato.

    Raises:
        MercatoError: they are that.
    """
    if version > newest():
        raise MercatoError(
            f"its schema has version {version}, made by a newer Mercato, and this one knows no version above"
            f" {newest()}: upgrade Mercato"
        )


def _version(connection: sa.Connection) -> int:
    """The schema's version; 0 for an empty database, 1 for the tables made before versions were written down."""
    inspector = sa.inspect(connection)
    if inspector.has_table(SCHEMA_VERSION.name):
        return int(connection.execute(sa.select(SCHEMA_VERSION.c.version)).scalar_one())
    if not inspector.has_table("products"):
        return 0
    if "ours" not in {column["name"] for column in inspector.get_columns("products")}:
        raise MercatoError("its table products is not a catalogue's: give another file or database")
    return 1


def _to_2(connection: sa.Connection) -> None:
    """Version 2: clearer names, leases in the outbox, and no index that begins with a flag.

    A step spells its statements out, for the tables of `mercato.catalogue.tables` will move on.
    """
    yes = "1" if connection.dialect.name == "sqlite" else "true"  # as SQLAlchemy writes it in the queries' conditions
    _run(
        connection,
        "ALTER TABLE products RENAME COLUMN ours TO written_via_api",
        "ALTER TABLE products RENAME COLUMN pictures TO image_count",
        "DROP INDEX IF EXISTS products_ours",
        "DROP INDEX IF EXISTS products_deleted",
        f"CREATE INDEX products_deleted ON products (product_id, deleted) WHERE deleted IS {yes}",
        "CREATE INDEX products_written_via_api ON products (product_id, deleted, written_via_api)"
        f" WHERE written_via_api IS {yes}",
        "ALTER TABLE outbox ADD COLUMN worker TEXT",
        "ALTER TABLE outbox ADD COLUMN lease_expires_at FLOAT",
        "ALTER TABLE outbox ADD COLUMN leased_version INTEGER",
        "CREATE INDEX outbox_attempts ON outbox (attempts)",
        "CREATE INDEX outbox_worker ON outbox (worker) WHERE worker IS NOT NULL",
    )


def _to_3(connection: sa.Connection) -> None:
    """Version 3: writes are numbered in the order of their commits, where they had a time by a clock that may go back.

    What was noted by that clock is forgotten, so that every generation gets all that the API wrote once more.
    """
    number = "INTEGER" if connection.dialect.name == "sqlite" else "BIGINT"
    _run(
        connection,
        f"CREATE TABLE writes (last {number} NOT NULL)",
        "INSERT INTO writes SELECT coalesce(max(version), 0) FROM products",
        "ALTER TABLE products DROP COLUMN updated_at",
        "DROP INDEX outbox_due",
        "ALTER TABLE outbox RENAME TO old_outbox",
        *(f"DROP INDEX {name}" for name in ("outbox_attempts", "outbox_worker")),
        f"""CREATE TABLE outbox (product_id TEXT NOT NULL, version {number} NOT NULL, since {number} NOT NULL,
            operation TEXT NOT NULL, not_before FLOAT NOT NULL, attempts INTEGER NOT NULL, reason TEXT, worker TEXT,
            lease_expires_at FLOAT, leased_version {number}, PRIMARY KEY (product_id))""",
        "INSERT INTO outbox SELECT product_id, version, version, operation, not_before, attempts, reason, worker,"
        " lease_expires_at, leased_version FROM old_outbox",
        "DROP TABLE old_outbox",
        "CREATE INDEX outbox_due ON outbox (not_before, version)",
        "CREATE INDEX outbox_attempts ON outbox (attempts)",
        "CREATE INDEX outbox_worker ON outbox (worker) WHERE worker IS NOT NULL",
        "DELETE FROM settings WHERE name = 'followed generations' OR name LIKE 'read %'",
    )
    if number == "BIGINT":
        _run(connection, "ALTER TABLE products ALTER COLUMN version TYPE BIGINT")


def _to_4(_connection: sa.Connection) -> None:
    """Version 4: the log of features, a new table, which is made with whatever else there is not."""


def _to_5(_connection: sa.Connection) -> None:
    """Version 5: keys, a new table."""


def _run(connection: sa.Connection, *statements: str) -> None:
    for statement in statements:
        connection.execute(sa.text(statement))


_STEPS: Sequence[Callable[[sa.Connection], None]] = (
    _to_2,
    _to_3,
    _to_4,
    _to_5,
)  # the n-th leads from version n to n + 1
