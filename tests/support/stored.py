"""Products as the catalogue stores them, and a catalogue of many rows made with plain SQL."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import orjson

from mercato.catalogue.products import StoredProduct
from mercato.data.schema import PRODUCTS

EMPTY = dict.fromkeys(name for name in PRODUCTS.names if name not in ("images", "image_embeddings"))


def stored(product_id="x1", title="a red sofa", images=(), image_embeddings=None, **fields) -> StoredProduct:
    document = EMPTY | {"product_id": product_id, "title": title} | fields
    return StoredProduct(document, images, image_embeddings)


def fill(file: Path, products: int) -> None:
    """Fill an open catalogue's tables: p0000000 …, of which a twentieth came by the API, a hundredth is deleted, a
    tenth waits in the outbox (some have failed, some are held by `other`), and as many events."""
    document = orjson.dumps(EMPTY | {"title": "red chair"}).decode().replace('"product_id":null', '"product_id":"%s"')
    with sqlite3.connect(file) as db:
        db.execute(
            f"""WITH RECURSIVE numbers(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < {products})
            INSERT INTO products SELECT printf('p%07d', n), CAST(printf(?, printf('p%07d', n)) AS BLOB), 1, NULL, 1,
            n % 20 = 0, n % 100 = 0 FROM numbers""",
            (document,),
        )
        db.execute("INSERT INTO images SELECT product_id, 0, NULL, NULL, 'a.jpg' FROM products")
        db.execute(
            """INSERT INTO outbox SELECT product_id, 1, 1, 'upsert', rowid, rowid % 3 = 0, NULL,
            iif(rowid % 40 = 0, 'other', NULL), iif(rowid % 40 = 0, 1e12, NULL), iif(rowid % 40 = 0, 1, NULL)
            FROM products WHERE rowid % 10 = 0"""
        )
        db.execute("INSERT INTO events(row) SELECT CAST('{}' AS BLOB) FROM outbox")
    db.close()
