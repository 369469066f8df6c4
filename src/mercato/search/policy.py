"""The retrieval policy: how hard the index is searched for a page (Que2Search §6.3, §6.4)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RetrievalPolicy:
    """Retrieval settings by page: the first page is cheap, later pages, which few ask for, dig deeper."""

    min_cosine: float | None = None  # the least cosine of a hit found by its vector
    first_ef_search: int = 96  # HNSW's ef on the first page
    later_ef_search: int = 256  # and on every page after it
    depth: int = 1000  # no search shows more hits than this
