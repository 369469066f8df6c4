"""Towers: encoders, one a channel, fused into a unit vector; and two of them, independent until their inner product.

Shapes: B batch, C channels, D the shared dimension; S, E as in `mercato.models.channels`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mercato.features.featurizer import Features
from mercato.fields import Channel
from mercato.models.channels import ChannelEncoder, Channels
from mercato.models.fusion import AttentionFusion, ConcatFusion
from mercato.models.recall import IDS, Join
from mercato.models.text_encoder import TextEncoder
from mercato.models.vision import Vision

Inputs = dict[str, Tensor]


def tensors(features: Features) -> Inputs:
    """Features as torch tensors (int64, float32, bool)."""
    return {
        name: torch.from_numpy(array.astype(np.int64) if array.dtype.kind == "i" else array)
        if array.dtype != np.float16
        else torch.from_numpy(array).float()
        for name, array in features.items()
    }


class Tower(nn.Module):
    """A tower: an encoder for each channel, and a fusion. A subclass makes its encoders and says where they are.

    With a `join` its last channel, `ids`, takes no part in the fusion: it is joined with what that makes of the others.
    """

    table: Mapping[str, Channel]  # of `mercato.fields`: what its channels are
    text: TextEncoder | None  # None where no channel is text
    ids_apart = False  # whether a stage of their own learns the ids (`mercato.models.recall`)

    def __init__(self, channels: tuple[str, ...], fusion: nn.Module, dropout: float, join: Join | None = None) -> None:
        super().__init__()
        own = () if join is None else tuple(channel for channel in channels if channel == IDS)
        self.channels = (*(channel for channel in channels if channel not in own), *own)  # the ids behind the others
        self.fusion, self.join = fusion, join
        self.dropout = nn.Dropout(dropout)

    def forward(self, inputs: Inputs) -> tuple[Tensor, Tensor | None]:
        """Features as tensors → unit vectors (B, D) float32 and attention weights (B, C), None for some fusions."""
        return self.fuse(self.encode(inputs))

    def encode(self, inputs: Inputs) -> Channels:
        """Features as tensors → every channel's own vectors.

        In training without ids where a stage of their own learns them: content that learns beside them would leave to
        them what it should say itself, and say less of what has none.
        """
        found = Channels.of([self.encode_channel(channel, inputs) for channel in self.channels])
        if self.training and self.ids_apart:
            found = found.without([self.channels.index(IDS)])
        return found._replace(vectors_BSE=self.dropout(found.vectors_BSE))

    def fuse(self, channels: Channels, only: Collection[str] | None = None) -> tuple[Tensor, Tensor | None]:
        """As `forward`, from encoded channels; with `only`, as if those were all that the row has."""
        if only is not None:
            channels = channels.without(n for n, channel in enumerate(self.channels) if channel not in only)
        if self.join is None:
            fused_BD, weights_BC = self.mix(channels)
            return F.normalize(fused_BD.float(), dim=-1), weights_BC
        content, ids_BD = self.join.split(channels)
        return self.join(F.normalize(self.mix(content)[0].float(), dim=-1), ids_BD), None

    def content(self, inputs: Inputs) -> Tensor:
        """Unit vectors (B, D) float32 of the channels that are fused, before they are joined with ids."""
        assert self.join is not None
        return F.normalize(self.mix(self.join.split(self.encode(inputs))[0])[0].float(), dim=-1)

    def joined(self, content_BD: Tensor, ids_BK: Tensor | None) -> Tensor:
        """The rest of the way: from `content` and its ids (B, K), where the tower reads them, (B, D) float32."""
        assert self.join is not None
        ids_BD: Tensor | None = None if ids_BK is None else self.encoder(IDS)(ids_BK)
        joined_BD: Tensor = self.join(content_BD, ids_BD)
        return joined_BD

    def mix(self, channels: Channels) -> tuple[Tensor, Tensor | None]:
        """As `fuse`, before the vector is made a unit one."""
        mixed: tuple[Tensor, Tensor | None] = self.fusion(channels)
        return mixed

    def encode_channel(self, channel: str, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """One channel's vector (B, E) and whether the row has it, (B,) bool; or several, (B, S, E) and (B, S)."""
        encoder = self.encoder(channel)
        features = [inputs[feature.name] for feature in self.table[channel].features]
        return encoder(*features), encoder.present(*features)

    def encoder(self, channel: str) -> ChannelEncoder:
        """The encoder of one of its channels."""
        found = getattr(self, channel)
        assert isinstance(found, ChannelEncoder)
        return found

    def zero_init(self) -> None:
        """Begin with zero vectors in all channels but text, and with a fusion that weighs all alike."""
        for part in self.modules():
            if isinstance(part, ChannelEncoder) and not isinstance(part, TextEncoder):
                part.zero_init()
        if isinstance(self.fusion, AttentionFusion | ConcatFusion):
            self.fusion.uniform_init()


class TwoTower(nn.Module):
    """Both towers; `query(inputs)` and `product(inputs)` are independent (late fusion).

    `head`, where there is one, classifies a product's unit vector into the queries that find it (Que2Search §3.1.1).
    `threshold`, where it is learned, is the cosine above which an engagement is likely
    (`mercato.losses.engagement_bce`). `vision`, while an image encoder is fine-tuned, turns images into what the
    product tower reads.
    """

    def __init__(self, query: Tower, product: Tower, head: nn.Linear | None = None, threshold: bool = False) -> None:
        super().__init__()
        self.query, self.product, self.head = query, product, head
        self.threshold = nn.Parameter(torch.zeros(())) if threshold else None
        self.vision: Vision | None = None

    def text_encoders(self) -> list[TextEncoder]:
        """Every text encoder once."""
        return [part for part in self.modules() if isinstance(part, TextEncoder)]

    def text_parameters(self) -> list[nn.Parameter]:
        """The transformers' own parameters, which learn at their own rate (Que2Search §3.1, "varying XLM LR")."""
        return [parameter for encoder in self.text_encoders() for parameter in encoder.backbone.parameters()]
