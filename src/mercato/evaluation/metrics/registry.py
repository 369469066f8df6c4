"""The metrics of each part of an evaluation, in the order of the JSON: a new one is a file here and one line below."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mercato.evaluation.metrics.arrays import FloatArray
from mercato.evaluation.metrics.batch_recall import mean_batch_recall
from mercato.evaluation.metrics.knn import mean_knn_precision, mean_knn_recall
from mercato.evaluation.metrics.metric import (
    Metric,
    PredictedQueries,
    RankedCatalogue,
    ScoredBatches,
    ScoredPairs,
    Statistic,
)
from mercato.evaluation.metrics.ndcg import mean_ndcg
from mercato.evaluation.metrics.predicted_queries import precision_at, recall_at
from mercato.evaluation.metrics.recall import mean_recall
from mercato.evaluation.metrics.roc_auc import mean_roc_auc, pooled_roc_auc
from mercato.evaluation.metrics.unjudged import mean_unjudged

RELEVANCE: tuple[Metric[ScoredPairs, Statistic], ...] = (
    Metric("roc_auc", "ROC AUC", pooled_roc_auc, headline=1),
    Metric("roc_auc_per_query", "ROC AUC, per query", mean_roc_auc, headline=7),
    Metric("ndcg@10", "nDCG@10", mean_ndcg(10), headline=5),
    Metric("recall@10", "recall@10", mean_recall(10)),
    Metric("unjudged@10", "unjudged in the top 10", mean_unjudged(10), directed=False),
)
RELEVANCE_UNSEEN = tuple(replace(metric, headline=None) for metric in RELEVANCE)
ENGAGEMENT: tuple[Metric[ScoredPairs, Statistic], ...] = (
    Metric("roc_auc", "ROC AUC", pooled_roc_auc, headline=2),
    Metric("roc_auc_per_query", "ROC AUC, per query", mean_roc_auc, headline=8),
)
BATCH: tuple[Metric[ScoredBatches, Statistic], ...] = (
    Metric("recall@1", "recall@1", mean_batch_recall(1), headline=6),
    Metric("recall@10", "recall@10", mean_batch_recall(10)),
)
KNN: tuple[Metric[RankedCatalogue, Statistic], ...] = (
    Metric("recall@10", "recall@10", mean_knn_recall(10), headline=3),
    Metric("recall@100", "recall@100", mean_knn_recall(100), headline=9),
    Metric("precision@10", "precision@10", mean_knn_precision(10)),
)
UNSEEN: tuple[Metric[RankedCatalogue, Statistic], ...] = (
    Metric("recall@10", "recall@10", mean_knn_recall(10), headline=4),
    Metric("recall@100", "recall@100", mean_knn_recall(100)),
    Metric("precision@10", "precision@10", mean_knn_precision(10)),
)
QUERY_PREDICTION: tuple[Metric[PredictedQueries, FloatArray], ...] = (
    Metric("precision@1", "precision@1", precision_at(1)),
    Metric("precision@5", "precision@5", precision_at(5)),
    Metric("precision@10", "precision@10", precision_at(10)),
    Metric("recall@10", "recall@10", recall_at(10)),
)

METRICS: Mapping[str, tuple[Metric[Any, Any], ...]] = {
    "relevance": RELEVANCE,
    "relevance_unseen": RELEVANCE_UNSEEN,
    "engagement": ENGAGEMENT,
    "batch": BATCH,
    "knn": KNN,
    "unseen": UNSEEN,
    "understanding": QUERY_PREDICTION,
    "understanding_new": QUERY_PREDICTION,
}
SEARCH_PARTS = ("relevance", "relevance_unseen", "engagement", "batch", "knn", "unseen")
PREDICTION_PARTS = ("understanding", "understanding_new")
