"""An index by its URL: `open_index` and `build_index` choose the engine."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from mercato.errors import MercatoError
from mercato.retrieval.engines.qdrant_edge.index import EdgeIndex, build
from mercato.retrieval.protocol import Index, IndexRecord


def open_index(url: str | Path) -> Index:
    """Open the index at `url`: a folder or a file:// URL is an embedded one, which one process at a time may hold.

    Raises a MercatoError where there is none, where another process holds it, and for a cluster's URL.
    """
    return EdgeIndex(_folder(url))


def build_index(
    url: str | Path, records: Iterable[IndexRecord], dimension: int, fingerprint: str = ""
) -> dict[str, Any]:
    """Build a new generation of the index at `url`, whole or not at all, and return its meta.json.

    A process that holds the generation before goes on with it; whoever opens the index from now on gets the new one. An
    error, from `records` too, leaves the old generation served. Of records with one product_id the last stands.
    `fingerprint` says which run made the vectors. `dimension` is theirs.
    """
    return build(_folder(url), records, dimension, fingerprint)


def _folder(url: str | Path) -> Path:
    if isinstance(url, Path):
        return url
    parts = urlsplit(url)
    if parts.scheme in ("http", "https"):
        raise MercatoError(
            f"{url} is a cluster's URL, and this version has no cluster engine yet: give a folder for an embedded index"
        )
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    if parts.scheme and "://" in url:
        raise MercatoError(f"{url}: an index is a folder or a file:// URL, not {parts.scheme}://")
    return Path(url)
