"""Taobao's pretraining model: one encoder for queries and single-stream items, a cross encoder on top, and the heads.

A query is its tokens; an item is its title's tokens and its images' patches in one sequence (mercato.models.que2engage
reads them so). Both are read by the same transformer, as "the Query tower shares the encoder with the Item tower". The
cross encoder reads the states that the towers leave, query ‖ item, as ALBEF's multimodal encoder does (Li et al. 2021).

Shapes: B rows, S positions, L tokens, P patches of V numbers, H the hidden size, D the shared dimension, W words of the
vocabulary.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig

from mercato import config
from mercato.models.channels import Channels
from mercato.models.patches import PatchEncoder
from mercato.models.que2engage import FusedProductTower
from mercato.models.text_encoder import build_backbone, first_through, scratch_config, through
from mercato.models.tower import Inputs, Tower, TwoTower

MARKS = "product.fusion.mark_NH"  # whose a position of the item tower's sequence is


class Read(NamedTuple):
    """What a tower makes of its inputs: every state, and the unit vector that they are pooled to."""

    state_BSH: Tensor
    present_BS: Tensor  # bool
    vector_BD: Tensor  # float32, unit length

    def rows(self, place_N: Tensor) -> Read:
        """Some of the rows, in any order and any number of times."""
        return Read(self.state_BSH[place_N], self.present_BS[place_N], self.vector_BD[place_N])


def stacked(upper: Read, lower: Read) -> Read:
    """One under the other; the shorter is padded."""
    longest = max(upper.state_BSH.shape[1], lower.state_BSH.shape[1])
    padded = [
        Read(
            F.pad(own.state_BSH, (0, 0, 0, longest - own.state_BSH.shape[1])),
            F.pad(own.present_BS, (0, longest - own.present_BS.shape[1])),
            own.vector_BD,
        )
        for own in (upper, lower)
    ]
    return Read(*(torch.cat(parts) for parts in zip(*padded, strict=True)))


class CrossEncoder(nn.Module):
    """A transformer over two sequences of states, one after the other, each marked with its side."""

    def __init__(self, like: PretrainedConfig, layers: int) -> None:
        """`like`: the configuration of the towers' encoder, whose sizes it has."""
        super().__init__()
        sizes = config.TextEncoder(
            layers=layers,
            heads=like.num_attention_heads,
            hidden=like.hidden_size,
            feed_forward=like.intermediate_size,
            dropout=like.hidden_dropout_prob,
        )
        backbone: Any = build_backbone(scratch_config(sizes, vocabulary=1, pad_id=0, positions=1))
        self.layer = backbone.encoder.layer
        self.side_2H = nn.Parameter(0.02 * torch.randn(2, like.hidden_size))
        self.norm = nn.LayerNorm(like.hidden_size)

    def forward(self, left: Read, right: Read) -> Tensor:
        """States of both, (B, S_left + S_right, H)."""
        return through(self.layer, *self.sequence(left, right))

    def first(self, left: Read, right: Read) -> Tensor:
        """The first of these states, (B, H)."""
        return first_through(self.layer, *self.sequence(left, right))

    def sequence(self, left: Read, right: Read) -> tuple[Tensor, Tensor]:
        """What its layers read, (B, S_left + S_right, H), and which positions are present."""
        state_BSH = torch.cat([left.state_BSH + self.side_2H[0], right.state_BSH + self.side_2H[1]], 1)
        return self.norm(state_BSH), torch.cat([left.present_BS, right.present_BS], 1)


class WordHead(nn.Module):
    """States → logits over the vocabulary; its output matrix is the word embeddings (BERT's head)."""

    def __init__(self, hidden: int, vocabulary: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(hidden, hidden), nn.GELU(), nn.LayerNorm(hidden))
        self.bias_W = nn.Parameter(torch.zeros(vocabulary))  # a unigram model of its own

    def forward(self, state_NH: Tensor, embedding_WH: Tensor) -> Tensor:
        """(N, H) → (N, W)."""
        return F.linear(self.inner(state_NH), embedding_WH, self.bias_W)


class PretrainingTowers(TwoTower):
    """Both towers, whose encoder may be one, with the cross encoder and the heads of the pretraining tasks."""

    product: FusedProductTower

    def __init__(self, query: Tower, product: FusedProductTower, cross_layers: int, patch_outputs: int) -> None:
        """`patch_outputs`: what is told of a masked patch, V numbers or a codebook's codes; 0: no patches are read."""
        super().__init__(query, product)
        like: Any = product.text.backbone.config
        hidden: int = like.hidden_size
        self.cross = CrossEncoder(like, cross_layers)
        self.words = WordHead(hidden, self.embeddings.shape[0])
        self.patches: nn.Module | None = None
        if patch_outputs:
            self.patches = nn.Sequential(nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, patch_outputs))
        self.matches = nn.ModuleDict({"qim": nn.Linear(hidden, 1), "qim2": nn.Linear(hidden, 1)})
        self.hidden_patch_H = nn.Parameter(0.02 * torch.randn(hidden))  # in place of a masked patch

    @property
    def embeddings(self) -> Tensor:
        """The word embeddings of the item tower."""
        backbone: Any = self.product.text.backbone
        found: Tensor = backbone.embeddings.word_embeddings.weight
        return found

    def read_queries(self, inputs: Inputs) -> Read:
        """The query tower on tokens (B, L)."""
        text = self.query.text
        assert text is not None
        tokens_BL = inputs["tokens"]
        state_BLH, present_BL = text.states(tokens_BL), tokens_BL != text.pad_id
        vector_BD = text.projection(text.pool(state_BLH, present_BL))
        channels = Channels.of([(self.query.dropout(vector_BD), present_BL.any(1))])
        return Read(state_BLH, present_BL, self.query.fuse(channels)[0])

    def read_items(self, inputs: Inputs, without: str | None = None, hidden_BS: Tensor | None = None) -> Read:
        """The item tower on title and patches.

        Args:
            inputs: of the product tower.
            without: "text" or "images": as if no item had any.
            hidden_BS: positions of patches that are masked, bool; elsewhere False.
        """
        tower = self.product
        state_BSH, present_BS, weight_BS = self.item_sequence(inputs, without, hidden_BS)
        state_BSH = through(tower.text.layers(tower.text_layers), state_BSH, present_BS)
        pooled_BH = state_BSH[:, 0] if tower.text.pooling == "cls" else (state_BSH * weight_BS.unsqueeze(-1)).sum(1)
        return Read(state_BSH, present_BS, F.normalize(tower.text.projection(pooled_BH).float(), dim=-1))

    def item_sequence(
        self, inputs: Inputs, without: str | None = None, hidden_BS: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What the item tower's layers read, as `FusionSequence` makes it; arguments as for `read_items`."""
        tower = self.product
        channels = tower.encode(inputs)
        if hidden_BS is not None and hidden_BS.any():
            channels = channels._replace(vectors_BSE=self._hide(channels, hidden_BS))
        if without is not None:
            gone = [n for n, name in enumerate(tower.channels) if tower.table[name].modality == without]
            channels = channels.without(gone)
        sequence: tuple[Tensor, Tensor, Tensor] = tower.fusion(channels)
        return sequence

    def _hide(self, channels: Channels, hidden_BS: Tensor) -> Tensor:
        """The vectors with masked patches in place of some: where they are is known, what they show is not."""
        tower = self.product
        encoder = tower.encoder("patches")
        assert isinstance(encoder, PatchEncoder)
        of_patches_S = channels.channel_S == tower.channels.index("patches")
        images = int(of_patches_S.sum()) // len(encoder.place_PH)
        masked_SH = channels.vectors_BSE.new_zeros(len(of_patches_S), len(self.hidden_patch_H))
        masked_SH[of_patches_S] = (self.hidden_patch_H + encoder.place_PH).repeat(images, 1)
        hidden_BS = hidden_BS[:, : len(of_patches_S)]  # behind them stand channels that nobody reads
        return torch.where(hidden_BS.unsqueeze(-1), tower.norms["patches"](masked_SH), channels.vectors_BSE)
