"""Que2Search's two towers (Liu et al., KDD 2021, §3.1 and Figure 2).

Shapes: B batch, N channels, D the shared dimension.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mercato import config
from mercato.models.bags import Category, TrigramBag
from mercato.models.fusion import AttentionFusion
from mercato.models.image_set import ImageSet
from mercato.models.text_encoder import TextEncoder
from mercato.text.features import FeatureSpec

Inputs = dict[str, Tensor]

TOKENS = {"text": "text_tokens", "title_text": "title_tokens", "description_text": "description_tokens"}


class QueryTower(nn.Module):
    """Trigram bag, searcher's country and text encoder, fused by attention → unit vectors."""

    def __init__(self, spec: FeatureSpec, recipe: config.Recipe, text: TextEncoder | None) -> None:
        super().__init__()
        self.channels = spec.query_channels
        self.text = text
        self.trigrams = TrigramBag(spec.buckets, recipe.dimension) if "trigrams" in self.channels else None
        self.country = Category(len(spec.countries), recipe.dimension) if "country" in self.channels else None
        self.dropout = nn.Dropout(recipe.dropout)
        self.fusion = AttentionFusion(len(self.channels), recipe.dimension)

    def forward(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """`Featurizer.queries` as tensors → unit vectors (B, D), attention weights (B, N) in channel order."""
        vectors, present = [], []
        for channel in self.channels:
            if channel == "text":
                assert self.text is not None
                vectors.append(self.text(inputs["tokens"]))
                present.append((inputs["tokens"] != self.text.pad_id).any(1))
            elif channel == "trigrams":
                assert self.trigrams is not None
                vectors.append(self.trigrams(inputs["trigrams"]))
                present.append((inputs["trigrams"] != 0).any(1))
            else:
                assert self.country is not None
                vectors.append(self.country(inputs["country"]))
                present.append(inputs["country"] != 0)
        return _fuse(self.fusion, self.dropout, vectors, present)


class ProductTower(nn.Module):
    """One text encoder for title and description, trigram bags, language, country, photos; fused by attention."""

    def __init__(self, spec: FeatureSpec, recipe: config.Recipe, text: TextEncoder | None) -> None:
        super().__init__()
        self.channels = spec.product_channels
        self.text = text
        dimension = recipe.dimension
        self.bags = nn.ModuleDict(
            {channel: TrigramBag(spec.buckets, dimension) for channel in self.channels if channel.endswith("trigrams")}
        )
        sizes = {"language": len(spec.languages), "country": len(spec.countries)}
        self.categories = nn.ModuleDict(
            {channel: Category(sizes[channel], dimension) for channel in self.channels if channel in sizes}
        )
        self.images = ImageSet(spec.image_dimension, dimension, recipe.dropout) if "images" in self.channels else None
        self.dropout = nn.Dropout(recipe.dropout)
        self.fusion = AttentionFusion(len(self.channels), dimension)

    def forward(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """`Featurizer.products` as tensors → unit vectors (B, D), attention weights (B, N) in channel order."""
        vectors, present = [], []
        for channel in self.channels:
            if channel == "images":
                assert self.images is not None
                vectors.append(self.images(inputs["images"], inputs["image_mask"]))
                present.append(inputs["image_mask"].any(1))
            elif channel in self.categories:
                vectors.append(self.categories[channel](inputs[channel]))
                present.append(inputs[channel] != 0)
            elif channel in self.bags:
                vectors.append(self.bags[channel](inputs[channel]))
                present.append((inputs[channel] != 0).any(1))
            else:
                assert self.text is not None
                tokens = inputs[TOKENS[channel]]
                vectors.append(self.text(tokens))
                present.append((tokens != self.text.pad_id).any(1))
        return _fuse(self.fusion, self.dropout, vectors, present)


class TwoTower(nn.Module):
    """Both towers; `query(inputs)` and `product(inputs)` are independent (late fusion)."""

    def __init__(self, query: QueryTower, product: ProductTower) -> None:
        super().__init__()
        self.query, self.product = query, product

    def text_parameters(self) -> list[nn.Parameter]:
        """The transformers' own parameters, which learn at their own rate (§3.1, "varying XLM LR")."""
        found = {
            id(p): p
            for tower in (self.query, self.product)
            if tower.text is not None
            for p in tower.text.backbone.parameters()
        }
        return list(found.values())


def _fuse(
    fusion: AttentionFusion, dropout: nn.Dropout, vectors: list[Tensor], present: list[Tensor]
) -> tuple[Tensor, Tensor]:
    fused_BD, weights_BN = fusion(dropout(torch.stack(vectors, 1)), torch.stack(present, 1))
    return F.normalize(fused_BD, dim=-1), weights_BN
