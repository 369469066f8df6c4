"""Que2Engage's product tower (He et al., WWW 2023, §2.1): one transformer reads text, photos and context together.

Its query tower is Que2Search's with concatenation in place of attention (§2.1.1): `query_tower.fusion`.

Shapes as in `mercato.models.channels`; H the transformer's hidden size (E here).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mercato.config import Recipe
from mercato.features.featurizer import FeatureSpec
from mercato.models.channels import Channels
from mercato.models.que2search import ProductTower
from mercato.models.text_encoder import TextEncoder


class FusedProductTower(ProductTower):
    """Text tokens ‖ image token(s) ‖ context token → the upper layers of the text encoder → one vector (§2.1.3).

    The encoder's first K layers read text alone, the remaining M everything. Every other channel is a token too.
    """

    text: TextEncoder

    def __init__(self, spec: FeatureSpec, recipe: Recipe, text: TextEncoder) -> None:
        own = recipe.product_tower
        hidden = text.projection.in_features
        sequence = FusionSequence(len(spec.product_channels), hidden, learned=own.missing == "token")
        super().__init__(spec, recipe, sequence, hidden, text)
        self.dropout = nn.Dropout(0)  # the transformer has its own
        self.text_layers = own.text.layers - (own.fusion_layers or own.text.layers)  # K
        self.one_token_a_photo = own.image_token == "each"
        others = [channel for channel in self.channels if not channel.endswith("text")]
        self.norms = nn.ModuleDict({channel: nn.LayerNorm(hidden) for channel in others})  # as loud as a word

    def encode_channel(self, channel: str, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """See `Tower`; text is its tokens."""
        if channel == "images" and self.one_token_a_photo:
            assert self.images is not None
            found = self.images.each(inputs["images"]), inputs["image_mask"]
        else:
            found = super().encode_channel(channel, inputs)
        return (self.norms[channel](found[0]), found[1]) if channel in self.norms else found

    def encode_text(self, encoder: TextEncoder, tokens_BL: Tensor) -> tuple[Tensor, Tensor]:
        """A text channel's tokens after the first K layers."""
        return encoder.lower(tokens_BL, self.text_layers), tokens_BL != encoder.pad_id

    def mix(self, channels: Channels) -> tuple[Tensor, None]:
        """The fusion transformer has no one weight a channel."""
        state_BSH, present_BS, weight_BS = self.fusion(channels)
        return self.text.upper(state_BSH, present_BS, weight_BS, self.text_layers), None


class FusionSequence(nn.Module):
    """What the fusion transformer reads: every present position, and one in place of each channel that a row lacks.

    That one is a vector of zeros, as modality dropout leaves in the paper (§2.1.4), or learned. So to drop a modality
    in training and to lack it afterwards is the same thing.
    """

    def __init__(self, channels: int, hidden: int, learned: bool) -> None:
        super().__init__()
        # Whose a position is. Not zero at the start: a row of zeros alone would blow up in the layers' normalisation.
        self.mark_NH = nn.Parameter(0.02 * torch.randn(channels, hidden))
        self.missing_NH = nn.Parameter(torch.randn(channels, hidden)) if learned else None

    def forward(self, channels: Channels) -> tuple[Tensor, Tensor, Tensor]:
        """The sequence (B, S, H), which positions count, (B, S) bool, and their weights in a mean over it, (B, S).

        In the mean every channel that a row has counts alike: a photo is not one word among forty.
        """
        vectors_BSH, present_BS, channel_S = channels
        member_SN = nn.functional.one_hot(channel_S, len(self.mark_NH)).to(vectors_BSH.dtype)
        count_BN = present_BS.to(vectors_BSH.dtype) @ member_SN
        lacking_BS = channels.starts & (count_BN == 0)[:, channel_S]
        vectors_BSH = vectors_BSH * present_BS.unsqueeze(-1)
        if self.missing_NH is not None:
            vectors_BSH = torch.where(lacking_BS.unsqueeze(-1), self.missing_NH[channel_S], vectors_BSH)
        weight_BS = present_BS / count_BN.clamp(min=1)[:, channel_S]
        weight_BS = torch.where(present_BS.any(1, keepdim=True), weight_BS, lacking_BS.to(weight_BS.dtype))
        weight_BS = weight_BS / weight_BS.sum(1, keepdim=True)
        return vectors_BSH + self.mark_NH[channel_S], present_BS | lacking_BS, weight_BS
