"""`mercato index`: every product of a market embedded and indexed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mercato.data.market import Market
from mercato.errors import MercatoError
from mercato.progress import track
from mercato.retrieval.open import build_index
from mercato.retrieval.protocol import IndexRecord, record_from_product
from mercato.runs.encoder import Encoder
from mercato.runs.folder import WEIGHTS
from mercato.runs.image_vectors import products_with_vectors
from mercato.runs.onnx_encoder import OnnxEncoder

BATCH = 1_024


def run_fingerprint(run: Path) -> str:
    """Names a run's weights: an index must have been made by the run that serves it.

    Raises:
        MercatoError: the folder is not a run.
    """
    try:
        with (run / WEIGHTS).open("rb") as weights:
            return hashlib.file_digest(weights, "sha256").hexdigest()[:16]
    except OSError:
        raise MercatoError(f"{run} is not a run: it has no {WEIGHTS} (train one with `mercato train`)") from None


def products_fingerprint(market: Market) -> str:
    """Names the content of the products table. The other tables grow while a market is served and change no index."""
    digest = hashlib.sha256()
    for file in market.files("products"):
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:16]


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


def index_market(run: Path, market: Market, url: str, as_of: datetime | None = None) -> dict[str, Any]:
    """Embed the market's products with a run and build the index at `url`, whole or not at all.

    Returns the index's description. Of rows with one product_id the first stands. What was written through the API
    since is indexed again by the next server. Listings have their age as of that moment; None: the clock's.
    """
    encoder = OnnxEncoder(run, market.path, threads=os.cpu_count() or 1)
    # The moment makes every build another: what the API wrote since must be indexed again, also by the same run.
    made_by = f"{run_fingerprint(run)} {products_fingerprint(market)} {datetime.now(UTC).isoformat()}"
    return build_index(url, _records(encoder, market, run, as_of), encoder.dimension, made_by)


def _records(encoder: OnnxEncoder, market: Market, run: Path, as_of: datetime | None) -> Iterator[IndexRecord]:
    products = products_with_vectors(market, encoder, run)
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
