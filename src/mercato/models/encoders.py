"""Channel encoders by kind. Text encoders, which channels and towers may share, are built in `mercato.models.build`."""

from __future__ import annotations

from collections.abc import Callable

from mercato.config import Recipe
from mercato.features.featurizer import FeatureSpec
from mercato.fields import QUERY_CHANNELS, Channel, ChannelKind
from mercato.models.bags import Category, TrigramBag
from mercato.models.channels import ChannelEncoder
from mercato.models.context_encoder import ContextEncoder
from mercato.models.ids import IdEmbeddings
from mercato.models.image_set import ImageSet
from mercato.models.patches import PatchEncoder

Builder = Callable[[Channel, FeatureSpec, Recipe, int], ChannelEncoder]


def _trigrams(channel: Channel, spec: FeatureSpec, recipe: Recipe, width: int) -> TrigramBag:
    return TrigramBag(spec.buckets, width)


def _category(channel: Channel, spec: FeatureSpec, recipe: Recipe, width: int) -> Category:
    (feature,) = channel.features
    return Category(len(spec.categories[feature.name]), width)


def _images(channel: Channel, spec: FeatureSpec, recipe: Recipe, width: int) -> ImageSet:
    return ImageSet(spec.image_dimension, width, recipe.dropout)


def _patches(channel: Channel, spec: FeatureSpec, recipe: Recipe, width: int) -> PatchEncoder:
    return PatchEncoder(spec.image_patches, spec.image_dimension, width)


def _context(channel: Channel, spec: FeatureSpec, recipe: Recipe, width: int) -> ContextEncoder:
    assert spec.context is not None
    hidden = recipe.product_tower.context.hidden
    return ContextEncoder(spec.context.width, spec.context.sizes, hidden, width, recipe.dropout)


def _ids(channel: Channel, spec: FeatureSpec, recipe: Recipe, width: int) -> IdEmbeddings:
    of_queries = channel is QUERY_CHANNELS["ids"]
    buckets = [spec.query_ids] if of_queries else [count for _, count in spec.product_ids]
    return IdEmbeddings(buckets, recipe.dimension)  # late fusions are as wide, and others do not read it


ENCODERS: dict[ChannelKind, Builder] = {
    "trigrams": _trigrams,
    "category": _category,
    "images": _images,
    "patches": _patches,
    "context": _context,
    "ids": _ids,
}
"""From a channel, the spec, the recipe and the width E of the vectors that the tower's fusion reads."""
