"""Que2Search's two towers (Liu et al., KDD 2021, §3.1 and Figure 2).

Shapes: B batch, N channels, D the shared dimension.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mercato import config
from mercato.models.bags import Category, TrigramBag
from mercato.models.fusion import build_fusion
from mercato.models.image_set import ImageSet
from mercato.models.text_encoder import TextEncoder
from mercato.text.features import FeatureSpec

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
TOKENS = {"text": "text_tokens", "title_text": "title_tokens", "description_text": "description_tokens"}


def fields_of(channels: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """A tower's channels by the field that they read: title_text and title_trigrams are the title."""
    found: dict[str, tuple[str, ...]] = {}
    for channel in channels:
        field = GROUPS.get(channel, channel)
        found[field] = (*found.get(field, ()), channel)
    return found


class Channels(NamedTuple):
    """What a tower's encoders make of a batch, before fusion."""

    vectors_BND: Tensor
    present_BN: Tensor  # bool


class Tower(nn.Module, ABC):
    """Encoders, one a channel, fused into a unit vector. A subclass names its encoders."""

    channels: tuple[str, ...]
    text: TextEncoder | None  # None where no channel is text

    def __init__(self, channels: tuple[str, ...], recipe: config.Recipe) -> None:
        super().__init__()
        self.channels = channels
        self.dropout = nn.Dropout(recipe.dropout)
        self.fusion = build_fusion(recipe.fusion, len(channels), recipe.dimension)

    def forward(self, inputs: Inputs) -> tuple[Tensor, Tensor | None]:
        """Features as tensors → unit vectors (B, D) and attention weights (B, N), None for a fusion that has none."""
        return self.fuse(self.encode(inputs))

    def encode(self, inputs: Inputs) -> Channels:
        """Features as tensors → every channel's own vector."""
        encoded = [self.encode_channel(channel, inputs) for channel in self.channels]
        return Channels(
            self.dropout(torch.stack([vector for vector, _ in encoded], 1)),
            torch.stack([present for _, present in encoded], 1),
        )

    def fuse(self, channels: Channels, only: Collection[str] | None = None) -> tuple[Tensor, Tensor | None]:
        """As `forward`, from encoded channels; with `only`, as if those were all that the row has."""
        vectors_BND, present_BN = channels
        if only is not None:
            chosen_N = [channel in only for channel in self.channels]
            present_BN = present_BN & torch.tensor(chosen_N, device=present_BN.device)
        fused_BD, weights_BN = self.fusion(vectors_BND, present_BN)
        return F.normalize(fused_BD, dim=-1), weights_BN

    @abstractmethod
    def encode_channel(self, channel: str, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """One channel's vector (B, D) and whether the row has it, (B,) bool."""


class QueryTower(Tower):
    """Trigram bag, searcher's country and text encoder."""

    def __init__(self, spec: FeatureSpec, recipe: config.Recipe, text: TextEncoder | None) -> None:
        super().__init__(spec.query_channels, recipe)
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
    """Text of title and description, their trigram bags, language, country, photos.

    One text encoder reads title and description (§3.1), unless `description_text` brings another for the latter.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        recipe: config.Recipe,
        text: TextEncoder | None,
        description_text: TextEncoder | None = None,
    ) -> None:
        super().__init__(spec.product_channels, recipe)
        self.text, self.description_text = text, description_text
        dimension = recipe.dimension
        self.bags = nn.ModuleDict(
            {channel: TrigramBag(spec.buckets, dimension) for channel in self.channels if channel.endswith("trigrams")}
        )
        sizes = {"language": len(spec.languages), "country": len(spec.countries)}
        self.categories = nn.ModuleDict(
            {channel: Category(sizes[channel], dimension) for channel in self.channels if channel in sizes}
        )
        self.images = ImageSet(spec.image_dimension, dimension, recipe.dropout) if "images" in self.channels else None

    def encode_channel(self, channel: str, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """See `Tower`; inputs are those of `Featurizer.products`."""
        if channel == "images":
            assert self.images is not None
            return self.images(inputs["images"], inputs["image_mask"]), inputs["image_mask"].any(1)
        if channel in self.categories:
            return self.categories[channel](inputs[channel]), inputs[channel] != 0
        if channel in self.bags:
            return self.bags[channel](inputs[channel]), (inputs[channel] != 0).any(1)
        own = self.description_text if channel == "description_text" else None
        text = own or self.text
        assert text is not None
        return _text(text, inputs[TOKENS[channel]])


class TwoTower(nn.Module):
    """Both towers; `query(inputs)` and `product(inputs)` are independent (late fusion).

    `head`, where there is one, classifies a product's unit vector into the queries that find it (§3.1.1).
    """

    def __init__(self, query: QueryTower, product: ProductTower, head: nn.Linear | None = None) -> None:
        super().__init__()
        self.query, self.product, self.head = query, product, head

    def text_encoders(self) -> list[TextEncoder]:
        """Every text encoder once."""
        found = (self.query.text, self.product.text, self.product.description_text)
        return list({id(encoder): encoder for encoder in found if encoder is not None}.values())

    def text_parameters(self) -> list[nn.Parameter]:
        """The transformers' own parameters, which learn at their own rate (§3.1, "varying XLM LR")."""
        return [parameter for encoder in self.text_encoders() for parameter in encoder.backbone.parameters()]


def _text(encoder: TextEncoder, tokens_BL: Tensor) -> tuple[Tensor, Tensor]:
    return encoder(tokens_BL), (tokens_BL != encoder.pad_id).any(1)
