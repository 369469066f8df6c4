"""The ranking section of a recipe: see `mercato.ranking`."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

from pydantic import Field, field_validator, model_validator

from mercato.config.base import Frozen


class Trees(Frozen):
    """Stage 1, gradient-boosted trees on the lists that searches displayed."""

    trees: int = Field(100, ge=1)
    leaves: int = Field(15, ge=2)
    learning_rate: float = Field(0.05, gt=0)
    least_rows: int = Field(100, ge=1)  # of a leaf
    position_regularization: float = Field(0.0, ge=0)
    """Of the factors that take the position's part out of a click; at 1 they hardly do (docs/ranking.md)."""


class DLRM(Frozen):
    """Stage 2, a deep learning recommendation model (Naumov et al. 2019) on the same lists."""

    best: int = Field(100, ge=1)  # candidates of a search, by stage 1, that it orders
    dimension: int = Field(16, ge=1)  # of the embeddings, and of what the bottom network makes of the features
    buckets: int = Field(4_096, ge=2)  # that the ids of a kind are hashed into
    bottom: tuple[int, ...] = (64,)  # hidden layers
    top: tuple[int, ...] = (64, 32)
    dropout: float = Field(0.1, ge=0, lt=1)
    unknown: float = Field(0.2, ge=0, lt=1)  # share of the ids that are hidden as it learns: of new ones it knows none
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(1e-3, ge=0)
    batch_size: int = Field(512, ge=1)  # rows of lists
    epochs: int = Field(30, ge=1)  # at most: how many serve best is tried on the queries of one fold
    patience: int = Field(3, ge=1)  # epochs without a gain there
    folds: int = Field(5, ge=2)  # of queries: it learns with scores of trees that have not seen the list


class Diversity(Frozen):
    """Seller diversity: of the order of a page, at no cost to training."""

    per_seller: int = Field(ge=1)  # listings of one seller on a page at most, as long as there are others


class Exploration(Frozen):
    """Exploration of new listings: they get some places that the order would not give them."""

    share: float = Field(gt=0, le=0.5)  # of the places of a search from the first one on
    first: int = Field(5, ge=1)  # place that may be given, from 1
    days: float = Field(7.0, gt=0)  # since it was listed, less than which is new
    impressions: float = Field(1.0, gt=0)  # a day in the log, fewer than which are few


class Ranking(Frozen):
    """Both ranking stages (Que2Search §6.5)."""

    gains: tuple[float, ...] = Field((0.0, 1.0, 2.0, 3.0), min_length=2)  # of 0, 1, … steps along the chain
    relevance_bound: float = Field(0.01, ge=0)
    """What the order may lose of the relevance ROC AUC per query on validation judgments; else nothing is written."""
    deadline_ms: float = Field(100.0, gt=0)  # since the search began; no stage begins later
    without: tuple[str, ...] = ()  # features that neither stage reads, of `mercato.ranking.features.NAMES`
    trees: Trees = Trees()
    dlrm: DLRM = DLRM()
    diversity: Diversity | None = None
    exploration: Exploration | None = None

    @field_validator("gains")
    @classmethod
    def _gains_rise(cls, gains: tuple[float, ...]) -> tuple[float, ...]:
        rising = all(before <= after for before, after in pairwise(gains))
        if not (all(map(math.isfinite, gains)) and rising and 0 <= gains[0] < gains[-1]):
            raise ValueError(f"what a step is worth, from 0 up and never falling, the last the most: not {[*gains]}")
        return gains

    @model_validator(mode="before")
    @classmethod
    def _gains_of_before(cls, content: Any) -> Any:
        """They were of the trees alone, and runs of that time say so."""
        if isinstance(content, dict) and "gains" in (trees := content.get("trees") or {}):
            kept = {name: value for name, value in trees.items() if name != "gains"}
            return {"gains": trees["gains"], **content, "trees": kept}
        return content
