"""Where a search's time goes: the pipeline in this process, one thread, its parts timed as they are called."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mercato.catalogue.store import Catalogue
from mercato.data.market import CATALOGUE, Market
from mercato.ranking.ranker import Ranker
from mercato.retrieval.open import open_index
from mercato.runs.onnx_encoder import OnnxEncoder
from mercato.search.pipeline import Searcher
from mercato.search.policy import RetrievalPolicy
from mercato.serving.bodies import SearchIn
from mercato.serving.serialize import json_response, page_json

PARTS = READ, ENCODE, RETRIEVE, RANK, COUNT, FETCH, OTHER, WRITE = (
    "read the request",
    "encode",
    "retrieve",
    "rank",
    "count",
    "fetch",
    "other",
    "write JSON",
)


def time_parts(run: Path, market: Market, index: Path, bodies: Sequence[dict[str, Any]]) -> list[dict[str, float]]:
    """Milliseconds that each part takes of each search.

    What the catalogue, the index, the encoder and the run's ranker take is measured around their calls; `other` is what
    is left of the pipeline: the window, the filters once more, the cursor. The first sixth is asked to warm up, and
    not told.
    """
    watch = _Stopwatch()
    catalogue = Catalogue.open(market.path / CATALOGUE)
    try:
        with open_index(index, read_only=True) as opened:
            encoder = watch.around(OnnxEncoder(run, market.path), encode_queries=ENCODE)
            retrieval = watch.around(opened, search=RETRIEVE, count=COUNT)
            catalogue.products = watch.around(catalogue.products, get_many=FETCH)
            ranker = watch.around(found, rank=RANK) if (found := Ranker.of_run(run)) else None
            searcher = Searcher(encoder, retrieval, catalogue, RetrievalPolicy.of_run(run, len(opened)), ranker)
            return [_one(searcher, watch, body) for body in bodies][len(bodies) // 6 :]
    finally:
        catalogue.close()


def _one(searcher: Searcher, watch: _Stopwatch, body: dict[str, Any]) -> dict[str, float]:
    watch.spent.clear()
    began = time.perf_counter()
    request = SearchIn.model_validate(body).request()
    read = time.perf_counter()
    page = searcher.search(request)
    searched = time.perf_counter()
    json_response(page_json(page))
    written = time.perf_counter()
    parts = {part: watch.spent[part] * 1000 for part in PARTS}
    parts[READ] = (read - began) * 1000
    parts[OTHER] = (searched - read) * 1000 - sum(watch.spent.values()) * 1000
    parts[WRITE] = (written - searched) * 1000
    return parts


class _Stopwatch:
    """Adds up the seconds that calls take, under the names that they are given."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)

    def around(self, what: Any, **methods: str) -> Any:
        """`what`, some methods of it timed."""
        watch = self

        class Timed:
            def __getattr__(self, name: str) -> Any:
                found = getattr(what, name)
                if name not in methods:
                    return found

                def timed(*given: Any, **named: Any) -> Any:
                    start = time.perf_counter()
                    try:
                        return found(*given, **named)
                    finally:
                        watch.spent[methods[name]] += time.perf_counter() - start

                return timed

        return Timed()
