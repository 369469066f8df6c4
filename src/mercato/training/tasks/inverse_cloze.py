"""ICT: a product among the batch's by a few words of its own title, as if they were a query (Lee et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mercato.config.pretraining import InverseCloze
from mercato.training.tasks.query_item import classified
from mercato.training.tasks.step import Outcome, Step


@dataclass(frozen=True)
class InverseClozeTask:
    """QIC's softmax over crops and products without a query; the items of the batch's pairs are negatives too."""

    stage: InverseCloze

    def outcome(self, step: Step) -> Outcome | None:
        """See `PretrainingObjective`."""
        crops, product_B = step.batch.crops, step.batch.product_B
        if len(crops.tokens_CL) + len(product_B) < 2 or not len(crops.tokens_CL):
            return None
        item_JD = torch.cat([step.cropped_items.vector_BD, step.items.vector_BD[product_B]])
        excluded_CJ = crops.holds_CM[:, torch.cat([crops.product_C, product_B])]
        return classified(step.crops.vector_BD, item_JD, excluded_CJ, self.stage)
