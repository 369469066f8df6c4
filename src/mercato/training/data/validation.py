"""Validation: the labelled pairs that early stopping goes by, and the ROC AUC of their cosines."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from mercato.config import Recipe
from mercato.data.market import Market
from mercato.errors import MercatoError
from mercato.evaluation.metrics.roc_auc import roc_auc
from mercato.models.tower import Tower, TwoTower
from mercato.progress import note
from mercato.runs.folder import MONITOR
from mercato.training.data.batches import FeatureTables
from mercato.training.data.images import ahead
from mercato.training.task import Monitor

COLUMNS = ["query", "country", "product_id", "label"]
UNENGAGED_PAIRS = 1_500  # that validate, and as many engaged ones
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
        query_QD = self._encode(towers, towers.query, device, batch)
        product_MD = self._encode(towers, towers.product, device, batch)
        towers.train(training)
        cosine_N: NDArray[np.float32] = (query_QD[self.query_N] * product_MD[self.product_N]).sum(1)
        return cosine_N

    def min_cosine(self, towers: TwoTower) -> float:
        """The cosine that all but one in twenty relevant pairs reach: a start for retrieval (Que2Search §6.3)."""
        return float(np.percentile(self.cosines(towers)[self.label_N == 1], 5))

    def _encode(self, towers: TwoTower, tower: Tower, device: torch.device | str, batch: int) -> NDArray[np.float32]:
        """The vector of every row that a pair names, (Q, D) or (P, D), and zeros elsewhere."""
        products = tower is towers.product
        vision = towers.vision if products else None
        table, rows = (self.tables.products, self.product_N) if products else (self.tables.queries, self.query_N)
        wanted = np.unique(rows)
        # By length, so that a batch pads little.
        lengths = sum((table[name][wanted] != 0).sum(1) for name in table if name.endswith("trigrams"))
        wanted = wanted[np.argsort(lengths, kind="stable")] if isinstance(lengths, np.ndarray) else wanted
        result: NDArray[np.float32] | None = None
        parts = [wanted[start : start + batch] for start in range(0, len(wanted), batch)]
        made = (
            self.tables.product_inputs(part, self.drop_fields) if products else self.tables.query_inputs(part)
            for part in parts
        )
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
    held = pairs.filter(pl.col("split") == "validation")
    # What people did, where there is any of it; else the kind of catalogue pairs that the recipe names first.
    kinds = held["drop_fields"].unique(maintain_order=True).to_list()
    dropped = tuple(kinds[0].split()) if kinds else ()
    held = held.filter(pl.col("drop_fields") == " ".join(dropped))
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
