"""What first pages are worth: what people engaged with on future days, and what raters judged, that stands on them.

Only what a search of the log displayed can have been engaged with, and the log's engine chose that: a product that it
never showed counts as nothing here, however good. So read differences, beside how much of a page was never displayed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import polars as pl

from mercato.data.market import Market
from mercato.errors import MercatoError
from mercato.evaluation.dataset import KEY, EvaluationSet, LabelledPairs
from mercato.evaluation.metrics.arrays import FloatArray, IntArray
from mercato.evaluation.metrics.bootstrap import Estimate, estimates, resample
from mercato.evaluation.metrics.knn import recall_and_precision
from mercato.evaluation.metrics.metric import QueryMean, Statistic
from mercato.evaluation.metrics.page import condensed, labels_on, mean_label, page_ndcg, shown_of_all
from mercato.evaluation.metrics.unjudged import unjudged_at_k
from mercato.experiments.pages import FirstPages

MEASURES = {  # label → what it says, in a sentence
    "engaged": "The share of what people engaged with on future days that is on its query's first page, by query.",
    "engagements": "Of all engagements of future days, the share with products that are on their query's first page.",
    "depth nDCG": "Whether the products with which people went furthest come first, on the page.",
    "new pairs": "As `engaged`, of the pairs that the log did not hold before.",
    "nDCG@10": "Whether the best of all judged products come first, on the page; the unjudged are passed over.",
    "grade": "The mean grade of the judged products on the page.",
}
COUNTS = {
    "products": "Products on a page.",
    "by vector": "Of these, those that the words did not bring.",
    "undisplayed": "Of these, those that no search of future days displayed for the query.",
    "unjudged": "On the pages of judged queries, products that no rater judged.",
}


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What first pages are held to: Q queries, those that people engaged with or raters judged."""

    dataset: EvaluationSet
    queries_Q: IntArray  # rows of the evaluation's
    engaged: LabelledPairs
    engagements_P: FloatArray  # how often each of these pairs was engaged with
    displayed: LabelledPairs  # of the same queries, whatever became of them

    @classmethod
    def of(cls, market: Market) -> Self:
        """The test split of a market.

        Raises:
            MercatoError: nobody engaged with anything on its future days.
        """
        dataset = EvaluationSet.read(market, "test", lists=False)
        if dataset.engaged is None or dataset.engagement is None:
            raise MercatoError(f"{market.path} has no engaged pairs of future days: mine its events")
        rows = [pairs.query_rows for pairs in (dataset.engaged, dataset.relevance) if pairs is not None]
        return cls(
            dataset,
            np.unique(np.concatenate(rows)),
            dataset.engaged,
            _engagements(market, dataset, dataset.engaged),
            dataset.engagement.only(np.isin(dataset.engagement.queries, dataset.engaged.query_rows)),
        )

    def estimates(self, pages: FirstPages) -> dict[str, Estimate]:
        """Each measure with its replicates, the same resamples for whatever pages; an undefined one is left out."""
        top_QK, groups_P, products_P = self._on(pages, self.engaged)
        size, catalogue = top_QK.shape[1], len(self.dataset.product_ids)
        engagements_QK = labels_on(top_QK, groups_P, products_P, self.engagements_P, catalogue)
        shown = self.displayed
        depth_P = np.nan_to_num(shown.depth)
        depth_QK = labels_on(top_QK, shown.groups, shown.products, depth_P, catalogue)
        found = self._estimates(
            self.engaged,
            {
                "engaged": QueryMean(recall_and_precision(top_QK, groups_P, products_P, catalogue, size)[0]),
                "engagements": shown_of_all(engagements_QK, groups_P, self.engagements_P),
                "depth nDCG": QueryMean(page_ndcg(depth_QK, shown.groups, depth_P, size)),
            },
        )
        if (new := self.dataset.unseen) is not None:
            recall_Q = recall_and_precision(*self._on(pages, new), catalogue, size)[0]
            found |= self._estimates(new, {"new pairs": QueryMean(recall_Q)})
        if (judged := self.dataset.relevance) is not None:
            grades_QK = labels_on(*self._on(pages, judged), judged.grades, catalogue)
            ndcg_Q = page_ndcg(condensed(grades_QK), judged.groups, judged.grades, 10)
            found |= self._estimates(judged, {"nDCG@10": QueryMean(ndcg_Q), "grade": QueryMean(mean_label(grades_QK))})
        return found

    def counts(self, pages: FirstPages) -> dict[str, float]:
        """Means over pages."""
        top_QK, groups_P, products_P = self._on(pages, self.displayed)
        size, catalogue = top_QK.shape[1], len(self.dataset.product_ids)
        own_Q = np.searchsorted(self.queries_Q, self.engaged.query_rows)
        found = {
            "products": float((top_QK >= 0).sum(axis=1).mean()),
            "by vector": float(pages.by_vector_QK[own_Q].sum(axis=1).mean()),
            "undisplayed": float(unjudged_at_k(top_QK, groups_P, products_P, catalogue, size).mean()),
        }
        if (judged := self.dataset.relevance) is not None:
            found["unjudged"] = float(unjudged_at_k(*self._on(pages, judged), catalogue, size).mean())
        return found

    def measured_on(self) -> dict[str, dict[str, int]]:
        """The queries, units of the bootstrap, and pairs of each part."""
        parts = {"engaged": self.engaged, "new pairs": self.dataset.unseen, "judged": self.dataset.relevance}
        return {
            name: {
                "queries": len(pairs.query_rows),
                "units": len(np.unique(self.dataset.units_Q[pairs.query_rows])),
                "pairs": len(pairs.queries),
            }
            for name, pairs in parts.items()
            if pairs is not None
        }

    def _on(self, pages: FirstPages, pairs: LabelledPairs) -> tuple[IntArray, IntArray, IntArray]:
        """The pages of the pairs' queries (q, K), and the query and product of each pair."""
        own_q = np.searchsorted(self.queries_Q, pairs.query_rows)
        return pages.products_QK[own_q], pairs.groups, pairs.products

    def _estimates(self, pairs: LabelledPairs, statistics: dict[str, Statistic]) -> dict[str, Estimate]:
        return estimates(statistics, resample(self.dataset.units_Q[pairs.query_rows], seed=0))


def _engagements(market: Market, dataset: EvaluationSet, pairs: LabelledPairs) -> FloatArray:
    """The weight of each pair, in how many sessions it came about; 1 where the table does not say."""
    rows = market.frame("pairs", [*KEY, "weight", "label", "split"])
    rows = rows.filter((pl.col("split") == pairs.split) & (pl.col("label") >= 1))
    weights = {tuple(key): weight for *key, weight in rows.select(*KEY, "weight").iter_rows()}
    keys: Sequence[tuple[str, ...]] = [
        (*dataset.queries.row(query), dataset.product_ids[product])
        for query, product in zip(pairs.queries.tolist(), pairs.products.tolist(), strict=True)
    ]
    return np.array([1.0 if weights[key] is None else weights[key] for key in keys])
