"""The product store: products as JSON documents, their images, and the seller's own image vectors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypedDict

import orjson
import sqlalchemy as sa

from mercato.catalogue.database import Database
from mercato.catalogue.outbox import Outbox
from mercato.catalogue.tables import IMAGES, PRODUCTS

_DOCUMENTS = sa.select(PRODUCTS.c.product_id, PRODUCTS.c.document, PRODUCTS.c.image_count).where(
    PRODUCTS.c.product_id.in_(sa.bindparam("product_ids", expanding=True)), PRODUCTS.c.deleted.is_(False)
)  # made once: every search asks it

Product = dict[str, Any]  # a row of the products table, as `StoredProduct.row` gives it


class ProductDocument(TypedDict):
    """A product as HTTP shows it, but for its images, of which it has the number. JSON: `created_at` is ISO 8601."""

    product_id: str
    title: str
    description: str | None
    brand: str | None
    category: str | None
    price: float | None
    currency: str | None
    condition: str | None
    created_at: str | None
    country: str | None
    language: str | None
    latitude: float | None
    longitude: float | None
    seller_id: str | None
    seller_rating: float | None
    rating: float | None
    attributes: dict[str, str | None] | None
    image_count: int


@dataclass(frozen=True)
class StoredImage:
    """One image of a product: its bytes, or for a seeded one the path inside the market's folder."""

    content_type: str | None
    content: bytes | None
    path: str | None = None


@dataclass(frozen=True)
class StoredProduct:
    """A whole product: its document (every schema field but the images'; JSON values), images and image vectors."""

    document: Mapping[str, Any]
    images: Sequence[StoredImage] = ()
    image_embeddings: list[list[float]] | None = None

    @property
    def product_id(self) -> str:
        """Its key."""
        return str(self.document["product_id"])

    def row(self) -> Product:
        """The row of the products table: `created_at` a datetime, `images` as {bytes, path}, `image_embeddings`."""
        created_at = self.document["created_at"]
        return {
            **self.document,
            "created_at": datetime.fromisoformat(created_at) if created_at else None,
            "images": [{"bytes": image.content, "path": image.path} for image in self.images] or None,
            "image_embeddings": self.image_embeddings,
        }


class ProductStore:
    """The products of one catalogue. A product and its outbox row are written in one transaction."""

    def __init__(self, database: Database, outbox: Outbox) -> None:
        self._database, self._outbox = database, outbox

    def get(self, product_id: str) -> ProductDocument | None:
        """One product's document; None where there is none (any more)."""
        return self.get_many([product_id]).get(product_id)

    def get_many(self, product_ids: Sequence[str]) -> dict[str, ProductDocument]:
        """The documents of those of these products that exist, by id."""
        with self._database.read() as connection:
            rows = connection.execute(_DOCUMENTS, {"product_ids": product_ids}).all()
        return {product_id: _document(document, image_count) for product_id, document, image_count in rows}

    def image(self, product_id: str, position: int) -> StoredImage | None:
        """The image at a position (0 is the first) of a product."""
        wanted = sa.select(IMAGES.c.content_type, IMAGES.c.bytes, IMAGES.c.path).filter_by(
            product_id=product_id, position=position
        )
        with self._database.read() as connection:
            row = connection.execute(wanted).first()
        return None if row is None else StoredImage(*row)

    def load(self, product_ids: Sequence[str]) -> list[StoredProduct]:
        """Those of these products that exist, whole, in no order."""
        with self._database.read() as connection:
            products = connection.execute(
                sa.select(PRODUCTS.c.product_id, PRODUCTS.c.document, PRODUCTS.c.image_embeddings).where(
                    PRODUCTS.c.product_id.in_(product_ids), PRODUCTS.c.deleted.is_(False)
                )
            ).all()
            rows = connection.execute(
                sa.select(IMAGES.c.product_id, IMAGES.c.content_type, IMAGES.c.bytes, IMAGES.c.path)
                .where(IMAGES.c.product_id.in_(product_ids))
                .order_by(IMAGES.c.product_id, IMAGES.c.position)
            ).all()
        images: dict[str, list[StoredImage]] = {}
        for product_id, *image in rows:
            images.setdefault(product_id, []).append(StoredImage(*image))
        return [
            StoredProduct(
                orjson.loads(document), images.get(product_id, ()), orjson.loads(vectors) if vectors else None
            )
            for product_id, document, vectors in products
        ]

    def ids(self, after: str, limit: int) -> list[str]:
        """The next `limit` products' ids behind one, ascending, deleted ones among them; "" is before them all."""
        wanted = sa.select(PRODUCTS.c.product_id).where(PRODUCTS.c.product_id > after)
        with self._database.read() as connection:
            return list(connection.execute(wanted.order_by(PRODUCTS.c.product_id).limit(limit)).scalars())

    def written(self, after: str, limit: int) -> list[str]:
        """As `ids`, of those that were written or deleted through the API alone."""
        wanted = sa.select(PRODUCTS.c.product_id).where(PRODUCTS.c.written_via_api.is_(True))
        wanted = wanted.where(PRODUCTS.c.product_id > after).order_by(PRODUCTS.c.product_id).limit(limit)
        with self._database.read() as connection:
            return list(connection.execute(wanted).scalars())

    def last_written(self) -> int:
        """The number of the last write or deletion through the API that still stands; 0: there is none."""
        wanted = sa.select(sa.func.max(PRODUCTS.c.version)).where(PRODUCTS.c.written_via_api.is_(True))
        with self._database.read() as connection:
            return int(connection.execute(wanted).scalar_one() or 0)

    def documents(self, most: int | None = None) -> Iterator[ProductDocument]:
        """Every product's document, in no order; or, where there are more than `most`, every second, third, …"""
        columns = (PRODUCTS.c.document, PRODUCTS.c.image_count, PRODUCTS.c.deleted)
        wanted = sa.select(*columns)
        if most is not None and (every := -(-self.count() // most)) > 1:
            rows = sa.select(*columns, sa.func.row_number().over().label("row")).subquery()
            wanted = sa.select(rows.c.document, rows.c.image_count, rows.c.deleted).where(rows.c.row % every == 0)
        with self._database.read() as connection:
            for document, image_count, deleted in connection.execution_options(yield_per=1000).execute(wanted):
                if not deleted:  # no condition of the query: an index would have the table read out of its order
                    yield _document(document, image_count)

    def count(self) -> int:
        """How many products there are."""
        every = sa.select(sa.func.count()).select_from(PRODUCTS)  # no condition: SQLite counts whole pages
        deleted = every.where(PRODUCTS.c.deleted.is_(True))
        with self._database.read() as connection:
            return int(connection.execute(sa.select(every.scalar_subquery() - deleted.scalar_subquery())).scalar_one())

    def upsert(self, products: Sequence[StoredProduct]) -> None:
        """Write products and put them in the outbox, all or none; on disk when this returns."""
        with self._database.write() as connection:
            self._write(connection, products, written_via_api=True)
            self._outbox.enqueue(connection, [product.product_id for product in products], "upsert")

    def seed(self, products: Sequence[StoredProduct]) -> None:
        """Write products of the market's tables, all or none; those written through the API stay as they are.

        They do not go to the outbox: `mercato index` embeds the tables.
        """
        wanted = sa.select(PRODUCTS.c.product_id).where(
            PRODUCTS.c.product_id.in_([product.product_id for product in products]),
            PRODUCTS.c.written_via_api.is_(True),
        )
        with self._database.write() as connection:
            kept = set(connection.execute(wanted).scalars())
            self._write(connection, [p for p in products if p.product_id not in kept], written_via_api=False)

    def delete(self, product_id: str) -> bool:
        """Delete a product for good (seeding does not bring it back) and put that in the outbox; False if unknown."""
        gone = {"document": b"{}", "image_count": 0, "image_embeddings": None, "deleted": True, "written_via_api": True}
        with self._database.write() as connection:
            (number,) = self._database.numbers(connection, 1)
            deleted = connection.execute(
                sa.update(PRODUCTS)
                .where(PRODUCTS.c.product_id == product_id, PRODUCTS.c.deleted.is_(False))
                .values(**gone, version=number)
            )
            if deleted.rowcount == 0:
                return False
            connection.execute(sa.delete(IMAGES).filter_by(product_id=product_id))
            self._outbox.enqueue(connection, [product_id], "delete")
            return True

    def _write(self, connection: sa.Connection, products: Sequence[StoredProduct], written_via_api: bool) -> None:
        if not products:
            return
        insert = self._database.insert(PRODUCTS)
        names = ("document", "image_count", "image_embeddings", "version", "written_via_api", "deleted")
        replaced = {name: insert.excluded[name] for name in names}
        numbers = self._database.numbers(connection, len(products))
        connection.execute(
            insert.on_conflict_do_update(index_elements=["product_id"], set_=replaced),
            [
                {
                    "product_id": product.product_id,
                    "document": orjson.dumps(product.document),
                    "image_count": len(product.images),
                    "image_embeddings": orjson.dumps(product.image_embeddings) if product.image_embeddings else None,
                    "version": number,
                    "written_via_api": written_via_api,
                    "deleted": False,
                }
                for number, product in zip(numbers, products, strict=True)
            ],
        )
        ids = [product.product_id for product in products]
        connection.execute(sa.delete(IMAGES).where(IMAGES.c.product_id.in_(ids)))
        images = [
            {
                "product_id": product.product_id,
                "position": position,
                "content_type": image.content_type,
                "bytes": image.content,
                "path": image.path,
            }
            for product in products
            for position, image in enumerate(product.images)
        ]
        if images:
            connection.execute(sa.insert(IMAGES), images)


def _document(content: bytes, image_count: int) -> ProductDocument:
    document: ProductDocument = orjson.loads(content)
    document["image_count"] = image_count
    return document
