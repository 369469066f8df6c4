"""Que2Search's two towers (Liu et al., KDD 2021, §3.1 and Figure 2).

Shapes: B batch, N channels, D the shared dimension; S, E as in `mercato.models.channels`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mercato import config
from mercato.features.featurizer import FeatureSpec
from mercato.models.bags import Category, TrigramBag
from mercato.models.channels import Channels
from mercato.models.context_encoder import ContextEncoder
from mercato.models.fusion import late_fusion
from mercato.models.image_set import ImageSet
from mercato.models.text_encoder import TextEncoder
from mercato.models.vision import Vision

Inputs = dict[str, Tensor]

GROUPS = {
    "text": "text",
    "trigrams": "text",
    "title_text": "title",
    "title_trigrams": "title",
    "description_text": "description",
    "description_trigrams": "description",
}
"""The field that a channel reads, where several read one; any other channel is a field of its own (§3.6)."""
MODALITIES = {channel: "text" for channel in GROUPS if channel != "trigrams"}
"""The modality of a product's channel, where that is not its name: what modality dropout hides together."""
TOKENS = {"text": "text_tokens", "title_text": "title_tokens", "description_text": "description_tokens"}


def fields_of(channels: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """A tower's channels by the field that they read: title_text and title_trigrams are the title."""
    found: dict[str, tuple[str, ...]] = {}
    for channel in channels:
        field = GROUPS.get(channel, channel)
        found[field] = (*found.get(field, ()), channel)
    return found


class Tower(nn.Module, ABC):
    """Encoders, one a channel, fused into a unit vector. A subclass names its encoders."""

    channels: tuple[str, ...]
    text: TextEncoder | None  # None where no channel is text

    def __init__(self, channels: tuple[str, ...], fusion: nn.Module, dropout: float) -> None:
        super().__init__()
        self.channels, self.fusion = channels, fusion
        self.dropout = nn.Dropout(dropout)

    def forward(self, inputs: Inputs) -> tuple[Tensor, Tensor | None]:
        """Features as tensors → unit vectors (B, D) and attention weights (B, N), None for a fusion that has none."""
        return self.fuse(self.encode(inputs))

    def encode(self, inputs: Inputs) -> Channels:
        """Features as tensors → every channel's own vectors."""
        found = Channels.of([self.encode_channel(channel, inputs) for channel in self.channels])
        return found._replace(vectors_BSE=self.dropout(found.vectors_BSE))

    def fuse(self, channels: Channels, only: Collection[str] | None = None) -> tuple[Tensor, Tensor | None]:
        """As `forward`, from encoded channels; with `only`, as if those were all that the row has."""
        if only is not None:
            channels = channels.without(n for n, channel in enumerate(self.channels) if channel not in only)
        fused_BD, weights_BN = self.mix(channels)
        return F.normalize(fused_BD, dim=-1), weights_BN

    def mix(self, channels: Channels) -> tuple[Tensor, Tensor | None]:
        """As `fuse`, before the vector is made a unit one."""
        mixed: tuple[Tensor, Tensor | None] = self.fusion(channels)
        return mixed

    @abstractmethod
    def encode_channel(self, channel: str, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """One channel's vector (B, E) and whether the row has it, (B,) bool; or several, (B, S, E) and (B, S)."""


class QueryTower(Tower):
    """Trigram bag, searcher's country and text encoder."""

    def __init__(self, spec: FeatureSpec, recipe: config.Recipe, text: TextEncoder | None) -> None:
        fusion = late_fusion(recipe.query_tower.fusion, len(spec.query_channels), recipe.dimension)
        super().__init__(spec.query_channels, fusion, recipe.dropout)
        self.text = text
        self.trigrams = TrigramBag(spec.buckets, recipe.dimension) if "trigrams" in self.channels else None
        self.country = Category(len(spec.countries), recipe.dimension) if "country" in self.channels else None

    def encode_channel(self, channel: str, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """See `Tower`; inputs are those of `Featurizer.queries`."""
        if channel == "text":
            assert self.text is not None
            return _text(self.text, inputs["tokens"])
        if channel == "trigrams":
            assert self.trigrams is not None
            return self.trigrams(inputs["trigrams"]), (inputs["trigrams"] != 0).any(1)
        assert self.country is not None
        return self.country(inputs["country"]), inputs["country"] != 0


class ProductTower(Tower):
    """Text of title and description, their trigram bags, language, country, photos, context.

    One text encoder reads title and description (§3.1), unless `description_text` brings another for the latter.
    """

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
        super().__init__(spec.product_channels, fusion, recipe.dropout)
        self.text, self.description_text = text, description_text
        self.bags = nn.ModuleDict(
            {channel: TrigramBag(spec.buckets, width) for channel in self.channels if channel.endswith("trigrams")}
        )
        sizes = {"language": len(spec.languages), "country": len(spec.countries)}
        self.categories = nn.ModuleDict(
            {channel: Category(sizes[channel], width) for channel in self.channels if channel in sizes}
        )
        self.images = ImageSet(spec.image_dimension, width, recipe.dropout) if "images" in self.channels else None
        self.context = None
        if spec.context is not None:
            hidden = recipe.product_tower.context.hidden
            self.context = ContextEncoder(spec.context.width, spec.context.sizes, hidden, width, recipe.dropout)
        self.modality_dropout = [
            (rate, [n for n, channel in enumerate(self.channels) if MODALITIES.get(channel, channel) == modality])
            for modality, rate in recipe.product_tower.modality_dropout.model_dump().items()
            if rate
        ]

    def encode(self, inputs: Inputs) -> Channels:
        """See `Tower`; in training, modality dropout hides whole modalities of random rows (Que2Engage §2.1.4)."""
        channels = whole = super().encode(inputs)
        if self.training and self.modality_dropout:
            for rate, members in self.modality_dropout:
                gone_B = torch.rand(len(whole.present_BS), device=whole.present_BS.device) < rate
                channels = channels.without(members, gone_B)
            left_B1 = channels.present_BS.any(1, keepdim=True)  # a row of nothing would teach nothing
            channels = channels._replace(present_BS=torch.where(left_B1, channels.present_BS, whole.present_BS))
        return channels

    def encode_channel(self, channel: str, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """See `Tower`; inputs are those of `Featurizer.products`."""
        if channel == "images":
            assert self.images is not None
            return self.images(inputs["images"], inputs["image_mask"]), inputs["image_mask"].any(1)
        if channel == "context":
            assert self.context is not None
            numbers_BF, categories_BG = inputs["context_numbers"], inputs["context_categories"]
            return self.context(numbers_BF, categories_BG), self.context.any_known(numbers_BF, categories_BG)
        if channel in self.categories:
            return self.categories[channel](inputs[channel]), inputs[channel] != 0
        if channel in self.bags:
            return self.bags[channel](inputs[channel]), (inputs[channel] != 0).any(1)
        own = self.description_text if channel == "description_text" else None
        text = own or self.text
        assert text is not None
        return self.encode_text(text, inputs[TOKENS[channel]])

    def encode_text(self, encoder: TextEncoder, tokens_BL: Tensor) -> tuple[Tensor, Tensor]:
        """A text channel's vector, or its tokens' vectors."""
        return _text(encoder, tokens_BL)


class TwoTower(nn.Module):
    """Both towers; `query(inputs)` and `product(inputs)` are independent (late fusion).

    `head`, where there is one, classifies a product's unit vector into the queries that find it (§3.1.1). `threshold`,
    where it is learned, is the cosine above which an engagement is likely (`mercato.losses.engagement_bce`). `vision`,
    while an image encoder is fine-tuned, turns photos into what the product tower reads.
    """

    def __init__(
        self, query: QueryTower, product: ProductTower, head: nn.Linear | None = None, threshold: bool = False
    ) -> None:
        super().__init__()
        self.query, self.product, self.head = query, product, head
        self.threshold = nn.Parameter(torch.zeros(())) if threshold else None
        self.vision: Vision | None = None

    def text_encoders(self) -> list[TextEncoder]:
        """Every text encoder once."""
        found = (self.query.text, self.product.text, self.product.description_text)
        return list({id(encoder): encoder for encoder in found if encoder is not None}.values())

    def text_parameters(self) -> list[nn.Parameter]:
        """The transformers' own parameters, which learn at their own rate (§3.1, "varying XLM LR")."""
        return [parameter for encoder in self.text_encoders() for parameter in encoder.backbone.parameters()]


def _text(encoder: TextEncoder, tokens_BL: Tensor) -> tuple[Tensor, Tensor]:
    return encoder(tokens_BL), (tokens_BL != encoder.pad_id).any(1)
