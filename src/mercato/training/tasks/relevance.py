"""The relevance objective: a stage's own loss, of both whole towers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from mercato.training.data.batches import PairBatch
from mercato.training.task import Losses
from mercato.training.tasks.pairs import EncodedPairs

RELEVANCE = "relevance"


class RelevanceLoss(Protocol):
    """The loss that a stage names, such as `Contrastive`."""

    def __call__(self, query_QD: Tensor, product_MD: Tensor, batch: PairBatch) -> Tensor:
        """A scalar, of a batch's unit vectors (float32)."""


@dataclass(frozen=True, kw_only=True)
class Relevance:
    """The loss of both whole towers."""

    loss: RelevanceLoss
    weight: float = 1.0
    name: str = RELEVANCE

    def losses(self, pairs: EncodedPairs) -> Losses:
        """One loss."""
        return {self.name: (self.weight, self.loss(pairs.query_QD, pairs.product_MD, pairs.batch))}
