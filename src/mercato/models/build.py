"""The two towers of a recipe, for the features they read."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PretrainedConfig

from mercato.config import Recipe
from mercato.errors import MercatoError
from mercato.features.featurizer import FeatureSpec
from mercato.fields import PRODUCT_CHANNELS, QUERY_CHANNELS
from mercato.models.bags import TrigramBag
from mercato.models.fusion import late_fusion
from mercato.models.packed import can_pack
from mercato.models.que2engage import FusedProductTower
from mercato.models.que2search import ProductTower, QueryTower
from mercato.models.recall import fused_channels
from mercato.models.taobao import PretrainingTowers
from mercato.models.text_encoder import INIT_SCALE, TextEncoder, build_backbone, pretrained_config, scratch_config
from mercato.models.tower import TwoTower

TextConfigs = dict[str, PretrainedConfig]
"""The transformers' configurations by tower, "query" and "product"; a tower without text has none."""


def text_configs(recipe: Recipe, spec: FeatureSpec) -> TextConfigs:
    """The configuration of each tower's transformer, as the recipe wants it for a new run."""
    configs: TextConfigs = {}
    longest = {"query": spec.query_tokens, "product": spec.title_tokens + spec.description_tokens}
    towers = {"query": recipe.query_tower.text, "product": recipe.product_tower.text}
    for tower, encoder in towers.items():
        fuses = tower == "product" and recipe.product_tower.fusion == "transformer"
        if not fuses and not _reads_text(spec, tower):
            continue
        if recipe.text.pretrained is not None:
            configs[tower] = pretrained_config(recipe.text.pretrained, encoder, longest[tower])
        else:
            positions = max(longest.values()) if recipe.text.shared else longest[tower]
            configs[tower] = scratch_config(encoder, spec.vocabulary, spec.pad_id, positions)
    return configs


def build_towers(
    recipe: Recipe, spec: FeatureSpec, configs: TextConfigs, queries: int = 0, new: bool = True, unread: int = 0
) -> TwoTower:
    """Towers with fresh weights, and a classification head over that many `queries` (0: none).

    `new` loads the pretrained encoders that a recipe names (a saved run brings its own). Beside a pretrained encoder
    the other channels start at zero, so that training starts from what it already knows.
    """

    def encoder(tower: str) -> TextEncoder | None:
        if tower not in configs:
            return None
        pooling = (recipe.query_tower if tower == "query" else recipe.product_tower).text.pooling
        backbone = build_backbone(configs[tower], recipe.text.pretrained if new else None)
        return TextEncoder(backbone, spec.pad_id, pooling, recipe.dimension)

    query_text = encoder("query")
    product_text = query_text if recipe.text.shared and query_text and "product" in configs else encoder("product")
    fields = {"title_text", "description_text"} & set(spec.product_channels)
    of_its_own = len(fields) == 2 and not recipe.product_tower.shared_text
    kind = recipe.product_tower.fusion
    query = QueryTower(spec, recipe, query_text)
    product: ProductTower
    if kind == "transformer":
        assert product_text is not None
        if not can_pack(product_text.backbone):
            name = type(product_text.backbone).__name__
            raise MercatoError(f"product_tower.fusion: the layers of a {name} cannot fuse; BERT's and XLM-R's kind can")
        product = FusedProductTower(spec, recipe, product_text, unread)
    else:
        fused = fused_channels(recipe, kind, spec.product_channels)
        fusion = late_fusion(kind, len(fused), recipe.dimension)
        description_text = encoder("product") if of_its_own else None
        product = ProductTower(spec, recipe, fusion, recipe.dimension, product_text, description_text)
    towers = TwoTower(
        query,
        product,
        nn.Linear(recipe.dimension, queries) if queries else None,
        threshold=any(stage.learns_threshold for stage in recipe.pair_stages),
    )
    if recipe.text.pretrained is not None:
        towers.query.zero_init()
        towers.product.zero_init()
        for text in towers.text_encoders() if recipe.text.frozen else ():
            text.freeze(recipe.text.frozen)
    else:
        _shared_vocabulary_init(towers)
    return towers


def build_pretraining_towers(
    recipe: Recipe, spec: FeatureSpec, configs: TextConfigs, new: bool = True, unread: int = 0
) -> PretrainingTowers:
    """The towers of a recipe that pretraining made of another (`mercato.training.pretrain`), with its heads.

    `unread`: how many channels of that one's item tower are not pretrained, and stand in the sequence as zeros.
    """
    stage, base = recipe.pretraining, build_towers(recipe, spec, configs, new=new, unread=unread)
    assert stage is not None and isinstance(base.product, FusedProductTower)
    outputs = stage.mpm.codes if spec.image_dimension and stage.mpm.target == "codebook" else spec.image_dimension
    return PretrainingTowers(base.query, base.product, stage.cross_layers, outputs)


@torch.no_grad()
def _shared_vocabulary_init(towers: TwoTower) -> None:
    """Bag-of-words init: every encoder from scratch has the same random vector for the same word or trigram.

    An untrained query then already lies near the products that share its words. Towers that start apart have an easier
    way down than learning: at s = 20 their random cosines cost more than ln B, the price of making all vectors alike,
    and the transformers collapse (demo market, text channel alone: two products' mean cosine .999 after 20 steps, and a
    guess's loss for as long as one waits; with shared vectors it learns from the first step).
    """
    texts = towers.text_encoders()
    for text in texts:
        text.projection.weight.mul_(INIT_SCALE)
        text.bag_of_words_init(texts[0])
    bags = [part for part in towers.modules() if isinstance(part, TrigramBag)]
    for bag in bags:
        bag.weight.copy_(next(like.weight for like in bags if like.weight.shape == bag.weight.shape))


def _reads_text(spec: FeatureSpec, tower: str) -> bool:
    if tower == "query":
        return any(QUERY_CHANNELS[channel].kind == "text" for channel in spec.query_channels)
    return any(PRODUCT_CHANNELS[channel].kind == "text" for channel in spec.product_channels)
