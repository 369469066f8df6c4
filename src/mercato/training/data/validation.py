"""Validation: what early stopping goes by, the ROC AUC of labelled pairs or the recall of engaged ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from mercato.config import Recipe
from mercato.data.market import Market
from mercato.errors import MercatoError
from mercato.evaluation.exact_search import nearest
from mercato.evaluation.metrics.knn import recall_and_precision
from mercato.evaluation.metrics.roc_auc import roc_auc
from mercato.models.tower import Tower, TwoTower
from mercato.progress import note
from mercato.runs.folder import MONITOR
from mercato.training.data.batches import FeatureTables
from mercato.training.data.images import ahead
from mercato.training.task import Monitor

COLUMNS = ["query", "country", "product_id", "label"]
UNENGAGED_PAIRS = 1_500  # that validate, and as many engaged ones
RECALLED_PAIRS = 1_500  # engaged ones whose recall validates, at most but for the last query's
RECALL_CATALOGUE = 10_000  # products that they are found among, at most
RECALL_DEPTHS = (10, 100)  # the first decides
RECALL = f"validation/recall@{RECALL_DEPTHS[0]}"
RANDOM_NEGATIVES = 10  # a validation pair, where the market has no judged or unengaged ones


@dataclass(frozen=True, kw_only=True)
class PairValidation:
    """Labelled pairs that training may look at: rows of the feature tables, and 1 relevant | 0 not."""

    tables: FeatureTables
    query_N: NDArray[np.int64]
    product_N: NDArray[np.int64]
    label_N: NDArray[np.int64]
    drop_fields: tuple[str, ...] = ()  # of every product
    engagement: PairValidation | None = None  # engaged and unengaged pairs, where early stopping goes by them
    monitors_relevance: bool = True  # as well, where there is `engagement`

    @property
    def monitor(self) -> Monitor:
        """ROC AUC, the higher the better."""
        return Monitor(MONITOR, "max", "ROC AUC")

    def scores(self, towers: TwoTower, device: torch.device | str = "cpu") -> dict[str, float]:
        """What early stopping goes by, and, where there are two tasks, the ROC AUC of each (pooled over queries)."""
        relevance = self.roc_auc(towers, device)
        if self.engagement is None:
            return {MONITOR: relevance}
        engagement = self.engagement.roc_auc(towers, device)
        monitor = (relevance + engagement) / 2 if self.monitors_relevance else engagement
        return {MONITOR: monitor, "validation/relevance": relevance, "validation/engagement": engagement}

    def roc_auc(self, towers: TwoTower, device: torch.device | str = "cpu") -> float:
        """ROC AUC of the cosines (Que2Search §3.4)."""
        return float(roc_auc(self.label_N, self.cosines(towers, device)))

    @torch.inference_mode()
    def cosines(self, towers: TwoTower, device: torch.device | str = "cpu", batch: int = 256) -> NDArray[np.float32]:
        """The cosine of every pair, (N,) float32; the towers' training mode is restored."""
        training = towers.training
        towers.eval()
        query_QD = encode_rows(towers, towers.query, self.tables, self.query_N, device, batch)
        product_MD = encode_rows(
            towers, towers.product, self.tables, self.product_N, device, batch, drop_fields=self.drop_fields
        )
        towers.train(training)
        cosine_N: NDArray[np.float32] = (query_QD[self.query_N] * product_MD[self.product_N]).sum(1)
        return cosine_N

    def min_cosine(self, towers: TwoTower) -> float:
        """The cosine that all but one in twenty relevant pairs reach: a start for retrieval (Que2Search §6.3)."""
        return float(np.percentile(self.cosines(towers)[self.label_N == 1], 5))


@dataclass(frozen=True, kw_only=True)
class RecallValidation:
    """Engaged pairs of later days: how many come back among the first products of a catalogue."""

    tables: FeatureTables
    query_N: NDArray[np.int64]
    product_N: NDArray[np.int64]
    product_M: NDArray[np.int64]  # the catalogue, in which every engaged product is
    country_M: NDArray[np.int64]  # of every product of the tables, numbered, 0 unknown
    country_N: NDArray[np.int64] | None = None  # of the queries; None: a search is not within a country
    drop_fields: tuple[str, ...] = ()  # of every product
    beside: PairValidation | None = None  # which is told too, and decides nothing

    @property
    def monitor(self) -> Monitor:
        """Recall@10 as `mercato evaluate` has it, of a sample: the mean over queries, by exact search."""
        return Monitor(RECALL, "max", f"recall@{RECALL_DEPTHS[0]}")

    @torch.inference_mode()
    def scores(self, towers: TwoTower, device: torch.device | str = "cpu") -> dict[str, float]:
        """See `Validation`."""
        training = towers.training
        towers.eval()
        queries, first_Q, place_N = np.unique(self.query_N, return_index=True, return_inverse=True)
        query_QD = encode_rows(towers, towers.query, self.tables, queries, device)[queries]
        product_PD = encode_rows(
            towers, towers.product, self.tables, self.product_M, device, drop_fields=self.drop_fields
        )
        towers.train(training)
        deepest = max(RECALL_DEPTHS)
        top_QK = np.full((len(queries), deepest), -1)
        country_Q = np.zeros(len(queries), np.int64) if self.country_N is None else self.country_N[first_Q]
        for country in np.unique(country_Q):
            own_Q, among_M = country_Q == country, self.product_M
            if country:  # as evaluation searches
                among_M = among_M[self.country_M[among_M] == country]
            if not len(among_M):
                continue
            found_QK = nearest(query_QD[own_Q], product_PD[among_M], min(deepest, len(among_M)))
            top_QK[own_Q, : found_QK.shape[1]] = among_M[found_QK]
        scores = {}
        for depth in RECALL_DEPTHS:
            recall_Q, _ = recall_and_precision(top_QK, place_N, self.product_N, len(product_PD), depth)
            scores[f"validation/recall@{depth}"] = float(recall_Q.mean())
        return scores if self.beside is None else scores | self.beside.scores(towers, device)


def encode_rows(
    towers: TwoTower,
    tower: Tower,
    tables: FeatureTables,
    rows_N: NDArray[np.int64],
    device: torch.device | str = "cpu",
    batch: int = 256,
    drop_fields: tuple[str, ...] = (),
) -> NDArray[np.float32]:
    """The vectors of these rows of a tower's table, (Q, D) or (P, D), and zeros elsewhere."""
    products = tower is towers.product
    vision = towers.vision if products else None
    table = tables.products if products else tables.queries
    wanted = np.unique(rows_N)
    # By length, so that a batch pads little.
    lengths = sum((table[name][wanted] != 0).sum(1) for name in table if name.endswith("trigrams"))
    wanted = wanted[np.argsort(lengths, kind="stable")] if isinstance(lengths, np.ndarray) else wanted
    result: NDArray[np.float32] | None = None
    parts = [wanted[start : start + batch] for start in range(0, len(wanted), batch)]
    made = (tables.product_inputs(part, drop_fields) if products else tables.query_inputs(part) for part in parts)
    for part, found in zip(parts, made if vision is None else ahead(made), strict=True):
        inputs = {k: v.to(device) for k, v in found.items()}
        vectors = tower(inputs if vision is None else vision.look(inputs))[0].float().cpu().numpy()
        if result is None:
            result = np.zeros((len(next(iter(table.values()))), vectors.shape[1]), np.float32)
        result[part] = vectors
    assert result is not None
    return result


def validation_pairs(market: Market, pairs: pl.DataFrame, recipe: Recipe) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """Judged validation queries where there are any; else the pairs' validation split, with random negatives.

    Test judgments are never looked at. Also returns the fields dropped from the products of catalogue pairs.
    """
    if market.has("judgments"):
        judged = market.frame("judgments").filter((pl.col("split") == "validation") & pl.col("grade").is_finite())
        if len(judged):
            relevant = (pl.col("grade") >= market.config.relevant_grade).cast(pl.Int64)
            ids = market.frame("products", ["product_id"])
            judged = judged.with_columns(label=relevant).join(ids, on="product_id", how="semi")
            if judged["label"].n_unique() == 2:
                return judged.select(COLUMNS), ()
            note("  [yellow]the validation judgments are all of one kind: pairs validate instead[/]")
    held, dropped = _held_out(pairs)
    if len(held) and held["label"].min() == 1:
        generator = np.random.default_rng(recipe.seed)
        rows = generator.integers(0, len(held), (len(held), RANDOM_NEGATIVES)).ravel()
        negatives = held.select("query", "country")[np.repeat(np.arange(len(held)), RANDOM_NEGATIVES)].with_columns(
            product_id=held["product_id"].gather(rows), label=pl.lit(0, pl.Int64)
        )
        true = held.select("query", "country", "product_id")
        negatives = negatives.join(true, on=["query", "country", "product_id"], how="anti", nulls_equal=True)
        held = pl.concat([held.select(COLUMNS), negatives.select(COLUMNS)])
    return held.select(COLUMNS), dropped


def recalled_pairs(pairs: pl.DataFrame, recipe: Recipe) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """Engaged pairs of the validation split, where early stopping goes by their recall.

    Also returns the fields dropped from the products of catalogue pairs.

    Raises:
        MercatoError: the recipe's `monitor` names recall, and there are none.
    """
    if "recall" not in recipe.monitored:
        return pairs.clear().select(COLUMNS), ()
    held, dropped = _held_out(pairs.filter(pl.col("label") == 1))
    if held.is_empty():
        raise MercatoError(
            'monitor: "recall" is of the validation split\'s engaged pairs, and there are none: leave it out'
        )
    queries = held.group_by("query", "country", maintain_order=True).len()
    queries = queries.sample(fraction=1, shuffle=True, seed=recipe.seed)
    some = queries.filter(pl.col("len").cum_sum() - pl.col("len") < RECALLED_PAIRS)  # each with all its pairs
    return held.join(some, on=["query", "country"], how="semi", nulls_equal=True).select(COLUMNS), dropped


def _held_out(pairs: pl.DataFrame) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """The validation split of what people did, where there is any of it; else of the catalogue pairs that the recipe
    names first, with the fields that are dropped from their products.
    """
    held = pairs.filter(pl.col("split") == "validation")
    kinds = held["drop_fields"].unique(maintain_order=True).to_list()
    dropped = tuple(kinds[0].split()) if kinds else ()
    return held.filter(pl.col("drop_fields") == " ".join(dropped)), dropped


def engagement_pairs(market: Market, pairs: pl.DataFrame, recipe: Recipe) -> pl.DataFrame:
    """Engaged and unengaged pairs of the validation split, where early stopping goes by them and there are judgments.

    Without judgments the validation split's pairs are what `validation_pairs` gives.

    Raises:
        MercatoError: the recipe's `monitor` names engagement, and there are none of both kinds.
    """
    nothing = pairs.clear().select(COLUMNS)
    if "engagement" not in recipe.monitored or not market.has("judgments"):
        return nothing
    held = pairs.filter((pl.col("split") == "validation") & (pl.col("source") == "market"))
    if recipe.monitor is not None and held["label"].n_unique() < 2:
        raise MercatoError(
            'monitor: "engagement" is told by engaged and unengaged market pairs of the validation split, and there are'
            " none of both: leave it out"
        )
    return pl.concat(
        [nothing]
        + [
            own.sample(min(len(own), UNENGAGED_PAIRS), seed=recipe.seed).select(COLUMNS)
            for own in (held.filter(pl.col("label") == label) for label in (0, 1))
        ]
    )
