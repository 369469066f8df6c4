"""Every statement of the catalogue finds its rows by a key: its plan, on many rows, is held to one."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing

import pytest
import sqlalchemy as sa

from mercato.catalogue.outbox import Outbox, OutboxJob
from mercato.catalogue.products import ProductStore
from mercato.catalogue.row_log import RowLog
from mercato.catalogue.settings import SettingStore
from mercato.catalogue.store import Catalogue
from tests.support.stored import fill, stored

ROWS = 30_000
IDS = [f"p{number:07}" for number in range(1, 25)]
JOB = OutboxJob("p0000039", 1, "upsert", 0, "other")
CALLS = {
    "products.get": lambda c: c.products.get("p0000001"),
    "products.get_many": lambda c: c.products.get_many(IDS),
    "products.image": lambda c: c.products.image("p0000001", 0),
    "products.load": lambda c: c.products.load(IDS),
    "products.ids": lambda c: c.products.ids("p0000001", 24),
    "products.written": lambda c: c.products.written("p0000001", 24),
    "products.last_written": lambda c: c.products.last_written(),
    "products.documents": lambda c: sum(1 for _ in (*c.products.documents(), *c.products.documents(most=9))),
    "products.count": lambda c: c.products.count(),
    "products.upsert": lambda c: c.products.upsert([stored(name) for name in IDS]),
    "products.seed": lambda c: c.products.seed([stored(name) for name in IDS]),
    "products.delete": lambda c: c.products.delete("p0000001"),
    "outbox.claim": lambda c: c.outbox.claim("w", 32),
    "outbox.heartbeat": lambda c: c.outbox.heartbeat([JOB]),
    "outbox.ack": lambda c: c.outbox.ack([JOB]),
    "outbox.retry": lambda c: c.outbox.retry(JOB, "no", 1),
    "outbox.release": lambda c: c.outbox.release("other"),
    "outbox.depth": lambda c: c.outbox.depth(),
    "outbox.failures": lambda c: c.outbox.failures(),
    "outbox.oldest": lambda c: c.outbox.oldest(),
    "outbox.put_again": lambda c: c.outbox.put_again(IDS),
    "outbox.replay": lambda c: (c.outbox.replay(), c.outbox.replay(after=1)),
    "events.append": lambda c: c.events.append([{"session_id": "s"}]),
    "events.oldest": lambda c: c.events.oldest(100),
    "events.delete": lambda c: c.events.delete(1, 9),
    "features.append": lambda c: c.features.append([{"query_id": "q"}]),
    "features.oldest": lambda c: c.features.oldest(100),
    "features.delete": lambda c: c.features.delete(1, 9),
    "settings.get": lambda c: c.settings.get("index"),
    "settings.set": lambda c: c.settings.set("index", "x"),
    "settings.secret": lambda c: c.settings.secret("cursor"),
}
BY_KEY = re.compile(r"SEARCH \w+ USING .*\((product_id|rowid|name|not_before|attempts|worker)[=<>]")
ONE_ROW = ("SCAN CONSTANT ROW", "SCAN writes")
MAY_SCAN = {
    "products.documents": {  # reads every product, or as many pages, once, as a server starts; a sample counts them
        "SCAN products",
        "SCAN products USING COVERING INDEX sqlite_autoindex_products_1",
        "SCAN products USING COVERING INDEX products_deleted",
        "SCAN (subquery-3)",  # its rows as they are numbered
        "SCAN anon_1",
    },
    "products.count": {
        "SCAN products USING COVERING INDEX sqlite_autoindex_products_1",  # its pages are counted, not its rows
        "SCAN products USING COVERING INDEX products_deleted",  # holds the deleted products alone
    },
    "products.last_written": {"SEARCH products USING INDEX products_written_via_api"},  # holds what it asks for alone
    "outbox.oldest": {"SEARCH outbox"},  # where nearly all are what it asks for: asked while a standby catches up
    "outbox.replay": {  # the index holds what it asks for alone
        "SCAN products USING COVERING INDEX products_written_via_api",
        "SCAN products USING INDEX products_written_via_api",
    },
    "events.oldest": {"SCAN events"},  # in the order of its key, up to the limit
    "features.oldest": {"SCAN features"},
}


def public(kind: type) -> set[str]:
    return {name for name in vars(kind) if not name.startswith("_")}


def test_every_public_method_is_called_here():
    parts = {"products": ProductStore, "outbox": Outbox, "settings": SettingStore} | dict.fromkeys(
        ("events", "features"), RowLog
    )
    methods = {f"{part}.{name}" for part, kind in parts.items() for name in public(kind)}
    assert methods - {"outbox.enqueue"} == set(CALLS), "a part of upsert, delete and replay"


@pytest.fixture(scope="module", params=[False, True], ids=["no statistics", "statistics"])
def big_file(request, tmp_path_factory):
    file = tmp_path_factory.mktemp("big") / "catalogue.sqlite"
    Catalogue.open(file).close()
    fill(file, ROWS)
    if request.param:
        with closing(sqlite3.connect(file)) as db:
            db.execute("ANALYZE")
    return file


@pytest.mark.parametrize("call", CALLS)
def test_a_statement_finds_its_rows_by_a_key(big_file, call):
    executed: list[tuple[str, tuple]] = []

    def record(connection, _cursor, statement, parameters, _context, many) -> None:
        if connection.engine.url.database == str(big_file):  # not of what another test left running
            executed.append((statement, parameters[0] if many else parameters))

    with closing(Catalogue.open(big_file)) as catalogue:
        sa.event.listen(sa.Engine, "before_cursor_execute", record)
        try:
            CALLS[call](catalogue)
        finally:
            sa.event.remove(sa.Engine, "before_cursor_execute", record)
    statements = [each for each in executed if each[0].split()[0] in ("SELECT", "INSERT", "UPDATE", "DELETE")]
    assert statements
    with closing(sqlite3.connect(big_file)) as db:
        for statement, parameters in statements:
            for *_, step in db.execute(f"EXPLAIN QUERY PLAN {statement}", parameters):
                reads = step.startswith(("SEARCH", "SCAN", "USE TEMP")) and step not in ONE_ROW
                assert not reads or BY_KEY.match(step) or step in MAY_SCAN.get(call, ()), f"{step}: {statement}"
