"""Blending weights by short trials: G / O² of each loss."""

from __future__ import annotations

import pytest
import torch

from mercato.errors import MercatoError
from mercato.training import blending
from mercato.training.blending import Trial, blend_weights, estimate_blend
from mercato.training.data.prepare import prepare
from mercato.training.task import total
from tests.support.tasks import LANGUAGE, TITLE, WORDS, towers
from tests.support.toys import make_market, pairs, products, toy_recipe


@pytest.mark.parametrize(
    ("trial", "weight"),
    [
        (Trial(6.0, 6.0, 2.0, 1.0), 4.0),  # G = 4, O = 1
        (Trial(6.0, 6.0, 2.0, 0.0), 1.0),  # O = 2
        (Trial(6.0, 6.0, 5.0, 5.0), 1 / 0.3**2),  # O = 0: the floor of .05 · 6
        (Trial(6.0, 6.0, 6.5, 3.5), 0.0),  # nothing gained
        (Trial(0.0, 0.0, 0.0, 0.0), 0.0),  # no pair has the modality
    ],
)
def test_the_weight_of_a_trial_by_hand(trial, weight):
    assert trial.weight == pytest.approx(weight)


def test_weights_add_up_to_one():
    blend = blend_weights({TITLE: Trial(6.0, 6.0, 2.0, 1.0), WORDS: Trial(6.0, 6.0, 2.0, 0.0)})
    assert blend == {TITLE: pytest.approx(0.8), WORDS: pytest.approx(0.2)}


def test_an_estimate_is_the_same_again_and_ignores_what_no_product_has(tmp_path):
    goods = [product | {"language": None} for product in products(240)]
    recipe = toy_recipe("head.queries=4", "blending={epochs=2}")
    prepared = prepare(make_market(tmp_path / "market", goods), recipe, tmp_path)
    start = towers(prepared)
    before = {name: value.clone() for name, value in start.state_dict().items()}
    blend = [estimate_blend(start, prepared.examples, recipe, [TITLE, LANGUAGE]) for _ in range(2)]
    assert blend[0] == blend[1] and blend[0][LANGUAGE] == 0 < blend[0][TITLE]
    assert sum(blend[0].values()) == pytest.approx(1)
    assert all(torch.equal(value, before[name]) for name, value in start.state_dict().items())


def test_nothing_to_estimate_from_is_said(prepared):
    still = toy_recipe("stages.0.learning_rate=1e-12", "stages.0.text_learning_rate=1e-12", "blending={}")
    with pytest.raises(MercatoError, match=r"blending\.weights: no trial lowered the loss"):
        estimate_blend(towers(prepared).eval(), prepared.examples, still, [LANGUAGE])


def test_a_modalitys_trial_learns_its_own_loss_and_the_multimodal_one_all_of_the_stage(monkeypatch, tmp_path):
    """Else λ₂ and the head would be counted in every weight."""
    links = [row for row in pairs(products()) if row["label"]]
    links += [
        row | {"query": "reloj", "label": 0} for row in links if row["query"] == "mesa" and row["split"] == "train"
    ]
    recipe = toy_recipe(
        "head.queries=4", "blending={}", "stages.0.engagement_weight=0.2", "stages.0.relevance_weight=.8"
    )
    prepared = prepare(make_market(tmp_path / "market", links=links), recipe, tmp_path)
    seen: list[dict[str, float]] = []

    def look(losses):
        seen.append({name: weight for name, (weight, _) in losses.items()})
        return total(losses)

    monkeypatch.setattr(blending, "total", look)
    estimate_blend(towers(prepared, recipe), prepared.examples, recipe, [TITLE, WORDS])
    kinds = {tuple(losses.items()) for losses in seen}
    whole = (("relevance", 0.8), ("engagement", 0.2), ("head", 0.1))
    assert kinds == {whole, (("product.title", 0.8),), (("query.text", 0.8),)}
