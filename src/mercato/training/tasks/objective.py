"""What a stage minimises: the loss of both whole towers, of each modality (gradient blending) and of the head.

Shapes: B pairs of a batch and S shown ones, C = B or B + S; Q and P distinct queries and products, D the dimension.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mercato.config import Stage
from mercato.losses.cosent import cosent
from mercato.losses.engagement_bce import engagement_bce
from mercato.losses.in_batch_softmax import in_batch_softmax
from mercato.losses.margin_ranking import margin_ranking
from mercato.losses.multi_label import multi_label
from mercato.losses.scaled_bce import scaled_bce
from mercato.losses.symmetric_softmax import symmetric_softmax
from mercato.models.channels import Channels, join_rows
from mercato.models.que2search import Inputs, Tower, TwoTower
from mercato.models.vision import Vision, rows_of
from mercato.training.data.batches import Batch
from mercato.training.tasks.modalities import MULTIMODAL, Modality

RELEVANCE, ENGAGEMENT, HEAD = "relevance", "engagement", "head"
HEAD_SCALE = 5.0  # the head learns from s·v: of unit vectors, Adam's steps would take thousands to tell queries apart


@dataclass(frozen=True)
class Objective:
    """A stage's weighted sum of losses, from one forward pass of every encoder."""

    stage: Stage
    blend: Mapping[Modality, float] = field(default_factory=dict)  # Que2Search Eq. 6; empty: both whole towers alone
    head_weight: float = 0.0

    def losses(self, towers: TwoTower, batch: Batch) -> dict[str, tuple[float, Tensor]]:
        """Every loss of a batch by name, as (weight, scalar); `total` adds them up.

        The M + 1 losses of gradient blending share the encoders' one pass: only the fusions run again, each as if the
        other modalities were missing from every row.
        """
        rows = self.stage.micro_batch
        query = encode(towers.query, batch.query, rows)
        product = encode(towers.product, batch.product, rows, towers.vision)
        whole = towers.query.fuse(query)[0], towers.product.fuse(product)[0]
        relevance = self.stage.relevance_weight
        name = MULTIMODAL.name if self.blend else RELEVANCE
        found = {name: (relevance * self.blend.get(MULTIMODAL, 1.0), stage_loss(self.stage, *whole, batch))}
        if self.stage.engagement_weight:
            found[ENGAGEMENT] = (self.stage.engagement_weight, engagement_loss(self.stage, *whole, batch, towers))
        for modality, weight in self.blend.items():
            if modality != MULTIMODAL and weight:
                # L of one modality of one tower with the other tower whole, over the pairs that have it at all.
                side = ("query", "product").index(modality.tower)
                tower, channels = (towers.query, towers.product)[side], (query, product)[side]
                alone = tower.fuse(channels, only=modality.channels)[0]
                has = channels.has(tower.channels.index(name) for name in modality.channels)
                pairs = has[(batch.query_B, batch.product_B)[side]].nonzero().squeeze(1)
                vectors = (alone, whole[1]) if side == 0 else (whole[0], alone)
                found[modality.name] = (relevance * weight, stage_loss(self.stage, *vectors, batch, pairs))
        if towers.head is not None and self.head_weight:
            logits_PC = towers.head(HEAD_SCALE * whole[1])
            found[HEAD] = (self.head_weight, multi_label(logits_PC.float(), batch.classes_PK))
        return found


def total(losses: Mapping[str, tuple[float, Tensor]]) -> Tensor:
    """The weighted sum, a scalar."""
    return torch.stack([weight * loss for weight, loss in losses.values()]).sum()


def stage_loss(stage: Stage, query_QD: Tensor, product_PD: Tensor, batch: Batch, pairs: Tensor | None = None) -> Tensor:
    """The loss that a stage names, of a batch's unit vectors (float32); of some of its `pairs` only, if given."""
    query_B, product_B, grade_B, excluded_BC = batch.query_B, batch.product_B, batch.grade_B, batch.excluded_BC
    if pairs is not None:
        others = torch.arange(len(product_B), excluded_BC.shape[1], device=pairs.device)
        excluded_BC = excluded_BC[pairs][:, torch.cat([pairs, others])]
        query_B, product_B, grade_B = query_B[pairs], product_B[pairs], grade_B[pairs]
    if not len(query_B):
        return query_QD.sum() * 0
    if stage.loss == "cosent":
        return cosent((query_QD[query_B] * product_PD[product_B]).sum(1), grade_B, stage.scale)
    product_C = torch.cat([product_B, batch.shown_product_S]) if stage.negatives == "mixed" else product_B
    cosine_BC = query_QD[query_B] @ product_PD[product_C].T
    if stage.loss == "in_batch_softmax":
        return in_batch_softmax(cosine_BC, excluded_BC, stage.scale)
    if stage.loss == "symmetric_softmax":
        return symmetric_softmax(cosine_BC, excluded_BC, stage.scale)
    if stage.loss == "margin_ranking":
        return margin_ranking(cosine_BC, excluded_BC, stage.margin, stage.reduction)
    return scaled_bce(cosine_BC, excluded_BC, stage.scale)


def engagement_loss(stage: Stage, query_QD: Tensor, product_PD: Tensor, batch: Batch, towers: TwoTower) -> Tensor:
    """Que2Engage's second task: a batch's engaged pairs against its shown ones."""
    query_N = torch.cat([batch.query_B, batch.shown_query_S])
    product_N = torch.cat([batch.product_B, batch.shown_product_S])
    engaged_N = torch.arange(len(query_N), device=query_N.device) < len(batch.query_B)
    cosine_N = (query_QD[query_N] * product_PD[product_N]).sum(1)
    threshold = 0.0 if towers.threshold is None else towers.threshold
    return engagement_bce(cosine_N, engaged_N, stage.scale, threshold)


def encode(tower: Tower, inputs: Inputs, rows: int | None, vision: Vision | None = None) -> Channels:
    """A tower's channels, `rows` at a time and encoded again on the way back (gradient caching, Gao et al. 2021).

    Loss and gradients are those of one piece, since rows do not see each other before the loss (but in the context
    encoder's BatchNorm, whose statistics then are those of `rows` rows); only the activations of `rows` rows are ever
    held, for one more forward pass. `vision` first makes vectors of the rows' pixels.
    """
    count = len(next(iter(inputs.values())))

    def encoded(part: Inputs) -> Channels:
        return tower.encode(part if vision is None else vision.look(part))

    if rows is None or count <= rows:
        return encoded(inputs)
    parts = [
        checkpoint(encoded, rows_of(inputs, start, start + rows), use_reentrant=False)
        for start in range(0, count, rows)
    ]
    return join_rows(parts)
