"""The graded loss: every pair of a batch, ranked by its grade (CoSENT)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mercato.config.stages import CoSENT
from mercato.losses.cosent import cosent
from mercato.training.data.batches import PairBatch


@dataclass(frozen=True)
class Graded:
    """CoSENT over a batch's pairs."""

    stage: CoSENT

    def __call__(self, query_QD: Tensor, product_MD: Tensor, batch: PairBatch) -> Tensor:
        """A scalar, of a batch's unit vectors (float32)."""
        cosine_B = (query_QD[batch.query_B] * product_MD[batch.product_B]).sum(1)
        return cosent(cosine_B, batch.grade_B, self.stage.scale)
