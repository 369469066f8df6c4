"""Query prediction: the head learns which of the most common queries find a product (Que2Search §3.1.1)."""

from __future__ import annotations

from dataclasses import dataclass

from mercato.losses.multi_label import multi_label
from mercato.training.task import Losses
from mercato.training.tasks.pairs import EncodedPairs

HEAD = "head"
HEAD_SCALE = 5.0  # the head learns from s·v: of unit vectors, Adam's steps would take thousands to tell queries apart


@dataclass(frozen=True)
class QueryPrediction:
    """The loss of the towers' head over a batch's distinct products."""

    weight: float

    def losses(self, pairs: EncodedPairs) -> Losses:
        """One loss."""
        assert pairs.towers.head is not None
        logits_MY = pairs.towers.head(HEAD_SCALE * pairs.product_MD)
        return {HEAD: (self.weight, multi_label(logits_MY, pairs.batch.classes_MK))}
