"""QIC: each query's own item among the batch's, by the inner product of the two towers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import assert_never

import torch

from mercato.config.pretraining import QueryItem
from mercato.losses.am_softmax import am_softmax
from mercato.losses.arcface import arcface
from mercato.losses.in_batch_softmax import in_batch_softmax
from mercato.training.tasks.step import Outcome, Step


@dataclass(frozen=True)
class QueryItemTask:
    """A softmax over the batch's items with a margin; a query's other engaged items are no negatives of it."""

    stage: QueryItem

    def outcome(self, step: Step) -> Outcome | None:
        """See `PretrainingObjective`."""
        batch, stage = step.batch, self.stage
        if len(batch.query_B) < 2:
            return None
        queries, items = step.queries, step.items
        with torch.autocast(batch.query_B.device.type, enabled=False):  # in bfloat16 cosines are off by thousandths
            cosine_BJ = queries.vector_BD[batch.query_B] @ items.vector_BD[batch.product_B].T
        excluded_BJ = batch.known_QM[batch.query_B][:, batch.product_B].clone().fill_diagonal_(False)
        match stage.loss:
            case "softmax":
                loss = in_batch_softmax(cosine_BJ, excluded_BJ, stage.scale)
            case "am_softmax":
                loss = am_softmax(cosine_BJ, excluded_BJ, stage.scale, stage.margin)
            case "arcface":
                loss = arcface(cosine_BJ, excluded_BJ, stage.scale, stage.margin)
            case _:
                assert_never(stage.loss)
        best_B = cosine_BJ.masked_fill(excluded_BJ, -math.inf).argmax(1)
        right = (best_B == torch.arange(len(best_B), device=best_B.device)).float().mean()
        return Outcome(loss, right, (~excluded_BJ).sum(1).float().log().mean())
