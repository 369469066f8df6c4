"""The engagement objective: a batch's engaged pairs against its unengaged ones (Que2Engage §2.2.2, Eq. 2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mercato.config.stages import InBatchStage
from mercato.losses.engagement_bce import engagement_bce
from mercato.training.task import Losses
from mercato.training.tasks.pairs import EncodedPairs

ENGAGEMENT = "engagement"


@dataclass(frozen=True)
class Engagement:
    """Que2Engage's second task, weighted by λ₂ (Eq. 3)."""

    stage: InBatchStage

    def losses(self, pairs: EncodedPairs) -> Losses:
        """One loss, over the B engaged and the U unengaged pairs together (N)."""
        batch, threshold = pairs.batch, pairs.towers.threshold
        query_N = torch.cat([batch.query_B, batch.unengaged_query_U])
        product_N = torch.cat([batch.product_B, batch.unengaged_product_U])
        target_N = torch.cat([torch.ones_like(batch.grade_B), batch.unengaged_target_U])
        cosine_N = (pairs.query_QD[query_N] * pairs.product_MD[product_N]).sum(1)
        loss = engagement_bce(cosine_N, target_N, self.stage.scale, 0.0 if threshold is None else threshold)
        return {ENGAGEMENT: (self.stage.engagement_weight, loss)}
