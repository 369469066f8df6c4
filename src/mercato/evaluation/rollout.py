"""Which patches of a photo a query looks at: attention rollout through the pretrained towers and the cross encoder.

What a position has looked at is followed through the layers (Abnar & Zuidema 2020); of each layer's heads counts what
speaks for the answer, by its gradient (Chefer et al. 2021, "Generic Attention-model Explainability", Eqs. 5 and 6).
Whether the patches it names matter is measured: the answer is asked again with them masked, and with others.

Shapes: B pairs of a query and a product, L tokens, S positions of an item, P patches; A heads; others as in
`mercato.models.taobao`.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mercato.models.taobao import PretrainingTowers, Read
from mercato.models.text_encoder import attended
from mercato.models.tower import Inputs

Head = Literal["qim", "qim2"]
WITHOUT: dict[Head, str | None] = {"qim": None, "qim2": "text"}


def patches_looked_at(towers: PretrainingTowers, head: Head, query: Inputs, product: Inputs) -> tuple[Tensor, Tensor]:
    """How much each patch spoke for the match of each pair.

    Args:
        towers: in evaluation mode.
        head: "qim" reads the item's title beside its image, "qim2" the image alone.
        query: of the query tower, B rows.
        product: of the product tower, B rows.

    Returns:
        Shares (B, P) of a row's sum, all 0 where nothing spoke for it or there is no photo, and the match's logits
        (B,).
    """
    with torch.enable_grad():
        text = towers.query.text
        assert text is not None
        tokens_BL = query["tokens"]
        present_BL = tokens_BL != text.pad_id
        query_BLH, of_query = attended(text.layers(), text.lower(tokens_BL, 0), present_BL)
        item = towers.product
        sequence_BSH, present_BS, _ = towers.item_sequence(product, WITHOUT[head])
        item_BSH, of_item = attended(item.text.layers(item.text_layers), sequence_BSH, present_BS)
        nothing = query_BLH.new_zeros(len(query_BLH), 0)  # the cross encoder reads states alone
        crossed = towers.cross.sequence(Read(query_BLH, present_BL, nothing), Read(item_BSH, present_BS, nothing))
        state_BTH, of_cross = attended(towers.cross.layer, *crossed)
        logit_B = towers.matches[head](state_BTH[:, 0]).squeeze(1)
        weights = [*of_query, *of_item, *of_cross]
        gradients = torch.autograd.grad(logit_B.sum(), weights)
    relevance = iter([(own * gradient).relu().mean(1) for own, gradient in zip(weights, gradients, strict=True)])
    below_BLL = _rolled(query_BLH, [next(relevance) for _ in of_query])
    below_BSS = _rolled(item_BSH, [next(relevance) for _ in of_item])
    length = query_BLH.shape[1]
    below_BTT = F.pad(below_BLL, (0, item_BSH.shape[1], 0, item_BSH.shape[1]))
    below_BTT[:, length:, length:] = below_BSS
    for own_BTT in relevance:
        below_BTT = below_BTT + own_BTT @ below_BTT
    there_BP = product["patch_mask"].repeat_interleave(product["patches"].shape[2], 1)
    place_P = patch_positions(towers, product).nonzero().squeeze(1)
    seen_BP = below_BTT[:, 0, length + place_P].detach() * there_BP
    return seen_BP / seen_BP.sum(1, keepdim=True).clamp(min=1e-12), logit_B.detach()


@torch.no_grad()
def matches(towers: PretrainingTowers, head: Head, query: Inputs, product: Inputs, hidden_BP: Tensor) -> Tensor:
    """The match's logits (B,) with some patches masked, (B, P) bool."""
    of_patches_S = patch_positions(towers, product)
    hidden_BS = torch.zeros(len(hidden_BP), len(of_patches_S), dtype=torch.bool)
    hidden_BS[:, of_patches_S] = hidden_BP
    items = towers.read_items(product, WITHOUT[head], hidden_BS)
    logit_B: Tensor = towers.matches[head](towers.cross.first(towers.read_queries(query), items)).squeeze(1)
    return logit_B


def patch_positions(towers: PretrainingTowers, product: Inputs) -> Tensor:
    """Which positions of the item tower's sequence are patches, (S,) bool."""
    tower = towers.product
    found: Tensor = tower.encode(product).channel_S == tower.channels.index("patches")
    return found


def _rolled(like_BSH: Tensor, layers: list[Tensor]) -> Tensor:
    """What each position has looked at after these layers, itself first, (B, S, S)."""
    seen_BSS = torch.eye(like_BSH.shape[1]).repeat(len(like_BSH), 1, 1)
    for own_BSS in layers:
        seen_BSS = seen_BSS + own_BSS @ seen_BSS
    return seen_BSS
