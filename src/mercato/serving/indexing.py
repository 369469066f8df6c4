"""`mercato index`: every product of a market embedded and indexed; the catalogue of record filled beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mercato.data.market import Market
from mercato.models.image_vectors import products_with_vectors
from mercato.models.run import WEIGHTS
from mercato.progress import track
from mercato.retrieval.index import IndexRecord, build_index, record_from_product
from mercato.serving.catalogue import Catalogue
from mercato.serving.predictor import Predictor
from mercato.serving.seeding import seed

BATCH = 256
CATALOGUE = "catalogue.sqlite"


def run_fingerprint(run: Path) -> str:
    """Names a run's weights: an index must have been made by the run that serves it."""
    with (run / WEIGHTS).open("rb") as weights:
        return hashlib.file_digest(weights, "sha256").hexdigest()[:16]


def index_market(run: Path, market: Market, url: str) -> dict[str, Any]:
    """Embed the market's products with a run and build the index at `url`, whole or not at all.

    Returns the index's description. What was written through the API since is indexed again by the next server.
    """
    predictor = Predictor(run, market.path, threads=2)
    catalogue = Catalogue.open(market.path / CATALOGUE)
    try:
        seed(catalogue, market)
    finally:
        catalogue.close()
    # The moment makes every build another: what the API wrote since must be indexed again, also by the same run.
    made_by = f"{run_fingerprint(run)} {datetime.now(UTC).isoformat(timespec='seconds')}"
    return build_index(url, _records(predictor, market, run), predictor.dimension, made_by)


def _records(predictor: Predictor, market: Market, run: Path) -> Iterator[IndexRecord]:
    products = products_with_vectors(market, predictor, run)
    starts = range(0, products.num_rows, BATCH)
    for start in track(starts, f"products → vectors → index (batches of {BATCH})"):
        rows = products.slice(start, BATCH).to_pylist()
        yield from map(record_from_product, rows, predictor.encode_products(rows))
