"""Gradient blending (Que2Search §3.6, Eq. 6): a stage's loss for each modality of one tower, the other tower whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mercato.config import Recipe
from mercato.errors import MercatoError
from mercato.features.featurizer import FeatureSpec
from mercato.training.task import Losses
from mercato.training.tasks.modalities import MULTIMODAL, Modality, modalities
from mercato.training.tasks.pairs import EncodedPairs
from mercato.training.tasks.relevance import RelevanceLoss

Blend = Mapping[Modality, float]
"""The weight of each modality's loss, and of `MULTIMODAL`, both towers whole; empty: no blending."""


@dataclass(frozen=True, kw_only=True)
class ModalityLosses:
    """The M losses of single modalities; that of both whole towers is `Relevance`'s.

    They share the encoders' one pass: only the fusions run again, each as if the other modalities were missing from
    every row, and over the pairs that have the modality at all.
    """

    loss: RelevanceLoss
    weight: float  # of all of them
    blend: Blend

    def losses(self, pairs: EncodedPairs) -> Losses:
        """A loss for each modality that weighs something."""
        wanted = {modality: weight for modality, weight in self.blend.items() if modality != MULTIMODAL and weight}
        found: Losses = {}
        for modality, weight in wanted.items():
            side = ("query", "product").index(modality.tower)
            tower = (pairs.towers.query, pairs.towers.product)[side]
            channels = (pairs.query, pairs.product)[side]
            with pairs.precision(half=True):  # a fusion, as that of the whole towers
                alone = tower.fuse(channels, only=modality.channels)[0]
            has = channels.has(tower.channels.index(name) for name in modality.channels)
            rows = has[(pairs.batch.query_B, pairs.batch.product_B)[side]].nonzero().squeeze(1)
            vectors = (alone, pairs.product_MD) if side == 0 else (pairs.query_QD, alone)
            loss = self.loss(*vectors, pairs.batch.only(rows)) if len(rows) else vectors[0].sum() * 0
            found[modality.name] = (self.weight * weight, loss)
        return found


def given_blend(recipe: Recipe, spec: FeatureSpec, weights: Mapping[str, float]) -> dict[Modality, float]:
    """The weights that a recipe gives, by modality; a modality that the market does not have (no images) drops out.

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
