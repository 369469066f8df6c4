"""A catalogue of the first schema, made with plain SQL, opened by today's code."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from mercato.catalogue import migrations
from mercato.catalogue.outbox import OutboxJob
from mercato.catalogue.products import StoredImage
from mercato.catalogue.store import Catalogue
from mercato.errors import MercatoError
from tests.support.small_market import picture

VERSION_1 = """
CREATE TABLE products (
    product_id TEXT NOT NULL, document BLOB NOT NULL, pictures INTEGER NOT NULL, image_embeddings BLOB,
    version INTEGER NOT NULL, ours BOOLEAN NOT NULL, deleted BOOLEAN NOT NULL, updated_at FLOAT NOT NULL,
    PRIMARY KEY (product_id)
);
CREATE INDEX products_ours ON products (ours);
CREATE INDEX products_deleted ON products (deleted);
CREATE TABLE images (
    product_id TEXT NOT NULL, position INTEGER NOT NULL, content_type TEXT, bytes BLOB, path TEXT,
    PRIMARY KEY (product_id, position)
);
CREATE TABLE outbox (
    product_id TEXT NOT NULL, version INTEGER NOT NULL, operation TEXT NOT NULL, enqueued_at FLOAT NOT NULL,
    not_before FLOAT NOT NULL, attempts INTEGER NOT NULL, reason TEXT, PRIMARY KEY (product_id)
);
CREATE INDEX outbox_due ON outbox (not_before, enqueued_at);
CREATE TABLE events (id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, "row" BLOB NOT NULL);
CREATE TABLE settings (name TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (name));
"""
KILLED = """
import os, signal, sys
import sqlalchemy as sa
from mercato.catalogue.store import Catalogue

@sa.event.listens_for(sa.Engine, "before_cursor_execute")
def kill(connection, cursor, statement, *_):
    if statement.startswith(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

Catalogue.open(sys.argv[1])
"""


@pytest.fixture
def old_file(file):
    """Two products with images, one deleted, three jobs of which one has failed, two events, two secrets."""
    document = '{"product_id":"%s","title":"red sofa","created_at":null}'
    with closing(sqlite3.connect(file)) as db, db:
        db.executescript(VERSION_1)
        db.executemany(
            "INSERT INTO products VALUES (?, ?, ?, ?, ?, ?, ?, 1.5)",
            [
                ("seeded", (document % "seeded").encode(), 2, b"[[0.5,1.0]]", 1, 0, 0),
                ("mine", (document % "mine").encode(), 0, None, 3, 1, 0),
                ("gone", b"{}", 0, None, 2, 1, 1),
            ],
        )
        db.execute("INSERT INTO images VALUES ('seeded', 0, 'image/jpeg', ?, NULL)", (picture(),))
        db.execute("INSERT INTO images VALUES ('seeded', 1, NULL, NULL, 'photos/a.jpg')")
        db.executemany(
            "INSERT INTO outbox VALUES (?, ?, ?, ?, ?, ?, ?)",
            [
                ("mine", 3, "upsert", 2, 2, 0, None),
                ("gone", 2, "delete", 1, 1, 0, None),
                ("seeded", 1, "upsert", 1, 1e12, 4, "RuntimeError: no"),
            ],
        )
        db.executemany("INSERT INTO events (row) VALUES (?)", [(b'{"session_id":"a"}',), (b'{"session_id":"b"}',)])
        db.execute("DELETE FROM events WHERE id = 1")
        db.executemany(
            "INSERT INTO settings VALUES (?, ?)", [("cursor", "ab" * 32), ("name", "cd" * 32), ("read x", "1.7e9")]
        )
    return file


def rows(file, statement: str) -> list[tuple]:
    with closing(sqlite3.connect(file)) as db:
        return db.execute(statement).fetchall()


def schema(file) -> dict[str, list[tuple]]:
    """The columns of each table, and the columns and condition of each index."""
    found = {}
    for kind, name, sql in rows(file, "SELECT type, name, sql FROM sqlite_master"):
        if kind == "table":
            found[name] = rows(file, f"PRAGMA table_info('{name}')")
        else:
            found[name] = [*rows(file, f"PRAGMA index_xinfo('{name}')"), (sql or "").partition(" WHERE ")[2]]
    return found


def test_nothing_is_lost(old_file):
    for _ in range(2):
        with closing(Catalogue.open(old_file)) as catalogue:
            assert catalogue.products.count() == 2
            assert catalogue.products.get("mine")["title"] == "red sofa" and catalogue.products.get("gone") is None
            (seeded,) = catalogue.products.load(["seeded"])
            assert seeded.image_embeddings == [[0.5, 1.0]]
            assert seeded.images == [
                StoredImage("image/jpeg", picture()),
                StoredImage(None, None, "photos/a.jpg"),
            ]
            assert catalogue.products.get("seeded")["image_count"] == 2
            assert catalogue.outbox.depth() == 2
            assert catalogue.outbox.failures() == [("seeded", 4, "RuntimeError: no")]
            jobs = catalogue.outbox.claim("w", 9, lease_seconds=0)
            assert [(job.product_id, job.version, job.operation, job.attempts) for job in jobs] == [
                ("gone", 2, "delete", 0),
                ("mine", 3, "upsert", 0),
            ]
            assert catalogue.events.oldest(9) == [(2, {"session_id": "b"})]
            assert catalogue.settings.secret("cursor") == b"\xab" * 32
            assert catalogue.settings.secret("name") == b"\xcd" * 32
            assert catalogue.settings.get("read x") is None, "it was a time"
    assert rows(old_file, "SELECT product_id FROM products WHERE written_via_api ORDER BY 1") == [("gone",), ("mine",)]
    assert rows(old_file, "SELECT last FROM writes") == [(3,)], "writes are numbered from here on"


def test_a_migrated_database_is_like_a_new_one(old_file, tmp_path):
    Catalogue.open(old_file).close()
    Catalogue.open(tmp_path / "new.sqlite").close()
    assert schema(old_file) == schema(tmp_path / "new.sqlite")


@pytest.mark.parametrize("statement", ["ALTER TABLE outbox ADD", "DROP TABLE old_outbox"])
def test_a_kill_in_the_middle_leaves_the_old_version_whole(old_file, statement):
    before = rows(old_file, "SELECT * FROM sqlite_master"), rows(old_file, "SELECT * FROM outbox")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(old_file), statement], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (rows(old_file, "SELECT * FROM sqlite_master"), rows(old_file, "SELECT * FROM outbox")) == before
    test_nothing_is_lost(old_file)


def test_a_job_that_was_held_as_it_was_migrated_is_held_still(old_file):
    with closing(sqlite3.connect(old_file)) as db, db:
        with pytest.MonkeyPatch.context() as only_2:
            only_2.setattr(migrations, "_STEPS", migrations._STEPS[:1])
            only_2.setattr(migrations.METADATA, "create_all", migrations.SCHEMA_VERSION.create)
            Catalogue.open(old_file).close()
        db.execute("UPDATE outbox SET worker = 'w', lease_expires_at = 1e12, leased_version = version")
    with closing(Catalogue.open(old_file)) as catalogue:
        assert catalogue.outbox.claim("another", 9) == [] and catalogue.outbox.oldest() == 2
        catalogue.outbox.ack([OutboxJob("mine", 3, "upsert", 0, "w"), OutboxJob("gone", 2, "delete", 0, "w")])
        assert catalogue.outbox.depth() == 0


def test_a_newer_version_is_refused_and_left_alone(file):
    Catalogue.open(file).close()
    with closing(sqlite3.connect(file)) as db, db:
        db.execute("UPDATE schema_version SET version = 99")
    with pytest.raises(MercatoError, match=r"catalogue .*catalogue\.sqlite: .*version 99.*upgrade Mercato"):
        Catalogue.open(file)
    assert rows(file, "SELECT version FROM schema_version") == [(99,)]


def test_another_programs_products_are_left_alone(file):
    with closing(sqlite3.connect(file)) as db, db:
        db.execute("CREATE TABLE products (sku TEXT)")
    with pytest.raises(MercatoError, match="has no tables of a catalogue's"):
        Catalogue.open(file)
    assert rows(file, "SELECT name FROM sqlite_master") == [("products",)]
