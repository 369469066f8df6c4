"""Query prediction by the product tower's classification head (Que2Search §3.1.1). No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mercato.data.normalize import normalize

BATCH = 256  # products at once: with the paper's 45,000 queries, 46 MB of logits
NO_HEAD = "no classification head: train with head.queries above 0 in the recipe (the paper's: 45,000)"


@dataclass(frozen=True)
class QueryHead:
    """Classification head: a linear layer from a product's unit vector to a logit for each of the head's Y queries."""

    queries: Sequence[str]
    weight_YD: NDArray[np.float32]
    bias_Y: NDArray[np.float32]

    def predict(self, vectors: NDArray[np.float32], k: int) -> list[list[tuple[str, float]]]:
        """The k most probable queries of each product, best first, with their softmax probabilities over all Y queries.

        Args:
            vectors: unit vectors of products, float32 (n, D).
            k: at most so many; Y where the head has fewer.
        """
        found = []
        for start in range(0, len(vectors), BATCH):
            logits_BY = vectors[start : start + BATCH] @ self.weight_YD.T + self.bias_Y
            odds_BY = np.exp(logits_BY - logits_BY.max(axis=1, keepdims=True))
            odds_BY /= odds_BY.sum(axis=1, keepdims=True)
            best_BK = _top(odds_BY, min(k, len(self.queries)))
            for odds_Y, best_K in zip(odds_BY, best_BK, strict=True):
                found.append([(self.queries[place], float(odds_Y[place])) for place in best_K])
        return found

    def line(self, query: str) -> tuple[NDArray[np.float32], float, float] | None:
        """What a query's logit is made of: a unit vector u (D,), a slope and a level, the logit of a product's unit
        vector v being slope · u·v + level. None of a query that the head does not know.

        A higher logit makes the query likelier for a product; how likely it is depends on all others' logits too.
        """
        place = self._places.get(normalize(query))
        if place is None:
            return None
        weight_D = self.weight_YD[place]
        length = float(np.linalg.norm(weight_D))
        return weight_D / np.float32(length or 1.0), length, float(self.bias_Y[place])

    @cached_property
    def _places(self) -> dict[str, int]:
        """Of each query in its normal form, the first where several share one: the most common."""
        return {normalize(query): place for place, query in reversed([*enumerate(self.queries)])}


def _top(scores_BY: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """The places of the k highest of each row, highest first, equal ones in their order: (B, k)."""
    some_BK = np.sort(np.argpartition(-scores_BY, k - 1, axis=1)[:, :k], axis=1)
    order_BK = np.argsort(-np.take_along_axis(scores_BY, some_BK, axis=1), axis=1, kind="stable")
    best_BK: NDArray[np.int64] = np.take_along_axis(some_BK, order_BK, axis=1)
    return best_BK
