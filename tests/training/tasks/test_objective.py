"""One forward pass, several losses: gradient caching, gradient blending and the head, held to what they stand for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mercato.config import Recipe, Stage
from mercato.data.market import Market
from mercato.errors import MercatoError
from mercato.losses.in_batch_softmax import in_batch_softmax
from mercato.losses.multi_label import multi_label
from mercato.models.build import build_towers, text_configs
from mercato.models.que2search import TwoTower
from mercato.training.blending import _Trial, estimate_blend
from mercato.training.data.prepare import Prepared, prepare
from mercato.training.tasks.modalities import MULTIMODAL, Modality, given_blend, modalities
from mercato.training.tasks.objective import HEAD, HEAD_SCALE, Objective, total
from tests.support.toys import make_market, products, toy_recipe

HEADED = toy_recipe("head.queries=4")
TITLE = Modality("product.title", "product", ("title_text", "title_trigrams"))
LANGUAGE = Modality("product.language", "product", ("language",))
WORDS = Modality("query.text", "query", ("text", "trigrams"))


@pytest.fixture(scope="module")
def prepared(toys: Market, tmp_path_factory) -> Prepared:
    return prepare(toys, HEADED, tmp_path_factory.mktemp("prepared"))


def towers(prepared: Prepared, recipe: Recipe = HEADED) -> TwoTower:
    torch.manual_seed(0)
    spec = prepared.featurizer.spec
    return build_towers(recipe, spec, text_configs(recipe, spec), len(prepared.head_queries))


def batch(prepared: Prepared, size: int = 16):
    return prepared.examples.batch(prepared.examples.engaged[:size])


def gradients(objective: Objective, model: TwoTower, data) -> tuple[float, list[torch.Tensor]]:
    model.zero_grad()
    loss = total(objective.losses(model, data))
    loss.backward()
    return loss.item(), [torch.zeros(1) if p.grad is None else p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("rows", [1, 5])
def test_a_batch_in_pieces_has_the_loss_and_gradients_of_the_whole(prepared, rows):
    model, data = towers(prepared).eval(), batch(prepared)  # no dropout: it is drawn piece by piece
    plain = Objective(Stage(), {MULTIMODAL: 1.0, TITLE: 0.5}, 0.1)
    pieces = Objective(Stage(micro_batch=rows), plain.blend, plain.head_weight)
    loss, expected = gradients(plain, model, data)
    again, found = gradients(pieces, model, data)
    assert again == pytest.approx(loss, rel=1e-6)
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-6)


def test_a_batch_in_pieces_holds_the_activations_of_one(prepared):
    def held(rows: int | None) -> int:
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
            Objective(Stage(micro_batch=rows)).losses(towers(prepared).train(), batch(prepared))
        return sum(kept)

    assert held(4) < held(None) / 4


def test_dropout_in_pieces_is_the_same_both_ways(prepared):
    """The second forward pass must drop what the first dropped, else the gradients are of another network."""
    model, data = towers(prepared).train(), batch(prepared)
    objective = Objective(Stage(micro_batch=4))
    torch.manual_seed(3)
    first = gradients(objective, model, data)
    torch.manual_seed(3)
    loss = total(objective.losses(model, data))
    torch.manual_seed(99)  # between the passes somebody else draws
    model.zero_grad()
    loss.backward()
    for one, parameter in zip(first[1], model.parameters(), strict=True):
        torch.testing.assert_close(torch.zeros(1) if parameter.grad is None else parameter.grad, one)


def test_blending_gives_each_modality_the_loss_it_would_have_alone(prepared):
    model, data = towers(prepared).eval(), batch(prepared)
    losses = Objective(Stage(), {MULTIMODAL: 2.0, TITLE: 0.5, WORDS: 0.25}).losses(model, data)
    assert {name: weight for name, (weight, _) in losses.items()} == {
        "multimodal": 2.0, "product.title": 0.5, "query.text": 0.25,
    }  # fmt: skip
    query, product = model.query(data.query)[0], model.product(data.product)[0]
    bare = dict(data.product)
    for name in ("description_tokens", "description_trigrams", "language", "country"):
        bare[name] = torch.zeros_like(bare[name])
    title = model.product(bare)[0]
    expected = in_batch_softmax(query[data.query_B] @ title[data.product_B].T, data.excluded_BC, 20.0)
    torch.testing.assert_close(losses["product.title"][1], expected)
    nowhere = dict(data.query) | {"country": torch.zeros_like(data.query["country"])}
    words = model.query(nowhere)[0]
    expected = in_batch_softmax(words[data.query_B] @ product[data.product_B].T, data.excluded_BC, 20.0)
    torch.testing.assert_close(losses["query.text"][1], expected)


def test_a_modality_learns_from_the_pairs_that_have_it(prepared):
    model, data = towers(prepared).eval(), batch(prepared)
    objective = Objective(Stage(), {MULTIMODAL: 1.0, TITLE: 1.0})
    lacking = data.product_B[0]
    for name in ("title_tokens", "title_trigrams"):
        data.product[name][lacking] = 0
    kept = (data.product_B != lacking).nonzero().squeeze(1)
    query, product = (
        model.query(data.query)[0],
        model.product.fuse(model.product.encode(data.product), TITLE.channels)[0],
    )
    cosine = query[data.query_B[kept]] @ product[data.product_B[kept]].T
    expected = in_batch_softmax(cosine, data.excluded_BC[kept][:, kept], 20.0)
    torch.testing.assert_close(objective.losses(model, data)[TITLE.name][1], expected)
    for name in ("title_tokens", "title_trigrams"):
        data.product[name][:] = 0
    assert objective.losses(model, data)[TITLE.name][1] == 0


def test_modalities_are_channels_or_fields():
    channels = {"query": ("text", "trigrams", "country"), "product": ("title_text", "title_trigrams", "images")}
    assert [m.name for m in modalities(channels, "group")] == [
        "query.text", "query.country", "product.title", "product.images",
    ]  # fmt: skip
    assert len(modalities(channels, "channel")) == 6
    alone = {"query": ("text", "trigrams"), "product": ("title_text",)}
    assert modalities(alone, "group") == []


def test_a_weight_for_what_is_no_modality_is_refused(prepared):
    recipe = toy_recipe("blending.weights={'product.smell' = 1.0}")
    with pytest.raises(MercatoError, match=r"product\.smell.*product\.title"):
        given_blend(recipe, prepared.featurizer.spec, recipe.blending.weights)


def test_the_head_is_taught_the_queries_of_each_product(prepared):
    assert len(prepared.head_queries) == 4
    model, data = towers(prepared).eval(), batch(prepared)
    weight, loss = Objective(Stage(), head_weight=0.3).losses(model, data)[HEAD]
    goods = np.unique(prepared.examples.product_N[prepared.examples.engaged[:16]])
    classes = prepared.examples.classes_PK[goods]
    logits = model.head(HEAD_SCALE * model.product(data.product)[0])
    assert weight == 0.3
    torch.testing.assert_close(loss, multi_label(logits, torch.from_numpy(classes)))
    assert HEAD not in Objective(Stage()).losses(model, data)


def test_estimated_weights_by_hand(prepared, monkeypatch):
    """(held before, seen before, held after, seen after): G = 4, 4, 1 and 0; O = 1, 2, the floor of .05 · 6, and 3."""
    told = {
        "multimodal": (6.0, 6.0, 2.0, 1.0),
        "product.title": (6.0, 6.0, 2.0, 0.0),
        "query.text": (6.0, 6.0, 5.0, 5.0),
        "product.language": (6.0, 6.0, 6.5, 3.5),
    }
    answers = {name: iter(losses) for name, losses in told.items()}
    monkeypatch.setattr(_Trial, "fit", lambda self, rows: None)
    monkeypatch.setattr(_Trial, "loss", lambda self, rows: next(answers[list(self.objective.blend)[-1].name]))
    recipe = toy_recipe("head.queries=4", "blending={}")
    blend = estimate_blend(towers(prepared), prepared.examples, recipe, [TITLE, WORDS, LANGUAGE])
    weights = {"multimodal": 4.0, "product.title": 1.0, "query.text": 1 / 0.3**2, "product.language": 0.0}
    scale = sum(weights.values())
    assert {m.name: w for m, w in blend.items()} == pytest.approx({n: w / scale for n, w in weights.items()})


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


@pytest.mark.parametrize(("number", "told"), [("price", False), ("age", True)])
def test_pairs_differ_by_age_only_where_the_context_reads_it(toys, tmp_path, number, told):
    channels = 'product_tower.channels=["title_text", "context"]'
    found = prepare(toys, toy_recipe(channels, f'product_tower.context.numbers=["{number}"]'), tmp_path)
    assert (found.examples.days_N is not None) == told
