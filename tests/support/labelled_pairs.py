"""A handful of query–product pairs as feature tables, and untrained towers that read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from mercato.features.featurizer import FeatureSpec, Featurizer
from mercato.features.tokenizer import train_tokenizer
from mercato.models.build import build_towers, text_configs
from mercato.models.tower import TwoTower
from mercato.training.data.batches import Examples, FeatureTables
from tests.support.toys import toy_recipe

WORDS = ["red sofa", "blue chair with a long name", "x", "wooden table", "lamp"]
SPEC = FeatureSpec(
    query_channels=("text", "trigrams"),
    product_channels=("title_text", "title_trigrams", "description_text", "images"),
    pad_id=0, vocabulary=80, buckets=99, query_tokens=8, query_characters=20, title_tokens=8, description_tokens=8,
    countries=(), languages=(), max_images=2, image_dimension=3,
)  # fmt: skip


def word_tables() -> FeatureTables:
    """Query i is WORDS[i], product i says it in title and description and has one image or two."""
    featurizer = Featurizer(SPEC, train_tokenizer(WORDS, 80))
    products = [{"title": f"{word} new", "description": word} for word in WORDS]
    images = [np.full((1 + i % 2, 3), float(i), np.float32) for i in range(5)]
    queries = featurizer.queries(WORDS, [None] * 5)
    return FeatureTables(queries=queries, products=featurizer.products(products, images), spec=SPEC)


def word_examples(
    tables: FeatureTables,
    engaged: Sequence[tuple[int, int]],
    unengaged: Sequence[tuple[int, int]] = (),
    **fields: Any,
) -> Examples:
    """(query, product) pairs of the tables, the unengaged ones last."""
    query, product = np.array([*engaged, *unengaged]).T
    engaged_N = np.arange(len(query)) < len(engaged)
    given = {"grade_N": engaged_N.astype(np.float32), "engaged_N": engaged_N} | fields
    return Examples(tables=tables, query_N=query, product_N=product, **given)


def word_towers(threshold: bool = False) -> TwoTower:
    """Towers for the tables, always the same; `threshold`: with the engagement task's learned one."""
    stage = ["stages.0.engagement_weight=1", "stages.0.engagement_bias=true"] if threshold else []
    channels = [
        f"query_tower.channels={list(SPEC.query_channels)}",
        f"product_tower.channels={list(SPEC.product_channels)}",
    ]
    recipe = toy_recipe(*channels, *stage)
    torch.manual_seed(0)
    return build_towers(recipe, SPEC, text_configs(recipe, SPEC)).eval()
