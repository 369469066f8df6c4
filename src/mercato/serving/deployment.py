"""A deployment: a run, the index of its vectors, and all that answers from the two. It is exchanged as one.

A request takes the deployment that serves and keeps it to its end, so that no query meets vectors of another run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Condition, Lock
from typing import Self

from mercato.catalogue.store import Catalogue
from mercato.errors import MercatoError
from mercato.ranking.ranker import Ranker
from mercato.retrieval.protocol import Index
from mercato.runs.cache import TTLCache
from mercato.runs.encoder import Encoder
from mercato.runs.onnx_encoder import OnnxEncoder
from mercato.search.explain import Explainer
from mercato.search.pipeline import Searcher
from mercato.search.policy import RetrievalPolicy
from mercato.search.query_prediction import QueryPredictor
from mercato.search.rules import MarketRules


class Deployment:
    """What answers from one run and its index."""

    def __init__(
        self,
        encoder: Encoder,
        index: Index,
        catalogue: Catalogue,
        *,
        name: str = "model",
        policy: RetrievalPolicy | None = None,
        ranker: Ranker | None = None,
        rules: MarketRules | None = None,
        image_dimension: int = 0,
    ) -> None:
        """`name` is what `GET /v1/market` calls the model; `image_dimension` that of the image vectors read, or 0."""
        self.encoder, self.index, self.name, self.image_dimension = encoder, index, name, image_dimension
        self.searcher = Searcher(encoder, index, catalogue, policy or RetrievalPolicy(), ranker, rules)
        self.explainer = Explainer(encoder, catalogue)
        self.predictor = QueryPredictor(encoder, catalogue)
        self._requests, self._changed = 0, Condition()

    @classmethod
    def of_run(cls, run: Path, market: Path, index: Index, catalogue: Catalogue, rules: MarketRules) -> Self:
        """A run's deployment over an open index of its vectors.

        Raises:
            MercatoError: the folder is not a run, it has no exported towers, its vectors are of another length than the
                index's, or its ranker is another's.
        """
        encoder = OnnxEncoder(run, market)
        if encoder.dimension != index.dimension:
            raise MercatoError(
                f"the index has vectors of {index.dimension} numbers, and {run} makes vectors of {encoder.dimension}:"
                f" build it again with `mercato index {run} --market {market} --to URL`"
            )
        return cls(
            encoder,
            index,
            catalogue,
            name=encoder.recipe.name,
            policy=RetrievalPolicy.of_run(run, len(index)),
            ranker=Ranker.of_run(run),
            rules=rules,
            image_dimension=math.prod(encoder.featurizer.spec.image_shape),
        )

    @property
    def cached(self) -> tuple[int, int]:
        """Query vectors that were found in the encoder's cache, and that were not."""
        cache = getattr(self.encoder, "cache", None)
        return (cache.hits, cache.misses) if isinstance(cache, TTLCache) else (0, 0)

    def enter(self) -> None:
        """Count a request in."""
        with self._changed:
            self._requests += 1

    def leave(self) -> None:
        """Count it out."""
        with self._changed:
            self._requests -= 1
            self._changed.notify_all()

    def close(self) -> None:
        """Close the index, once the requests that are under way have ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._requests == 0)
        self.index.close()


class Deployments:
    """The deployment that serves, exchanged for another while the requests under way end on the one before."""

    def __init__(self, served: Deployment) -> None:
        self._served, self._turn = served, Lock()
        self._before = (0, 0)  # found and not found in caches, less what the one that serves counts

    @property
    def served(self) -> Deployment:
        """The one that serves now; `using` keeps it."""
        return self._served

    @contextmanager
    def using(self) -> Iterator[Deployment]:
        """Take the one that serves, for one request."""
        with self._turn:
            deployment = self._served
            deployment.enter()
        try:
            yield deployment
        finally:
            deployment.leave()

    def exchange(self, deployment: Deployment) -> None:
        """Serve with another from now on."""
        with self._turn:
            own, others = self._served.cached, deployment.cached
            self._before = (self._before[0] + own[0] - others[0], self._before[1] + own[1] - others[1])
            self._served = deployment

    def cached(self) -> tuple[int, int]:
        """How many query vectors were found in the cache and how many were not, over all that have served."""
        with self._turn:
            own = self._served.cached
            return self._before[0] + own[0], self._before[1] + own[1]
