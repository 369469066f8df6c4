"""Both towers from a recipe and the features they read."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PretrainedConfig

from mercato.config import Recipe
from mercato.models.que2search import ProductTower, QueryTower, TwoTower
from mercato.models.text_encoder import TextEncoder, build_backbone, pretrained_config, scratch_config
from mercato.text.features import FeatureSpec

TextConfigs = dict[str, PretrainedConfig]
"""The transformers' configurations by tower, "query" and "product"; a tower without text has none."""


def text_configs(recipe: Recipe, spec: FeatureSpec) -> TextConfigs:
    """The configuration of each tower's transformer, as the recipe wants it for a new run."""
    configs: TextConfigs = {}
    longest = {"query": spec.query_tokens, "product": spec.title_tokens + spec.description_tokens}
    towers = {"query": recipe.query_tower.text, "product": recipe.product_tower.text}
    for tower, encoder in towers.items():
        if not _reads_text(spec, tower):
            continue
        if recipe.text.pretrained is not None:
            configs[tower] = pretrained_config(recipe.text.pretrained, encoder.layers, longest[tower])
        else:
            positions = max(longest.values()) if recipe.text.shared else longest[tower]
            configs[tower] = scratch_config(encoder, spec.vocabulary, spec.pad_id, positions)
    return configs


def build_towers(recipe: Recipe, spec: FeatureSpec, configs: TextConfigs, new: bool = True) -> TwoTower:
    """Towers with fresh weights; `new` loads the pretrained encoders a recipe names (a saved run brings its own).

    Beside a pretrained encoder the other channels start at zero, so that training starts from what it already knows.
    """
    texts: dict[str, TextEncoder] = {}
    for tower, configuration in configs.items():
        encoder = recipe.query_tower.text if tower == "query" else recipe.product_tower.text
        if recipe.text.shared and texts:
            texts[tower] = next(iter(texts.values()))
            continue
        backbone = build_backbone(configuration, recipe.text.pretrained if new else None)
        texts[tower] = TextEncoder(
            backbone, spec.pad_id, encoder.pooling, recipe.dimension, recipe.text.pretrained is not None
        )
    towers = TwoTower(QueryTower(spec, recipe, texts.get("query")), ProductTower(spec, recipe, texts.get("product")))
    if recipe.text.pretrained is not None:
        _silence(towers)
    return towers


@torch.no_grad()
def _silence(towers: TwoTower) -> None:
    product = towers.product
    zeros: list[nn.Parameter] = [bag.weight for bag in [*product.bags.values(), *product.categories.values()]]  # type: ignore[misc]
    zeros += [part.weight for part in (towers.query.trigrams, towers.query.country) if part is not None]
    if product.images is not None:
        zeros += list(product.images.after.parameters())
    zeros += [*towers.query.fusion.parameters(), *product.fusion.parameters()]
    for parameter in zeros:
        parameter.zero_()


def _reads_text(spec: FeatureSpec, tower: str) -> bool:
    if tower == "query":
        return "text" in spec.query_channels
    return any(channel.endswith("text") for channel in spec.product_channels)
