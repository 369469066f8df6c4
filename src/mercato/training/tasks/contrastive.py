"""Contrastive losses: engaged pairs, the batch's other products their negatives (Que2Search §3.3, Que2Engage Eq. 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

import torch
from torch import Tensor

from mercato.config.stages import AnyInBatch, InBatchSoftmax, MarginRanking, ScaledBCE, SymmetricSoftmax
from mercato.losses.in_batch_softmax import in_batch_softmax
from mercato.losses.margin_ranking import margin_ranking
from mercato.losses.scaled_bce import scaled_bce
from mercato.losses.symmetric_softmax import symmetric_softmax
from mercato.training.data.batches import PairBatch


@dataclass(frozen=True)
class Contrastive:
    """The in-batch loss that a stage names."""

    stage: AnyInBatch

    def __call__(self, query_QD: Tensor, product_MD: Tensor, batch: PairBatch) -> Tensor:
        """A scalar, of a batch's unit vectors (float32)."""
        product_J = torch.cat([batch.product_B, batch.mixed_product_V])
        return self.of_cosines(query_QD[batch.query_B] @ product_MD[product_J].T, batch.excluded_BJ, batch.log_q_J)

    def of_cosines(self, cosine_BJ: Tensor, excluded_BJ: Tensor, log_q_J: Tensor | float = 0.0) -> Tensor:
        """A scalar, of cos(q_i, d_j), where d_j is no negative of q_i, and log Q(d_j); a new loss is one more case."""
        stage = self.stage
        match stage:
            case InBatchSoftmax():
                return in_batch_softmax(cosine_BJ, excluded_BJ, stage.scale, log_q_J)
            case SymmetricSoftmax():
                return symmetric_softmax(cosine_BJ, excluded_BJ, stage.scale)
            case MarginRanking():
                return margin_ranking(cosine_BJ, excluded_BJ, stage.margin, stage.reduction)
            case ScaledBCE():
                return scaled_bce(cosine_BJ, excluded_BJ, stage.scale)
        assert_never(stage)
