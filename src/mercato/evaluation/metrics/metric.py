"""What a metric is: a name, how people call it, and a statistic of what one part of an evaluation asks of a system.

A metric enters as a `Statistic`: a function from query weights to its value. Weights of 1 give the figure itself, those
of a bootstrap resample one replicate (`mercato.evaluation.metrics.bootstrap`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from mercato.evaluation.metrics.arrays import BoolArray, FloatArray, IntArray, ratio

Statistic = Callable[[FloatArray], FloatArray]  # weights (R, Q) → values (R,), NaN where undefined

Inputs = TypeVar("Inputs")
Computed = TypeVar("Computed")


@dataclass(frozen=True)
class Metric(Generic[Inputs, Computed]):
    """One line of the registry."""

    name: str  # in JSON
    label: str  # for people
    meaning: str  # what it says, in a sentence for people
    compute: Callable[[Inputs], Computed]
    headline: int | None = None  # its place among the headlines, 1 the first; None: it is none
    directed: bool = True  # more is better; False: neither more nor less is, and no report calls it better or worse


@dataclass(frozen=True, kw_only=True)
class ScoredPairs:
    """The labelled pairs of some queries with one system's scores: arrays of (P,)."""

    groups_P: IntArray  # the query of each pair, 0 … Q - 1
    grades_P: FloatArray
    labels_P: BoolArray  # relevant, or engaged
    scores_P: FloatArray
    found: RankedCatalogue | None = None  # the first products for the same queries; None: only labelled ones are ranked


@dataclass(frozen=True, kw_only=True)
class EngagementPairs(ScoredPairs):
    """Scored pairs of the log: how often each was shown, what it is of, and whether anybody clicked it."""

    strata_P: IntArray  # of impressions (`mercato.evaluation.metrics.matched_auc.strata`), -1 where unknown
    kinds_P: IntArray  # the product's leaf category, -1 where it has none
    clicked_P: BoolArray


@dataclass(frozen=True, kw_only=True)
class ScoredLists:
    """Displayed lists with one system's scores: the L lists of Q queries, arrays of (P,) over their products."""

    queries_L: IntArray  # the query of each list, 0 … Q - 1
    lists_P: IntArray  # the list of each product, 0 … L - 1
    gains_P: FloatArray  # the depth that the search reached, over the propensity of its position
    scores_P: FloatArray


@dataclass(frozen=True, kw_only=True)
class ScoredBatches:
    """Batches of aligned engaged pairs: the scores (B, B) of each batch's queries with all of its products."""

    scores_BB: Sequence[npt.NDArray[np.floating]]


@dataclass(frozen=True, kw_only=True)
class RankedCatalogue:
    """The products that a system finds first in the catalogue for each query, beside the labelled ones."""

    top_QK: IntArray  # rows of products, best first, -1 where nothing more was found
    groups_P: IntArray  # the query of each engaged (or judged) pair, 0 … Q - 1
    products_P: IntArray  # the row of its product
    catalogue: int  # how many products there are


@dataclass(frozen=True, kw_only=True)
class RetrievedPairs:
    """Distinct pairs, and where a search of the catalogue for the pair's query finds its product: arrays of (P,)."""

    groups_P: IntArray  # the query of each pair, 0 … Q - 1
    ranks_P: IntArray  # 0 the first; -1: not among those asked for
    depth: int  # how many products the search was asked for


@dataclass(frozen=True, kw_only=True)
class PredictedQueries:
    """The queries predicted for M products: which were right, and how many there were to predict."""

    hits_MK: FloatArray  # 1 where the prediction at that rank is right
    sizes_M: FloatArray


class QueryMean:
    """The statistic of a per-query metric: its mean over the queries on which it is defined (not NaN)."""

    def __init__(self, values_Q: FloatArray) -> None:
        self._defined_Q = (~np.isnan(values_Q)).astype(np.float64)
        self._values_Q = np.nan_to_num(values_Q)

    def __call__(self, weights_RQ: FloatArray) -> FloatArray:
        """The weighted mean under each row of weights, (R,)."""
        return ratio(weights_RQ @ self._values_Q, weights_RQ @ self._defined_Q)

    @property
    def queries(self) -> int:
        """On how many it is defined."""
        return int(self._defined_Q.sum())
