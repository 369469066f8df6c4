"""What a run's towers look at: attention and importance of their channels (Que2Search §3.7)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from mercato.data.market import Market
from mercato.data.pairs import split_cutoff
from mercato.errors import MercatoError
from mercato.evaluation.attention import (
    ChannelWeight,
    LengthWeights,
    SideWeights,
    mean_weights,
    short_and_long,
    weights_by_length,
)
from mercato.evaluation.dataset import EARLIER, EvaluationSet, LabelledPairs
from mercato.evaluation.encoded import EncodedTower, encode_products, encode_queries
from mercato.evaluation.importance import Importance, importance
from mercato.evaluation.metrics.arrays import IntArray
from mercato.evaluation.metrics.roc_auc import roc_auc
from mercato.evaluation.photos import Photos, photos
from mercato.evaluation.results import ABSENT, Result
from mercato.evaluation.units import Unit
from mercato.fields import channel_groups
from mercato.runs.image_vectors import products_with_vectors
from mercato.runs.torch_encoder import load

MOST_PAIRS = 20_000  # more would not move a share; whole queries are left out at random
PAPER: dict[
    str, dict[str, dict[str, float]]
] = {  # Que2Search: mean attention (§3.7.1) and share of the tower's importance (Table 2)
    "attention": {"query": {"text": 0.64, "trigrams": 0.36}, "product": {}},
    "importance": {
        "query": {"text": 0.60, "trigrams": 0.40},
        "product": {
            "images": 0.55,
            "description_text": 0.13,
            "title_text": 0.09,
            "description_trigrams": 0.015,
            "title_trigrams": 0.015,
            "language": 0.01,
            "country": 0.01,
        },
    },
}


@dataclass(frozen=True, kw_only=True)
class ExplanationCounts(Result):
    """What a run was explained on."""

    pairs: str  # the part: relevance or engagement
    count: int  # of the pairs
    queries: int
    all_queries: int
    products: int
    seed: int
    unit: Unit = "query"  # what the intervals resample
    units: int | None = field(default=None, metadata=ABSENT)


@dataclass(frozen=True, kw_only=True)
class TowerAttention(Result):
    """A tower's attention weights; by the length of the query for the query tower only."""

    channels: dict[str, ChannelWeight]
    by_length: list[LengthWeights] | None = field(default=None, metadata=ABSENT)
    short: SideWeights | None = field(default=None, metadata=ABSENT)
    long: SideWeights | None = field(default=None, metadata=ABSENT)


@dataclass(frozen=True, kw_only=True)
class TowerImportance(Result):
    """What each channel of a tower is worth, and each field where one has several channels."""

    channels: Importance
    groups: Importance | None = field(default=None, metadata=ABSENT)


@dataclass(frozen=True, kw_only=True)
class Explanation(Result):
    """What `mercato explain --json` prints; `query` and `product` are the towers."""

    recipe: str
    fusion: dict[str, str]
    market: str
    n: ExplanationCounts
    roc_auc: float | None  # of the pairs; None without pairs of both kinds
    attention: dict[str, TowerAttention | None]  # None for a fusion without weights
    importance: dict[str, TowerImportance]
    paper: dict[str, dict[str, dict[str, float]]]
    photos: Photos | None = field(default=None, metadata=ABSENT)  # of a run that was pretrained on them


def explain_run(run: Path, market: Market, seed: int = 0) -> Explanation:
    """Attention and importance of a run's channels on the test split.

    The pairs are the judged ones, or where there are no judgments the impressions of future days.

    Raises:
        MercatoError: not a run, or a market without test judgments and without future pairs.
    """
    model = load(run, market.path)
    dataset = EvaluationSet.read(market, lists=False)
    pairs = dataset.relevance or dataset.engagement
    if pairs is None:
        raise MercatoError(f"{market.path} has nothing to explain a run on: no test judgments, no future pairs")
    pairs = _bounded(pairs, seed)
    labels_P = pairs.grades >= (market.config.relevant_grade if dataset.relevance else 1.0)
    rows, product_P = np.unique(pairs.products, return_inverse=True)
    queries = encode_queries(model, dataset.queries)
    table = products_with_vectors(market, model, run).take(rows)
    products = encode_products(model, table, as_of=split_cutoff(market, EARLIER["test"]))
    query_PD, product_PD = queries.unit_ND[torch.tensor(pairs.queries)], products.unit_ND[torch.tensor(product_P)]
    cosine_P = (product_PD * query_PD).sum(1).numpy()
    units_Q = dataset.units_Q[pairs.query_rows]

    def worth(encoded: EncodedTower, rows_P: IntArray, opposite_PD: torch.Tensor) -> TowerImportance:
        def of(groups: dict[str, tuple[str, ...]]) -> Importance:
            return importance(encoded, rows_P, opposite_PD, groups, pairs.groups, labels_P, units_Q, seed)

        each: dict[str, tuple[str, ...]] = {name: (name,) for name in encoded.names}
        fields = channel_groups(encoded.names)
        return TowerImportance(channels=of(each), groups=of(fields) if len(fields) < len(each) else None)

    return Explanation(
        recipe=model.recipe.name,
        fusion={"query": model.recipe.query_tower.fusion, "product": model.recipe.product_tower.fusion},
        market=market.config.name,
        n=ExplanationCounts(
            pairs="relevance" if dataset.relevance else "engagement",
            count=len(labels_P),
            queries=len(pairs.query_rows),
            all_queries=len(dataset.queries),
            products=len(rows),
            seed=seed,
            unit=dataset.unit,
            units=len(np.unique(units_Q)),
        ),
        roc_auc=roc_auc(labels_P, cosine_P) if labels_P.any() and not labels_P.all() else None,
        attention={
            "query": _attention(queries, dataset.units_Q, dataset.queries["query"].to_list()),
            "product": _attention(products, np.arange(len(rows))),
        },
        importance={
            "query": worth(queries, pairs.queries, product_PD),
            "product": worth(products, product_P, query_PD),
        },
        paper=PAPER,
        photos=photos(run, model, market, dataset, seed),
    )


def _attention(encoded: EncodedTower, units_N: IntArray, queries: list[str] | None = None) -> TowerAttention | None:
    """None for a fusion without weights."""
    if encoded.weights_NC is None:
        return None
    channels = mean_weights(
        encoded.names,
        encoded.weights_NC,
        encoded.channels.present_BS.numpy(),
        encoded.channels.vectors_BSE.norm(dim=-1).double().numpy(),
        units_N,
    )
    if queries is None:
        return TowerAttention(channels=channels)
    return TowerAttention(
        channels=channels,
        by_length=weights_by_length(encoded.names, queries, encoded.weights_NC, units_N),
        **short_and_long(encoded.names, queries, encoded.weights_NC, units_N),
    )


def _bounded(pairs: LabelledPairs, seed: int) -> LabelledPairs:
    """At most `MOST_PAIRS` pairs, but for the last query's: whole queries, drawn by the seed."""
    if len(pairs.queries) <= MOST_PAIRS:
        return pairs
    drawn: IntArray = np.random.default_rng(seed).permutation(len(pairs.query_rows))
    counts = np.bincount(pairs.groups)[drawn]
    kept = drawn[: int(np.searchsorted(np.cumsum(counts), MOST_PAIRS)) + 1]
    return pairs.only(np.isin(pairs.groups, kept))
