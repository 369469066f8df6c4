"""Que2Engage's product tower (He et al., WWW 2023, §2.1): one transformer reads text, images and context together.

Its query tower is Que2Search's with concatenation in place of attention (§2.1.1): `query_tower.fusion`.

Shapes as in `mercato.models.channels`; H the transformer's hidden size (E here).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mercato.config import Recipe
from mercato.features.featurizer import FeatureSpec
from mercato.models.channels import Channels
from mercato.models.image_set import ImageSet
from mercato.models.que2search import ProductTower
from mercato.models.recall import as_positions, fused_channels
from mercato.models.text_encoder import TextEncoder
from mercato.models.tower import Inputs


class FusedProductTower(ProductTower):
    """Text tokens ‖ image token(s) ‖ context token → the upper layers of the text encoder → one vector (§2.1.3).

    The encoder's first K layers read text alone, the remaining M everything. Every other channel is a token too, but
    for the ids, which are joined with what the transformer makes of all others (`mercato.models.recall`).
    """

    text: TextEncoder
    fusion: FusionSequence

    def __init__(self, spec: FeatureSpec, recipe: Recipe, text: TextEncoder, unread: int = 0) -> None:
        """`unread` as for `FusionSequence`."""
        own = recipe.product_tower
        hidden = text.projection.in_features
        fused = fused_channels(recipe, own.fusion, spec.product_channels)
        sequence = FusionSequence(len(fused), hidden, own.missing == "token", unread)
        super().__init__(spec, recipe, sequence, hidden, text)
        self.width = hidden
        self.dropout = nn.Dropout(0)  # the transformer has its own
        self.text_layers = own.text.layers - (own.fusion_layers or own.text.layers)  # K
        self.token_an_image = own.image_token == "each"
        # Not the context: its MLP learns a length by itself, and runs were trained so.
        others = [channel for channel in self.channels if self.table[channel].kind not in ("text", "context", "ids")]
        self.norms = nn.ModuleDict({channel: nn.LayerNorm(hidden) for channel in others})  # of the length of a word

    def encode_channel(self, channel: str, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """See `Tower`; text is its tokens after the first K layers, (B, L, H)."""
        kind = self.table[channel].kind
        if kind == "text":
            tokens_BL = inputs[self.table[channel].features[0].name]
            return self.text.lower(tokens_BL, self.text_layers), tokens_BL != self.text.pad_id
        if kind == "images" and self.token_an_image:
            assert isinstance(self.images, ImageSet)
            vectors, present = self.images.each(inputs["images"]), inputs["image_mask"]
        else:
            vectors, present = super().encode_channel(channel, inputs)
        if kind == "ids":
            return as_positions(vectors, present, self.width)
        return (self.norms[channel](vectors) if channel in self.norms else vectors), present

    def zero_init(self) -> None:
        """Begin with zero tokens in all channels but text: those that have a norm by it.

        Not by what it reads: of zeros they would make full-size tokens after one step, and 300-fold gradients.
        """
        with torch.no_grad():
            for parameter in self.norms.parameters():
                parameter.zero_()
            if self.fusion.missing_NH is not None:
                self.fusion.missing_NH.zero_()
        if "context" in self.channels:
            self.encoder("context").zero_init()

    def mix(self, channels: Channels) -> tuple[Tensor, None]:
        """See `Tower`; the fusion transformer has no one weight a channel."""
        state_BSH, present_BS, weight_BS = self.fusion(channels)
        return self.text.upper(state_BSH, present_BS, weight_BS, self.text_layers), None


class FusionSequence(nn.Module):
    """What the fusion transformer reads: every present position, and one in place of each channel that a row lacks.

    That one is a vector of zeros, as modality dropout leaves in the paper (§2.1.4), or learned. So to drop a modality
    in training and to lack it afterwards is the same thing.
    """

    def __init__(self, channels: int, hidden: int, learned: bool, unread: int = 0) -> None:
        """`unread` positions of zeros stand behind the channels, in place of others that come later."""
        super().__init__()
        self.unread = unread
        channels += unread
        # Whose a position is. Not zero at the start: a row of zeros alone would blow up in the layers' normalisation.
        self.mark_NH = nn.Parameter(0.02 * torch.randn(channels, hidden))
        self.missing_NH = nn.Parameter(torch.randn(channels, hidden)) if learned else None

    def forward(self, channels: Channels) -> tuple[Tensor, Tensor, Tensor]:
        """The sequence (B, S, H), which positions count, (B, S) bool, and their weights in a mean over it, (B, S).

        In the mean every channel that a row has counts alike: an image is not one word among forty.
        """
        channels = channels.with_zeros(self.unread)
        vectors_BSH, present_BS, channel_S = channels
        member_SC = nn.functional.one_hot(channel_S, len(self.mark_NH)).to(vectors_BSH.dtype)
        count_BC = present_BS.to(vectors_BSH.dtype) @ member_SC
        lacking_BS = channels.starts & (count_BC == 0)[:, channel_S]
        vectors_BSH = vectors_BSH * present_BS.unsqueeze(-1)
        if self.missing_NH is not None:
            vectors_BSH = torch.where(lacking_BS.unsqueeze(-1), self.missing_NH[channel_S], vectors_BSH)
        weight_BS = present_BS / count_BC.clamp(min=1)[:, channel_S]
        weight_BS = torch.where(present_BS.any(1, keepdim=True), weight_BS, lacking_BS.to(weight_BS.dtype))
        weight_BS = weight_BS / weight_BS.sum(1, keepdim=True)
        return vectors_BSH + self.mark_NH[channel_S], present_BS | lacking_BS, weight_BS
