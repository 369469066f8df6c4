"""`mercato index`: every product of a market embedded and indexed."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mercato.catalogue.belonging import open_catalogue
from mercato.catalogue.fingerprints import products_fingerprint, run_fingerprint
from mercato.catalogue.identity import Made, market_id
from mercato.catalogue.ledger import GenerationLedger
from mercato.catalogue.products import Product
from mercato.catalogue.store import Catalogue
from mercato.catalogue.written import written_pages
from mercato.data.market import CATALOGUE, Market
from mercato.errors import MercatoError
from mercato.progress import track
from mercato.retrieval.open import build_index
from mercato.retrieval.protocol import IndexRecord, record_from_product
from mercato.runs.encoder import Encoder, RunEncoder
from mercato.runs.image_vectors import products_with_vectors
from mercato.runs.onnx_encoder import OnnxEncoder

BATCH = 1_024

log = logging.getLogger("mercato.indexing")


def finite_vectors(
    encoder: Encoder, products: Sequence[Mapping[str, Any]], as_of: datetime | None = None
) -> NDArray[np.float32]:
    """As `encode_products`: (n, d).

    Raises:
        MercatoError: the model gave a vector that is not finite.
    """
    vectors = encoder.encode_products(products, as_of=as_of)
    if not np.isfinite(vectors).all():
        raise MercatoError("the model gave a vector that is not finite")
    return vectors


def embed_each(
    encoder: RunEncoder, products: Sequence[Product], as_of: datetime | None
) -> tuple[list[Product], NDArray[np.float32]]:
    """The products that can be embedded, and their vectors; one that cannot is left out and hinders no other."""
    try:
        return [*products], finite_vectors(encoder, products, as_of)
    except Exception as error:
        if len(products) == 1:
            log.warning("product %s is left out: %s: %s", products[0]["product_id"], type(error).__name__, error)
            return [], np.zeros((0, encoder.dimension), np.float32)
        each = [embed_each(encoder, [product], as_of) for product in products]
        return [product for kept, _ in each for product in kept], np.concatenate([vectors for _, vectors in each])


def index_market(run: Path, market: Market, url: str, as_of: datetime | None = None) -> dict[str, Any]:
    """Embed the market's products with a run and build the index at `url`, whole or not at all.

    What the API wrote is read from the catalogue as it is now, and stands in place of the table's row; what it deleted
    is left out. Of rows with one product_id the first stands. Returns the index's description. Listings have their age
    as of that moment; None: the clock's.
    """
    encoder = OnnxEncoder(run, market.path, threads=os.cpu_count() or 1)
    products, now = products_fingerprint(market), datetime.now(UTC).isoformat()
    if not (market.path / CATALOGUE).is_file():
        made_by = Made(run_fingerprint(run), products, now, market_id(market.path)).fingerprint()
        nothing = pa.chunked_array([], pa.string())
        return build_index(url, _of_tables(encoder, market, run, as_of, nothing), encoder.dimension, made_by)
    with closing(open_catalogue(market)) as catalogue:
        made_by = Made(run_fingerprint(run), products, now, market_id(market.path)).fingerprint()
        number, left_out = catalogue.last_number(), list[str]()
        written = pa.chunked_array([pa.array(page) for page in written_pages(catalogue)], pa.string())
        records = chain(
            _of_tables(encoder, market, run, as_of, written), _of_catalogue(encoder, catalogue, as_of, left_out)
        )
        description = build_index(url, records, encoder.dimension, made_by)
        GenerationLedger(catalogue).note_read(made_by, number, left_out)
    return description


def _of_tables(
    encoder: OnnxEncoder, market: Market, run: Path, as_of: datetime | None, written: pa.ChunkedArray
) -> Iterator[IndexRecord]:
    """The records of the products whose ids are not among `written`."""
    products = products_with_vectors(market.as_imported(), encoder, run)  # whose image vectors outlast other writes
    products = products.filter(pc.invert(pc.is_in(products["product_id"], written)))
    seen: set[str] = set()

    def encoded(start: int) -> list[IndexRecord]:
        rows = []
        for row in products.slice(start, BATCH).to_pylist():
            if row["product_id"] not in seen:
                seen.add(row["product_id"])
                rows.append(row)
        return [*map(record_from_product, rows, encoder.encode_products(rows, as_of=as_of))]

    starts = range(0, products.num_rows, BATCH)
    with ThreadPoolExecutor(1) as ahead:  # the next batch is encoded while one is indexed
        coming = ahead.submit(encoded, 0)
        for start in track(starts, f"products → vectors → index (batches of {BATCH:,})"):
            records, coming = coming.result(), ahead.submit(encoded, start + BATCH)
            yield from records


def _of_catalogue(
    encoder: OnnxEncoder, catalogue: Catalogue, as_of: datetime | None, left_out: list[str]
) -> Iterator[IndexRecord]:
    """The records of what the API wrote; the ids of those that cannot be embedded or indexed are put in `left_out`."""
    for ids in track(written_pages(catalogue), "products written through the API → index"):
        products = [product.row() for product in catalogue.products.load(ids)]
        kept, vectors = embed_each(encoder, products, as_of)
        found = []
        for product, vector in zip(kept, vectors, strict=True):
            try:
                found.append(record_from_product(product, vector))
            except MercatoError as error:
                log.warning("%s: it is left out", error)
        left_out += {product["product_id"] for product in products} - {record.product_id for record in found}
        yield from found
