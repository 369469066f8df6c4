"""The metrics of each part of an evaluation, in the order of the JSON: a new one is a file here and one line below."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mercato.evaluation.metrics.arrays import FloatArray
from mercato.evaluation.metrics.batch_recall import mean_batch_recall
from mercato.evaluation.metrics.knn import mean_knn_precision, mean_knn_recall
from mercato.evaluation.metrics.matched_auc import exposure_matched, of_clicked, same_kind
from mercato.evaluation.metrics.metric import (
    EngagementPairs,
    Metric,
    PredictedQueries,
    RetrievedPairs,
    ScoredBatches,
    ScoredLists,
    ScoredPairs,
    Statistic,
)
from mercato.evaluation.metrics.ndcg import mean_ndcg
from mercato.evaluation.metrics.ndcg_ips import mean_ndcg_ips
from mercato.evaluation.metrics.predicted_queries import precision_at, recall_at
from mercato.evaluation.metrics.recall import mean_recall
from mercato.evaluation.metrics.roc_auc import mean_roc_auc, pooled_roc_auc
from mercato.evaluation.metrics.unjudged import mean_unjudged

RELEVANCE: tuple[Metric[ScoredPairs, Statistic], ...] = (
    Metric(
        "roc_auc_per_query",
        "ROC AUC, per query",
        "How often a relevant product scores above an irrelevant one of the same query.",
        mean_roc_auc,
        headline=1,
    ),
    Metric(
        "ndcg@10",
        "nDCG@10",
        "How near the first ten of a query's judged products come to the best order, the first places counting most.",
        mean_ndcg(10),
        headline=2,
    ),
    Metric(
        "recall@10",
        "recall@10",
        "The share of a query's relevant products that are among the first ten of its judged ones.",
        mean_recall(10),
        headline=3,
    ),
    Metric(
        "roc_auc",
        "ROC AUC",
        "How often a relevant product scores above an irrelevant one, of whatever queries; the papers' figure.",
        pooled_roc_auc,
        headline=4,
    ),
    Metric(
        "unjudged@10",
        "unjudged in the top 10",
        "How many of the first ten that are found in the whole catalogue no rater has seen.",
        mean_unjudged(10),
        directed=False,
    ),
)
RELEVANCE_UNSEEN = tuple(replace(metric, headline=None) for metric in RELEVANCE)
ENGAGEMENT: tuple[Metric[EngagementPairs, Statistic], ...] = (
    Metric(
        "roc_auc_exposure_matched",
        "ROC AUC, exposure matched",
        "How often an engaged product scores above one of the same query that was shown about as often and left.",
        exposure_matched,
        headline=5,
    ),
    Metric(
        "roc_auc_same_kind",
        "ROC AUC, same kind",
        "How often an engaged product scores above one of the same query and category, shown about as often and left:"
        " price, condition and photos, no longer the right type.",
        same_kind,
        headline=6,
    ),
    Metric(
        "roc_auc_of_clicked",
        "ROC AUC, of clicked",
        "How often an engaged product scores above one of the same query that was clicked and then left.",
        of_clicked,
        headline=7,
    ),
    Metric(
        "roc_auc",
        "ROC AUC",
        "How often an engaged product scores above one seen and left, of whatever queries and however often shown.",
        pooled_roc_auc,
        headline=8,
    ),
    Metric(
        "roc_auc_per_query",
        "ROC AUC, per query",
        "How often an engaged product scores above one of the same query that was seen and left.",
        mean_roc_auc,
        headline=14,
    ),
)
LISTS: tuple[Metric[ScoredLists, Statistic], ...] = (
    Metric(
        "ndcg_ips",
        "nDCG, inverse propensities",
        "How near the order of what a search displayed comes to that of how far people went with each product, what was"
        " shown low and so seldom looked at counting for more.",
        mean_ndcg_ips,
        headline=9,
    ),
)
BATCH: tuple[Metric[ScoredBatches, Statistic], ...] = (
    Metric(
        "recall@1",
        "recall@1",
        "How often a query's own product scores highest among the products of one batch.",
        mean_batch_recall(1),
        headline=15,
    ),
    Metric(
        "recall@10",
        "recall@10",
        "How often a query's own product is among the ten highest of one batch.",
        mean_batch_recall(10),
    ),
)
KNN: tuple[Metric[RetrievedPairs, Statistic], ...] = (
    Metric(
        "recall@10",
        "recall@10",
        "The share of what people engaged with that is among the first ten of the whole catalogue.",
        mean_knn_recall(10),
        headline=10,
    ),
    Metric(
        "recall@100",
        "recall@100",
        "The share of what people engaged with that is among the first hundred of the whole catalogue.",
        mean_knn_recall(100),
        headline=16,
    ),
    Metric(
        "recall@1000",
        "recall@1000",
        "The share of what people engaged with that is among the first thousand of the whole catalogue.",
        mean_knn_recall(1000),
    ),
    Metric(
        "precision@10",
        "precision@10",
        "The share of the first ten of the whole catalogue that people engaged with.",
        mean_knn_precision(10),
    ),
)
UNSEEN: tuple[Metric[RetrievedPairs, Statistic], ...] = (
    Metric(
        "recall@10",
        "recall@10",
        "The share of engaged pairs new to the log that are among the first ten of the whole catalogue.",
        mean_knn_recall(10),
        headline=11,
    ),
    Metric(
        "recall@100",
        "recall@100",
        "The share of engaged pairs new to the log that are among the first hundred of the whole catalogue.",
        mean_knn_recall(100),
    ),
    Metric(
        "recall@1000",
        "recall@1000",
        "The share of engaged pairs new to the log that are among the first thousand of the whole catalogue.",
        mean_knn_recall(1000),
    ),
    Metric(
        "precision@10",
        "precision@10",
        "The share of the first ten of the whole catalogue that are engaged pairs new to the log.",
        mean_knn_precision(10),
    ),
)
COLD: tuple[Metric[RetrievedPairs, Statistic], ...] = (
    Metric(
        "recall@10",
        "recall@10",
        "The share of engaged products that nobody had engaged with before that are among the first ten of the whole"
        " catalogue.",
        mean_knn_recall(10),
        headline=12,
    ),
    Metric(
        "recall@100",
        "recall@100",
        "The share of engaged products that nobody had engaged with before that are among the first hundred.",
        mean_knn_recall(100),
    ),
    Metric(
        "recall@1000",
        "recall@1000",
        "The share of engaged products that nobody had engaged with before that are among the first thousand.",
        mean_knn_recall(1000),
    ),
)
VISUAL: tuple[Metric[RetrievedPairs, Statistic], ...] = (
    Metric(
        "recall@10",
        "recall@10",
        "The share of products whose photo alone can tell the colour or pattern asked for that are among the first ten"
        " of the whole catalogue.",
        mean_knn_recall(10),
        headline=13,
    ),
    Metric(
        "recall@100",
        "recall@100",
        "The share of products whose photo alone can tell the colour or pattern asked for that are among the first"
        " hundred.",
        mean_knn_recall(100),
    ),
)
QUERY_PREDICTION: tuple[Metric[PredictedQueries, FloatArray], ...] = (
    Metric(
        "precision@1",
        "precision@1",
        "How often the likeliest query of a product is one with which people engaged with it.",
        precision_at(1),
    ),
    Metric(
        "precision@5",
        "precision@5",
        "The share of a product's five likeliest queries with which people engaged with it.",
        precision_at(5),
    ),
    Metric(
        "precision@10",
        "precision@10",
        "The share of a product's ten likeliest queries with which people engaged with it.",
        precision_at(10),
    ),
    Metric(
        "recall@10",
        "recall@10",
        "The share of the queries with which people engaged with a product that are among its ten likeliest.",
        recall_at(10),
    ),
)

METRICS: Mapping[str, tuple[Metric[Any, Any], ...]] = {
    "relevance": RELEVANCE,
    "relevance_unseen": RELEVANCE_UNSEEN,
    "engagement": ENGAGEMENT,
    "lists": LISTS,
    "batch": BATCH,
    "knn": KNN,
    "unseen": UNSEEN,
    "cold": COLD,
    "visual": VISUAL,
    "understanding": QUERY_PREDICTION,
    "understanding_new": QUERY_PREDICTION,
}
SEARCH_PARTS = ("relevance", "relevance_unseen", "engagement", "lists", "batch", "knn", "unseen", "cold", "visual")
CATALOGUE_PARTS = ("knn", "unseen", "cold", "visual")  # of what a search of the whole catalogue finds
LOG_PARTS = (
    "engagement",
    "lists",
)  # of what was shown: scores that cannot search are measured here
PREDICTION_PARTS = ("understanding", "understanding_new")


def directed(part: str, metric: str) -> bool:
    """Whether more of it is better; else neither more nor less is."""
    return next(each.directed for each in METRICS[part] if each.name == metric)
