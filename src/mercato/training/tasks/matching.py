"""QIM and QIM2: whether a query and an item, or an image alone, belong together, by the cross encoder.

Negatives are drawn in the batch by the towers' own similarity, so that they are hard (ALBEF: Li et al. 2021, §3.2): for
each pair another item, and another query.

Shapes: T texts, I items, N pairs of a text and an item; K negatives; others as in `mercato.training.data.pretraining`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mercato.config.pretraining import Matching
from mercato.models.taobao import CrossEncoder, Read, stacked
from mercato.training.tasks.step import Outcome, Step


@dataclass(frozen=True)
class MatchingTask:
    """Binary cross-entropy over pairs and hard negatives of them."""

    stage: Matching
    name: Literal["qim", "qim2"]

    def outcome(self, step: Step) -> Outcome | None:
        """See `PretrainingObjective`; a product without a query stands with its own title against images."""
        batch, towers = step.batch, step.towers
        pair_2N = torch.stack([batch.query_B, batch.product_B])
        texts, items, known_TI = step.queries, step.items, batch.known_QM
        if self.name == "qim2":
            pair_2N = pair_2N[:, step.has_images[batch.product_B]]
            alone_U = batch.unpaired_U[step.has_images[batch.unpaired_U] & _titled(step)[batch.unpaired_U]]
            items = step.images
            if len(alone_U):
                own_2U = torch.stack([len(batch.known_QM) + torch.arange(len(alone_U), device=alone_U.device), alone_U])
                texts, pair_2N = stacked(texts, step.titles.rows(alone_U)), torch.cat([pair_2N, own_2U], 1)
                same_UM = batch.product_M[alone_U].unsqueeze(1) == batch.product_M  # and seen in another way
                known_TI = torch.cat([known_TI, same_UM])
            known_TI = known_TI | ~step.has_images  # what has no image is no negative either
        if not pair_2N.shape[1]:
            return None
        is_title_T = torch.arange(len(known_TI), device=known_TI.device) >= len(batch.known_QM)
        head = towers.matches[self.name]
        return matching(towers.cross, head, texts, items, pair_2N, known_TI, self.stage.scale, is_title_T)


def matching(
    cross: CrossEncoder,
    head: nn.Module,
    texts: Read,
    items: Read,
    pair_2N: Tensor,
    known_TI: Tensor,
    scale: float,
    kind_T: Tensor,
) -> Outcome | None:
    """The outcome of N pairs, each with a hard item for its text and a hard text for its item, where there are any.

    Args:
        cross: reads a text and an item.
        head: (·, H) → (·, 1) logits, of the cross encoder's first state.
        texts, items: T and I of them.
        pair_2N: places of the pairs' texts and items.
        known_TI: bool: a text and an item that are no negatives of each other; those of the pairs need not be among
            them.
        scale: negatives are drawn as exp(scale · cos).
        kind_T: an item's hard text is of the kind of its own, or to know a text's kind would be to know half of all.
    """
    text_N, item_N = pair_2N
    with torch.no_grad():
        known_TI = known_TI.clone()
        known_TI[text_N, item_N] = True
        logits_TI = (scale * texts.vector_BD @ items.vector_BD.T).masked_fill(known_TI, -math.inf)
        used_T, used_I = torch.zeros_like(known_TI[:, 0]), torch.zeros_like(known_TI[0])
        used_T[text_N], used_I[item_N] = True, True
        hard_item = _drawn(logits_TI.masked_fill(~used_I, -math.inf)[text_N])
        other_NT = ~used_T | (kind_T != kind_T[text_N].unsqueeze(1))
        hard_text = _drawn(logits_TI.T[item_N].masked_fill(other_NT, -math.inf))
    of_text, of_item = hard_item >= 0, hard_text >= 0
    text_K = torch.cat([text_N, text_N[of_text], hard_text[of_item]])
    item_K = torch.cat([item_N, hard_item[of_text], item_N[of_item]])
    if len(text_K) == len(text_N):
        return None
    logit_K = head(cross.first(texts.rows(text_K), items.rows(item_K))).squeeze(1).float()
    target_K = (torch.arange(len(text_K), device=text_K.device) < len(text_N)).float()
    right = ((logit_K > 0) == (target_K > 0)).float().mean()
    prior = target_K.mean()
    trivial = -(prior * prior.log() + (1 - prior) * (1 - prior).log())
    return Outcome(F.binary_cross_entropy_with_logits(logit_K, target_K), right, trivial)


def _drawn(logits_NX: Tensor) -> Tensor:
    """One column of each row, by its softmax: (N,) int64, −1 where every column is −inf."""
    some_N = logits_NX.isfinite().any(1)
    chance_NX = torch.softmax(torch.where(some_N.unsqueeze(1), logits_NX, 0.0), 1)
    return torch.where(some_N, torch.multinomial(chance_NX, 1).squeeze(1), -1)


def _titled(step: Step) -> Tensor:
    """Which items have any text, (M,) bool."""
    text = step.towers.product.text
    return torch.stack([text.present(step.batch.product[name]) for name in step.batch.told_product]).any(0)
