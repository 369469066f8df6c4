"""What names a run's weights and a market's products: an index says which of both it was made from."""

from __future__ import annotations

import hashlib
from pathlib import Path

from mercato.data.market import Market
from mercato.errors import MercatoError
from mercato.runs.folder import WEIGHTS, reading_run


def run_fingerprint(run: Path) -> str:
    """Names a run's weights: an index must have been made by the run that serves it.

    Raises:
        MercatoError: the folder is not a run.
    """
    if not (run / WEIGHTS).is_file():
        raise MercatoError(f"{run} is not a run: it has no {WEIGHTS} (train one with `mercato train`)")
    with reading_run(run / WEIGHTS), (run / WEIGHTS).open("rb") as weights:
        return hashlib.file_digest(weights, "sha256").hexdigest()[:16]


def products_fingerprint(market: Market) -> str:
    """Names the content of the imported products table.

    What the API writes is no part of it, for it reaches every index by itself; nor are the other tables.
    """
    digest = hashlib.sha256()
    for file in market.imported_files("products"):
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:16]
