"""Seeding: the market's products table into the catalogue, a batch at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mercato.catalogue.images import checked_image, content_type
from mercato.catalogue.products import StoredImage, StoredProduct
from mercato.catalogue.store import Catalogue
from mercato.data.images import MAX_PIXELS
from mercato.data.market import Market
from mercato.data.schema import PRODUCTS
from mercato.errors import MercatoError
from mercato.progress import track

_SEEDED = "seeded_products"


def seed(catalogue: Catalogue, market: Market, batch: int = 500) -> int:
    """Seed the catalogue from the market's products table; returns how many rows were read.

    Nothing is read where the table's files (names, sizes, times) are those of the last seeding. Products written or
    deleted through the API stay as they are, and so do products whose row has left the table. Of rows with one
    product_id the first stands, as it does for training and for the index.

    Raises:
        MercatoError: the table cannot be read in its schema, or a row has no product_id or title.
    """
    files = market.imported_files("products")
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    fingerprint = hashlib.sha256(repr(stats).encode()).hexdigest()
    if catalogue.settings.get(_SEEDED) == fingerprint:
        return 0
    total = sum(map(_row_count, files))
    products: list[StoredProduct] = []
    seen: set[str] = set()
    for number, row in enumerate(track(_rows(market, batch), "seeding the catalogue", total)):
        for field in ("product_id", "title"):
            if not row[field]:
                raise MercatoError(f"table products, row {number}, column {field}: empty (`mercato check` lists all)")
        if row["product_id"] in seen:
            continue
        seen.add(row["product_id"])
        products.append(_product(row))
        if len(products) == batch:
            catalogue.products.seed(products)
            products = []
    catalogue.products.seed(products)
    catalogue.settings.set(_SEEDED, fingerprint)
    return total


def _rows(market: Market, batch: int) -> Iterator[dict[str, Any]]:
    for file in market.imported_files("products"):
        try:
            reader = pq.ParquetFile(file)
            present = [name for name in PRODUCTS.names if name in reader.schema_arrow.names]
            for part in reader.iter_batches(batch_size=batch, columns=present):
                columns = [
                    part.column(field.name).cast(field.type)
                    if field.name in present
                    else pa.nulls(len(part), field.type)
                    for field in PRODUCTS
                ]
                yield from pa.RecordBatch.from_arrays(columns, schema=PRODUCTS).to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(file, error) from None


def _row_count(file: Path) -> int:
    try:
        return int(pq.read_metadata(file).num_rows)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(file, error) from None


def _unreadable(file: Path, error: Exception) -> MercatoError:
    return MercatoError(f"table products: cannot read {file}: {error} (`mercato check` says more)")


def _product(row: dict[str, Any]) -> StoredProduct:
    """A row of the table as the catalogue keeps it; an image that cannot be read is left out."""
    images, vectors = row.pop("images") or [], row.pop("image_embeddings")
    created: datetime | None = row["created_at"]
    row["created_at"] = created.isoformat() if created else None
    row["attributes"] = dict(row["attributes"]) if row["attributes"] is not None else None
    return StoredProduct(row, [stored for image in images if image and (stored := _image(image))], vectors)


def _image(image: dict[str, Any]) -> StoredImage | None:
    content: bytes | None = image["bytes"]
    if not content:
        return StoredImage(None, None, image["path"]) if image["path"] else None
    if kind := content_type(content):
        return StoredImage(kind, content)
    try:
        return StoredImage(*checked_image(content, "image", MAX_PIXELS))
    except MercatoError:
        return None
