"""QIC: each query's own item among the batch's, by the inner product of the two towers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import assert_never

import torch
from torch import Tensor

from mercato.config.pretraining import Classification, QueryItem
from mercato.losses.am_softmax import am_softmax
from mercato.losses.arcface import arcface
from mercato.losses.in_batch_softmax import in_batch_softmax
from mercato.training.tasks.step import Outcome, Step


@dataclass(frozen=True)
class QueryItemTask:
    """A softmax over all of the batch's items with a margin; a query's other engaged items are no negatives of it."""

    stage: QueryItem

    def outcome(self, step: Step) -> Outcome | None:
        """See `PretrainingObjective`."""
        batch, stage = step.batch, self.stage
        if not len(batch.query_B) or len(batch.query_B) + len(batch.unpaired_U) < 2:
            return None
        item_MD = step.items.vector_BD
        if stage.photo_alone and step.towers.training:
            alone_M = step.has_images & (torch.rand(len(item_MD), device=item_MD.device) < stage.photo_alone)
            if alone_M.any():
                item_MD = torch.where(alone_M.unsqueeze(1), step.images.vector_BD, item_MD)
        column_J = torch.cat([batch.product_B, batch.unpaired_U])
        excluded_BJ = batch.known_QM[batch.query_B][:, column_J]
        return classified(step.queries.vector_BD[batch.query_B], item_MD[column_J], excluded_BJ, stage)


def classified(text_BD: Tensor, item_JD: Tensor, excluded_BJ: Tensor, stage: Classification) -> Outcome:
    """The outcome of texts whose own items are the first B of J, in the same order.

    Args:
        text_BD, item_JD: unit vectors, float32.
        excluded_BJ: bool: items that are no negatives of a text; its own is told all the same.
        stage: the loss, its scale and margin.
    """
    with torch.autocast(text_BD.device.type, enabled=False):  # in bfloat16 cosines are off by thousandths
        cosine_BJ = text_BD @ item_JD.T
    excluded_BJ = excluded_BJ.clone().fill_diagonal_(False)
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
    # Who gives all of a text's items the same cosine loses the more for the margin.
    margin = {"softmax": 0.0, "am_softmax": stage.margin, "arcface": math.sin(stage.margin)}[stage.loss]
    others_B = (~excluded_BJ).sum(1).float() - 1
    return Outcome(loss, right, torch.log1p(others_B * math.exp(stage.scale * margin)).mean())
