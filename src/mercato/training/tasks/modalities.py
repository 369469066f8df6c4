"""The modalities that gradient blending balances (Que2Search §3.6): single channels, or the channels of one field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from mercato.config import Recipe
from mercato.errors import MercatoError
from mercato.features.featurizer import FeatureSpec
from mercato.models.que2search import fields_of

TowerName = Literal["query", "product"]


class Modality(NamedTuple):
    """Channels of one tower that come and go together."""

    name: str
    tower: TowerName | Literal["both"]
    channels: tuple[str, ...]


MULTIMODAL = Modality("multimodal", "both", ())


def modalities(towers: Mapping[TowerName, tuple[str, ...]], by: Literal["channel", "group"]) -> list[Modality]:
    """Every modality of both towers, from their channels; a tower with a single one has none: alone it is the tower."""
    found = []
    for tower, channels in towers.items():
        groups: dict[str, tuple[str, ...]] = (
            {channel: (channel,) for channel in channels} if by == "channel" else fields_of(channels)
        )
        if len(groups) > 1:
            found += [Modality(f"{tower}.{name}", tower, members) for name, members in groups.items()]
    return found


def given_blend(recipe: Recipe, spec: FeatureSpec, weights: Mapping[str, float]) -> dict[Modality, float]:
    """The weights that a recipe gives, by modality; a modality that the market does not have (no photos) drops out.

    Raises:
        MercatoError: a name is none of the recipe's modalities.
    """
    assert recipe.blending is not None
    by = recipe.blending.by
    wanted = modalities({"query": recipe.query_tower.channels, "product": recipe.product_tower.channels}, by)
    names = [MULTIMODAL.name, *(modality.name for modality in wanted)]
    if unknown := set(weights) - set(names):
        raise MercatoError(f"blending.weights: {sorted(unknown)[0]!r} is none of {', '.join(names)}")
    there = {m.name: m for m in modalities({"query": spec.query_channels, "product": spec.product_channels}, by)}
    return {MULTIMODAL: weights.get(MULTIMODAL.name, 1.0)} | {
        modality: weights[name] for name, modality in there.items() if weights.get(name)
    }
