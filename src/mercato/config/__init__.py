"""The recipe: one TOML a run, validated and frozen; every number of a paper is a value here."""

from mercato.config.base import Frozen
from mercato.config.recipe import (
    Blending,
    CataloguePairs,
    Head,
    Images,
    Pairs,
    Recipe,
    Text,
    Trigrams,
    load_recipe,
    shipped_folder,
)
from mercato.config.stages import Stage
from mercato.config.towers import Context, LateFusion, ModalityDropout, ProductTower, QueryTower, TextEncoder

__all__ = [
    "Blending",
    "CataloguePairs",
    "Context",
    "Frozen",
    "Head",
    "Images",
    "LateFusion",
    "ModalityDropout",
    "Pairs",
    "ProductTower",
    "QueryTower",
    "Recipe",
    "Stage",
    "Text",
    "TextEncoder",
    "Trigrams",
    "load_recipe",
    "shipped_folder",
]
