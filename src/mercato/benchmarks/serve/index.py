"""The index of a big market, built once: how fast it was, and how large it is."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mercato.benchmarks.machine import machine
from mercato.catalogue.fingerprints import products_fingerprint, run_fingerprint
from mercato.catalogue.indexing import index_market
from mercato.data.market import Market
from mercato.errors import MercatoError
from mercato.files import write_atomic
from mercato.retrieval.open import open_index

BUILT = "index-built.json"  # beside the index


def big_index(run: Path, market: Market, index: Path) -> dict[str, Any]:
    """Embed and index the market at `index`, or find it done; returns how that went.

    The figures are `products`, `seconds`, `per_s` (products embedded and indexed), `disk_mb`, `date` and `machine`: of
    when it was built, also where it is found. Only an index of this run's vectors of these products is taken for done.

    Raises:
        MercatoError: the index is that of another run or of other products.
    """
    made_by = f"{run_fingerprint(run)} {products_fingerprint(market)}"
    file = index.with_name(BUILT)
    if file.is_file():
        figures: dict[str, Any] = json.loads(file.read_text())
        with open_index(index, read_only=True) as opened:
            if figures.pop("made_by") != made_by or not opened.fingerprint.startswith(made_by):
                raise MercatoError(f"{index} was not made by {run} from this market: give another --out")
        return figures
    on, start = machine(), time.perf_counter()
    products = index_market(run, market, str(index))["count"]
    seconds = time.perf_counter() - start
    figures = {
        "products": products,
        "seconds": round(seconds, 1),
        "per_s": round(products / seconds, 1),
        "disk_mb": round(_bytes_on_disk(index) / 1e6, 1),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": on,
    }
    write_atomic(file, json.dumps(figures | {"made_by": made_by}, indent=2))
    return figures


def _bytes_on_disk(folder: Path) -> int:
    """What its files take, without the holes in them."""
    return sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file())
