"""Pairs to draw from, any of them again and again. Their weights are added up once: there may be many millions.

Shapes: K pairs to draw from, Q queries; B draws.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Pool:
    """Pairs of any query."""

    rows_K: NDArray[np.int64]
    upto_K: NDArray[np.float64] | None = None  # weights of all rows up to each, itself included; None: all alike

    @classmethod
    def of(cls, rows_K: NDArray[np.int64], weight_K: NDArray[np.float64] | None) -> Pool:
        """Rows of the examples, to draw by weight; None: all alike."""
        return cls(rows_K, None if weight_K is None else np.cumsum(weight_K))

    def draw(self, count: int, generator: np.random.Generator) -> NDArray[np.int64]:
        """Draw `count` rows."""
        if self.upto_K is None:
            return self.rows_K[generator.integers(len(self.rows_K), size=count)]
        aim_B = generator.random(count) * self.upto_K[-1]  # never rounded up to the sum itself
        drawn: NDArray[np.int64] = self.rows_K[np.searchsorted(self.upto_K, aim_B, side="right")]
        return drawn

    def chances(self) -> NDArray[np.float64]:
        """How likely each row is to be a draw."""
        if self.upto_K is None:
            return np.full(len(self.rows_K), 1 / len(self.rows_K))
        chance_K: NDArray[np.float64] = np.diff(self.upto_K, prepend=0.0) / self.upto_K[-1]
        return chance_K


@dataclass(frozen=True)
class QueryPool:
    """Pairs of given queries: those of each query lie side by side."""

    rows_K: NDArray[np.int64]  # by query
    start_Q: NDArray[np.int64]  # (Q + 1,): those of query q are from start_Q[q] to before start_Q[q + 1]
    below_K: NDArray[np.float64]  # (K + 1,): the weights of all rows before each

    @classmethod
    def of(
        cls,
        rows_K: NDArray[np.int64],
        query_K: NDArray[np.int64],
        weight_K: NDArray[np.float64] | None,
        queries: int,
    ) -> QueryPool:
        """Rows of the examples and their queries (0 to `queries`), to draw by weight; None: all alike."""
        order_K = np.argsort(query_K, kind="stable")
        weight_K = np.ones(len(rows_K)) if weight_K is None else weight_K
        return cls(
            rows_K[order_K],
            np.searchsorted(query_K[order_K], np.arange(queries + 1)),
            np.concatenate([[0.0], np.cumsum(weight_K[order_K])]),
        )

    def draw(self, query_B: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
        """Draw a row of each query; one that has none contributes none."""
        query_B = query_B[self.start_Q[query_B] < self.start_Q[query_B + 1]]
        first_B, end_B = self.start_Q[query_B], self.start_Q[query_B + 1]
        low_B, high_B = self.below_K[first_B], self.below_K[end_B]
        aim_B = low_B + generator.random(len(query_B)) * (high_B - low_B)
        place_B = np.searchsorted(self.below_K, aim_B, side="right") - 1
        drawn: NDArray[np.int64] = self.rows_K[np.minimum(place_B, end_B - 1)]  # a sum may be rounded up
        return drawn

    def chances(self, chance_Q: NDArray[np.float64]) -> NDArray[np.float64]:
        """How likely each row is to be the draw of a query, of which each is as likely as given."""
        count_Q = np.diff(self.start_Q)
        whole_Q = self.below_K[self.start_Q[1:]] - self.below_K[self.start_Q[:-1]]
        return np.diff(self.below_K) * np.repeat(chance_Q[count_Q > 0] / whole_Q[count_Q > 0], count_Q[count_Q > 0])
