"""Que2Search's two towers (Liu et al., KDD 2021, §3.1 and Figure 2).

Shapes: B batch; E as in `mercato.models.channels`.
"""

from __future__ import annotations

import torch
from torch import nn

from mercato import config
from mercato.features.featurizer import FeatureSpec
from mercato.fields import PRODUCT_CHANNELS, QUERY_CHANNELS
from mercato.models.channels import ChannelEncoder, Channels
from mercato.models.encoders import ENCODERS
from mercato.models.fusion import late_fusion
from mercato.models.recall import IDS, fused_channels, make_join
from mercato.models.text_encoder import TextEncoder
from mercato.models.tower import Inputs, Tower


class QueryTower(Tower):
    """Query tower: text encoder, trigram bag, searcher's country, and the ids of head queries."""

    table = QUERY_CHANNELS

    def __init__(self, spec: FeatureSpec, recipe: config.Recipe, text: TextEncoder | None) -> None:
        kind, channels = recipe.query_tower.fusion, spec.query_channels
        fusion = late_fusion(kind, len(fused_channels(recipe, kind, channels)), recipe.dimension)
        super().__init__(channels, fusion, recipe.dropout, make_join(recipe, kind, channels, recipe.dimension))
        self.ids_apart = recipe.recalls and IDS in self.channels
        self.text, self.id_dropout = text, recipe.query_tower.id_dropout
        for name, channel in self.table.items():
            if channel.kind != "text" and name in self.channels:
                self.add_module(name, ENCODERS[channel.kind](channel, spec, recipe, recipe.dimension))

    def encode(self, inputs: Inputs) -> Channels:
        """See `Tower`; in training, dropout hides the ids of random rows, so that a query without one is no other."""
        channels = super().encode(inputs)
        if self.training and self.id_dropout and IDS in self.channels:
            gone_B = torch.rand(len(channels.present_BS), device=channels.present_BS.device) < self.id_dropout
            channels = channels.without([self.channels.index(IDS)], gone_B)
        return channels


class ProductTower(Tower):
    """Product tower: text of title and description, their trigram bags, language, country, images, context, ids.

    One text encoder reads title and description (§3.1), unless `description_text` brings another for the latter.
    """

    table = PRODUCT_CHANNELS

    def __init__(
        self,
        spec: FeatureSpec,
        recipe: config.Recipe,
        fusion: nn.Module,
        width: int,
        text: TextEncoder | None,
        description_text: TextEncoder | None = None,
    ) -> None:
        """`width` is what the fusion reads: the shared dimension, or a fusion transformer's hidden size."""
        join = make_join(recipe, recipe.product_tower.fusion, spec.product_channels, width)
        super().__init__(spec.product_channels, fusion, recipe.dropout, join)

        def built(kind: str) -> dict[str, nn.Module]:
            own = [self.table[name] for name in self.channels if self.table[name].kind == kind]
            return {channel.name: ENCODERS[channel.kind](channel, spec, recipe, width) for channel in own}

        self.text, self.description_text = text, description_text
        self.bags, self.categories = nn.ModuleDict(built("trigrams")), nn.ModuleDict(built("category"))
        for kind in ENCODERS:
            for name, encoder in built(kind).items() if kind not in ("trigrams", "category") else ():
                self.add_module(name, encoder)
        self.ids_apart = recipe.recalls and IDS in self.channels
        self.modality_dropout = [
            (rate, [n for n, channel in enumerate(self.channels) if self.table[channel].modality == modality])
            for modality, rate in recipe.product_tower.modality_dropout.model_dump().items()
            if rate
        ]

    def encoder(self, channel: str) -> ChannelEncoder:
        """See `Tower`."""
        kind = self.table[channel].kind
        if kind == "text":
            own = self.description_text if channel == "description_text" else None
            text = own or self.text
            assert text is not None
            return text
        home = {"trigrams": self.bags, "category": self.categories}.get(kind)
        if home is None:
            return super().encoder(channel)
        found = home[channel]
        assert isinstance(found, ChannelEncoder)
        return found

    def encode(self, inputs: Inputs) -> Channels:
        """See `Tower`; in training, modality dropout drops whole modalities of random rows (Que2Engage §2.1.4)."""
        channels = whole = super().encode(inputs)
        if self.training and self.modality_dropout:
            for rate, members in self.modality_dropout:
                gone_B = torch.rand(len(whole.present_BS), device=whole.present_BS.device) < rate
                channels = channels.without(members, gone_B)
            left_B1 = channels.present_BS.any(1, keepdim=True)  # a row of nothing would teach nothing
            channels = channels._replace(present_BS=torch.where(left_B1, channels.present_BS, whole.present_BS))
        return channels
