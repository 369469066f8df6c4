"""The catalogue's SQL schema, as a new database gets it; `migrations` brings older ones up to it."""

from __future__ import annotations

import sqlalchemy as sa

METADATA = sa.MetaData()
NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _partial_index(name: str, *columns: sa.Column[object], where: sa.ColumnElement[bool]) -> None:
    sa.Index(name, *columns, sqlite_where=where, postgresql_where=where)


SCHEMA_VERSION = sa.Table("schema_version", METADATA, sa.Column("version", sa.Integer, primary_key=True))  # one row
WRITES = sa.Table("writes", METADATA, sa.Column("last", NUMBER, nullable=False))  # one row: the last write's number

PRODUCTS = sa.Table(
    "products",
    METADATA,
    sa.Column("product_id", sa.Text, primary_key=True),
    sa.Column("document", sa.LargeBinary, nullable=False),  # JSON: every schema field but images and their vectors
    sa.Column("image_count", sa.Integer, nullable=False),  # how many rows of `images` it has
    sa.Column("image_embeddings", sa.LargeBinary),  # JSON; apart, because a search never reads it
    sa.Column("version", NUMBER, nullable=False),  # the number of the write, see `Database.numbers`
    sa.Column("written_via_api", sa.Boolean, nullable=False),  # or deleted: seeding leaves it alone
    sa.Column("deleted", sa.Boolean, nullable=False),
)
# SQLite without statistics would take a whole index that begins with a flag for selective, and prefer it to the key.
# These two hold the few rows that have the flag, which is among their columns to make them covering.
_partial_index("products_deleted", PRODUCTS.c.product_id, PRODUCTS.c.deleted, where=PRODUCTS.c.deleted.is_(True))
_partial_index(
    "products_written_via_api",
    *(PRODUCTS.c.product_id, PRODUCTS.c.deleted, PRODUCTS.c.written_via_api),
    where=PRODUCTS.c.written_via_api.is_(True),
)

IMAGES = sa.Table(
    "images",
    METADATA,
    sa.Column("product_id", sa.Text, primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("content_type", sa.Text),
    sa.Column("bytes", sa.LargeBinary),
    sa.Column("path", sa.Text),  # of a seeded image that lies in the market's folder
)

OUTBOX = sa.Table(
    "outbox",
    METADATA,
    sa.Column("product_id", sa.Text, primary_key=True),
    sa.Column("version", NUMBER, nullable=False),
    sa.Column("since", NUMBER, nullable=False),  # the number of the first write that the index has not seen
    sa.Column("operation", sa.Text, nullable=False),  # upsert | delete
    sa.Column("not_before", sa.Float, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("reason", sa.Text),
    # The lease: who works on the product, until when, and on which of its versions; null where nobody does.
    sa.Column("worker", sa.Text),
    sa.Column("lease_expires_at", sa.Float),
    sa.Column("leased_version", NUMBER),
    sa.Index("outbox_due", "not_before", "version"),
    sa.Index("outbox_attempts", "attempts"),
)
_partial_index("outbox_worker", OUTBOX.c.worker, where=OUTBOX.c.worker.is_not(None))


def _row_log(name: str) -> sa.Table:
    return sa.Table(
        name,
        METADATA,
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("row", sa.LargeBinary, nullable=False),  # JSON of one row of the market's table of that name
        sqlite_autoincrement=True,  # an id is never used twice: files of moved rows are named by their ids
    )


EVENTS, FEATURES = _row_log("events"), _row_log("features")

KEYS = sa.Table(
    "keys",
    METADATA,
    sa.Column("key_id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("scopes", sa.Text, nullable=False),  # parted by spaces
    sa.Column("rate", sa.Float),  # requests a second; null: unlimited
    sa.Column("digest", sa.Text, nullable=False),  # SHA-256 of the secret, in hex
    sa.Column("made_at", sa.Float, nullable=False),
    sa.Column("revoked_at", sa.Float),
)

SETTINGS = sa.Table(
    "settings",
    METADATA,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
