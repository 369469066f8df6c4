"""The catalogue of record: products and their pictures, the outbox of what is still to embed, the events not yet moved.

What a write acknowledges is on disk (SQLite: WAL, synchronous=FULL); a document and its outbox row are one transaction.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Self

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from mercato.errors import MercatoError

Product = dict[str, Any]

_metadata = sa.MetaData()
_products = sa.Table(
    "products",
    _metadata,
    sa.Column("product_id", sa.Text, primary_key=True),
    sa.Column("document", sa.LargeBinary, nullable=False),  # JSON: every schema field but images and their vectors
    sa.Column("pictures", sa.Integer, nullable=False),  # how many rows of `images` it has
    sa.Column("image_embeddings", sa.LargeBinary),  # JSON; apart, because a search never reads it
    sa.Column("version", sa.Integer, nullable=False),  # one more with each write
    sa.Column("ours", sa.Boolean, nullable=False),  # written through the API: seeding leaves it alone
    sa.Column("deleted", sa.Boolean, nullable=False),
    sa.Column("updated_at", sa.Float, nullable=False),
    sa.Index("products_ours", "ours"),
    sa.Index("products_deleted", "deleted"),  # counts without reading documents
)
_images = sa.Table(
    "images",
    _metadata,
    sa.Column("product_id", sa.Text, primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("content_type", sa.Text),
    sa.Column("bytes", sa.LargeBinary),
    sa.Column("path", sa.Text),  # of a seeded picture that lies in the market's folder
)
_outbox = sa.Table(
    "outbox",
    _metadata,
    sa.Column("product_id", sa.Text, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("operation", sa.Text, nullable=False),  # upsert | delete
    sa.Column("enqueued_at", sa.Float, nullable=False),
    sa.Column("not_before", sa.Float, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("reason", sa.Text),
    sa.Index("outbox_due", "not_before", "enqueued_at"),
)
_events = sa.Table(
    "events",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("row", sa.LargeBinary, nullable=False),  # JSON of one row of the events schema
    sqlite_autoincrement=True,  # an id is never used twice: files of moved events are named by their ids
)
_settings = sa.Table(
    "settings",
    _metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)


@dataclass(frozen=True)
class Task:
    """One product to bring to the index: `operation` is "upsert" or "delete"; `attempts` is how many have failed."""

    product_id: str
    version: int
    operation: str
    attempts: int


@dataclass(frozen=True)
class Picture:
    """One picture of a product: its bytes, or for a seeded one the path inside the market's folder."""

    content_type: str | None
    content: bytes | None
    path: str | None = None


@dataclass(frozen=True)
class Entry:
    """A product to write: its document (schema fields but the images'), pictures and the seller's own vectors."""

    document: Product
    pictures: Sequence[Picture] = ()
    image_embeddings: list[list[float]] | None = None

    def product(self) -> Product:
        """The product in the shape of the products table (`images` as {bytes, path}, `image_embeddings`)."""
        images = [{"bytes": picture.content, "path": picture.path} for picture in self.pictures]
        return self.document | {"images": images or None, "image_embeddings": self.image_embeddings}


class Catalogue:
    """The catalogue database. Safe to share between threads; writers take turns, readers never wait for them."""

    def __init__(self, url: str) -> None:
        """Use `Catalogue.open`."""
        engine = sa.create_engine(url)
        self._writer, self._reader, self._turn = engine, engine, Lock()
        self._insert: Any = postgresql.insert
        if engine.dialect.name == "sqlite":
            self._insert = sqlite.insert
            self._reader = sa.create_engine(url, pool_size=16)
            sa.event.listen(self._reader, "connect", _prepare_sqlite)
            sa.event.listen(self._writer, "connect", _prepare_sqlite)
            sa.event.listen(self._writer, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))

    @classmethod
    def open(cls, where: str | Path) -> Self:
        """Open or create a catalogue: a file path (SQLite; only its owner may read it) or an SQLAlchemy URL.

        Raises:
            MercatoError: it cannot be opened, or is not a catalogue.
        """
        url = str(where) if "://" in str(where) else f"sqlite:///{where}"
        try:
            if "://" not in str(where):
                _keep_private(Path(where))
            catalogue = cls(url)
            with catalogue._write() as connection:
                _metadata.create_all(connection)
        except (sa.exc.SQLAlchemyError, OSError) as error:
            shown = sa.engine.make_url(url).render_as_string(hide_password=True) if "://" in str(where) else where
            raise MercatoError(f"catalogue {shown}: cannot be opened: {getattr(error, 'orig', error)}") from None
        return catalogue

    def close(self) -> None:
        """Close every connection."""
        self._reader.dispose()
        self._writer.dispose()

    # -- settings ----------------------------------------------------------------------------------------------------

    def setting(self, name: str) -> str | None:
        """A stored setting, or None."""
        with self._reader.connect() as connection:
            value = connection.execute(sa.select(_settings.c.value).where(_settings.c.name == name)).scalar()
        return None if value is None else str(value)

    def set(self, name: str, value: str) -> None:
        """Store a setting."""
        with self._write() as connection:
            insert = self._insert(_settings).values(name=name, value=value)
            connection.execute(insert.on_conflict_do_update(index_elements=["name"], set_={"value": value}))

    def secret(self, name: str) -> bytes:
        """32 random bytes made at the first call and the same ever after, for every process on this catalogue."""
        with self._write() as connection:
            insert = self._insert(_settings).values(name=name, value=secrets.token_hex(32))
            connection.execute(insert.on_conflict_do_nothing())
            return bytes.fromhex(connection.execute(sa.select(_settings.c.value).filter_by(name=name)).scalar_one())

    # -- products ----------------------------------------------------------------------------------------------------

    def get(self, product_id: str) -> Product | None:
        """One product's document, `pictures` (how many) among its fields; None where there is none (any more)."""
        return self.get_many([product_id]).get(product_id)

    def get_many(self, product_ids: Sequence[str]) -> dict[str, Product]:
        """The documents of those of these products that exist, by id."""
        wanted = sa.select(_products.c.product_id, _products.c.document, _products.c.pictures).where(
            _products.c.product_id.in_(product_ids), _products.c.deleted.is_(False)
        )
        with self._reader.connect() as connection:
            return {row[0]: orjson.loads(row[1]) | {"pictures": row[2]} for row in connection.execute(wanted)}

    def picture(self, product_id: str, position: int) -> Picture | None:
        """The picture at a position (0 is the first) of a product."""
        wanted = sa.select(_images.c.content_type, _images.c.bytes, _images.c.path).filter_by(
            product_id=product_id, position=position
        )
        with self._reader.connect() as connection:
            row = connection.execute(wanted).first()
        return None if row is None else Picture(*row)

    def full(self, product_ids: Sequence[str]) -> list[Product]:
        """The products in the shape of the products table (`images` as {bytes, path}, `image_embeddings`)."""
        with self._reader.connect() as connection:
            rows = connection.execute(
                sa.select(_products.c.product_id, _products.c.document, _products.c.image_embeddings).where(
                    _products.c.product_id.in_(product_ids), _products.c.deleted.is_(False)
                )
            ).all()
            pictures = connection.execute(
                sa.select(_images.c.product_id, _images.c.bytes, _images.c.path)
                .where(_images.c.product_id.in_(product_ids))
                .order_by(_images.c.product_id, _images.c.position)
            ).all()
        images: dict[str, list[dict[str, Any]]] = {}
        for product_id, content, path in pictures:
            images.setdefault(product_id, []).append({"bytes": content, "path": path})
        return [
            orjson.loads(document)
            | {"images": images.get(product_id), "image_embeddings": orjson.loads(vectors) if vectors else None}
            for product_id, document, vectors in rows
        ]

    def documents(self) -> Iterator[Product]:
        """Every product's document, in no order."""
        with self._reader.connect() as connection:
            wanted = sa.select(_products.c.document).where(_products.c.deleted.is_(False))
            for row in connection.execution_options(yield_per=1000).execute(wanted):
                yield orjson.loads(row[0])

    def count(self) -> int:
        """How many products there are."""
        with self._reader.connect() as connection:
            wanted = sa.select(sa.func.count()).select_from(_products).where(_products.c.deleted.is_(False))
            return int(connection.execute(wanted).scalar_one())

    def upsert(self, entries: Sequence[Entry]) -> None:
        """Write products and put them in the outbox, all or none; on disk when this returns."""
        with self._write() as connection:
            self._put(connection, entries, ours=True)
            self._enqueue(connection, [entry.document["product_id"] for entry in entries], "upsert")

    def seed(self, entries: Sequence[Entry]) -> None:
        """Write products of the market's tables, all or none; those written through the API stay as they are.

        They do not go to the outbox: `mercato index` embeds the tables.
        """
        ids = [entry.document["product_id"] for entry in entries]
        with self._write() as connection:
            wanted = sa.select(_products.c.product_id).where(_products.c.product_id.in_(ids), _products.c.ours)
            ours = set(connection.execute(wanted).scalars())
            self._put(connection, [e for e in entries if e.document["product_id"] not in ours], ours=False)

    def delete(self, product_id: str) -> bool:
        """Delete a product for good (seeding does not bring it back) and put that in the outbox; False if unknown."""
        with self._write() as connection:
            gone = {"document": b"{}", "pictures": 0, "image_embeddings": None, "deleted": True, "ours": True}
            done = connection.execute(
                sa.update(_products)
                .filter_by(product_id=product_id, deleted=False)
                .values(**gone, version=_products.c.version + 1, updated_at=time.time())
            )
            if done.rowcount == 0:
                return False
            connection.execute(sa.delete(_images).filter_by(product_id=product_id))
            self._enqueue(connection, [product_id], "delete")
            return True

    # -- the outbox --------------------------------------------------------------------------------------------------

    def take(self, limit: int) -> list[Task]:
        """The tasks that are due, oldest first. They stay in the outbox until `done`."""
        columns = (_outbox.c.product_id, _outbox.c.version, _outbox.c.operation, _outbox.c.attempts)
        due = sa.select(*columns).where(_outbox.c.not_before <= time.time())
        with self._reader.connect() as connection:
            rows = connection.execute(due.order_by(_outbox.c.not_before, _outbox.c.enqueued_at).limit(limit))
            return [Task(*row) for row in rows]

    def done(self, tasks: Sequence[Task]) -> None:
        """Remove tasks from the outbox; one whose product has been written again since stays."""
        same = (_outbox.c.product_id == sa.bindparam("id"), _outbox.c.version == sa.bindparam("of"))
        if tasks:
            with self._write() as connection:
                rows = [{"id": task.product_id, "of": task.version} for task in tasks]
                connection.execute(sa.delete(_outbox).where(*same), rows)

    def failed(self, task: Task, reason: str, retry_seconds: float) -> None:
        """Keep a task that failed, with the reason, to be taken again after a while."""
        with self._write() as connection:
            connection.execute(
                sa.update(_outbox)
                .filter_by(product_id=task.product_id, version=task.version)
                .values(attempts=_outbox.c.attempts + 1, reason=reason, not_before=time.time() + retry_seconds)
            )

    def outbox_depth(self) -> int:
        """How many products the outbox holds, those that failed before left out."""
        with self._reader.connect() as connection:
            wanted = sa.select(sa.func.count()).select_from(_outbox).where(_outbox.c.attempts == 0)
            return int(connection.execute(wanted).scalar_one())

    def failures(self) -> list[tuple[str, int, str]]:
        """The products that could not be embedded: id, attempts, reason."""
        with self._reader.connect() as connection:
            columns = (_outbox.c.product_id, _outbox.c.attempts, _outbox.c.reason)
            return [(*row,) for row in connection.execute(sa.select(*columns).where(_outbox.c.attempts > 0))]

    def replay(self) -> None:
        """Put every product written or deleted through the API in the outbox again: a new index has not seen them."""
        with self._write() as connection:
            wanted = sa.select(_products.c.product_id, _products.c.deleted).where(_products.c.ours)
            rows = connection.execute(wanted).all()
            self._enqueue(connection, [row[0] for row in rows if not row[1]], "upsert")
            self._enqueue(connection, [row[0] for row in rows if row[1]], "delete")

    # -- events ------------------------------------------------------------------------------------------------------

    def add_events(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append events (rows of the events schema), all or none; on disk when this returns."""
        if rows:
            with self._write() as connection:
                connection.execute(sa.insert(_events), [{"row": orjson.dumps(row)} for row in rows])

    def events(self, limit: int) -> list[tuple[int, dict[str, Any]]]:
        """The oldest events not yet dropped, as (id, row), in order."""
        with self._reader.connect() as connection:
            rows = connection.execute(sa.select(_events.c.id, _events.c.row).order_by(_events.c.id).limit(limit))
            return [(row[0], orjson.loads(row[1])) for row in rows]

    def drop_events(self, first: int, last: int) -> None:
        """Forget the events with these ids, both ends included."""
        with self._write() as connection:
            connection.execute(sa.delete(_events).where(_events.c.id.between(first, last)))

    # -- within a transaction ----------------------------------------------------------------------------------------

    @contextmanager
    def _write(self) -> Iterator[sa.Connection]:
        with self._turn, self._writer.begin() as connection:
            yield connection

    def _put(self, connection: sa.Connection, entries: Sequence[Entry], ours: bool) -> None:
        if not entries:
            return
        ids = [entry.document["product_id"] for entry in entries]
        insert = self._insert(_products)
        new = insert.excluded
        kept = ("document", "pictures", "image_embeddings", "ours", "deleted", "updated_at")
        replaced = {name: new[name] for name in kept} | {"version": _products.c.version + 1}
        connection.execute(
            insert.on_conflict_do_update(index_elements=["product_id"], set_=replaced),
            [
                {
                    "product_id": entry.document["product_id"],
                    "document": orjson.dumps(entry.document),
                    "pictures": len(entry.pictures),
                    "image_embeddings": orjson.dumps(entry.image_embeddings) if entry.image_embeddings else None,
                    "version": 1,
                    "ours": ours,
                    "deleted": False,
                    "updated_at": time.time(),
                }
                for entry in entries
            ],
        )
        connection.execute(sa.delete(_images).where(_images.c.product_id.in_(ids)))
        pictures = [
            {
                "product_id": entry.document["product_id"],
                "position": position,
                "content_type": picture.content_type,
                "bytes": picture.content,
                "path": picture.path,
            }
            for entry in entries
            for position, picture in enumerate(entry.pictures)
        ]
        if pictures:
            connection.execute(sa.insert(_images), pictures)

    def _enqueue(self, connection: sa.Connection, ids: Sequence[str], operation: str) -> None:
        """Name the products' present versions in the outbox; a row that already waits there is replaced."""
        now = time.time()
        for start in range(0, len(ids), 500):
            some = ids[start : start + 500]
            wanted = sa.select(_products.c.product_id, _products.c.version).where(_products.c.product_id.in_(some))
            rows = [
                {"product_id": product_id, "version": version, "operation": operation, "enqueued_at": now}
                | {"not_before": now, "attempts": 0, "reason": None}
                for product_id, version in connection.execute(wanted)
            ]
            insert = self._insert(_outbox)
            names = ("version", "operation", "enqueued_at", "not_before", "attempts", "reason")
            replaced = {name: insert.excluded[name] for name in names}
            connection.execute(insert.on_conflict_do_update(index_elements=["product_id"], set_=replaced), rows)


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
