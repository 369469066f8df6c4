"""The recall task: content stays as it is, and a joined vector learns against the whole catalogue."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mercato.config import Recipe
from mercato.data.market import Market
from mercato.models.tower import TwoTower
from mercato.runs.torch_encoder import load
from mercato.training.data.prepare import Prepared, prepare
from mercato.training.data.recall import RecallBatch
from mercato.training.optimizer import adam
from mercato.training.task import total
from mercato.training.tasks.build import build_task
from mercato.training.tasks.recall import Recall
from mercato.training.train import train
from tests.support.tasks import towers
from tests.support.toys import make_market, pairs, products, toy_recipe

STAGE = 'loss = "sampled_softmax", batch_size = 16, epochs = 4, learning_rate = 1e-2'


def recipe(more: str = "", *changes: str) -> Recipe:
    return toy_recipe(
        'query_tower.channels=["text", "ids"]',
        "query_tower.id_dropout=0.3",
        "query_tower.ids.least=1",
        'product_tower.channels=["title_text", "ids", "description_text"]',
        'product_tower.fusion="transformer"',
        'product_tower.ids={ fields = ["product_id", "seller_id"], product_buckets = 97, buckets = 31, least = 1 }',
        "product_tower.modality_dropout.ids=0.3",
        f"stages=[{{ batch_size = 16, epochs = 1 }}, {{ {STAGE}{more} }}]",
        *changes,
    )


@pytest.fixture(scope="module")
def sold(tmp_path_factory: pytest.TempPathFactory) -> Market:
    goods = [product | {"seller_id": f"s{i % 5}"} for i, product in enumerate(products())]
    return make_market(Path(tmp_path_factory.mktemp("sold")) / "market", goods)


@pytest.fixture(scope="module")
def ready(sold: Market, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(sold, recipe(), tmp_path_factory.mktemp("ready"))


def task_of(ready: Prepared, of: Recipe) -> Recall:
    found = build_task(of.stages[1], recipe=of, prepared=ready, blend={}, seed=5)
    assert isinstance(found, Recall)
    return found


def without_dropout(of: Recipe) -> Recipe:
    changes = {"query_tower": {"id_dropout": 0.0}, "product_tower": {"modality_dropout": {"ids": 0.0}}}
    dumped = of.model_dump()
    return Recipe.model_validate(dumped | {tower: dumped[tower] | changed for tower, changed in changes.items()})


def filled(model: TwoTower) -> TwoTower:
    """Towers whose ID embeddings hold something."""
    torch.manual_seed(1)
    with torch.no_grad():
        for tower in (model.query, model.product):
            for table in tower.ids.tables:
                table.weight[1:].normal_(std=0.3)
    return model


def first(task: Recall) -> RecallBatch:
    return next(iter(task.batches))


def test_against_all_products_it_is_the_full_softmax_without_known_positives(ready):
    of = without_dropout(recipe())
    task, model = task_of(ready, of), filled(towers(ready, of))
    batch = first(task)
    tables, examples = ready.tables, ready.examples
    everything = np.arange(len(ready.learnable))
    found = float(task.losses(model, batch)["relevance"][1].detach())
    with torch.no_grad():
        model.eval()
        query_QD = model.query(tables.query_inputs(np.arange(len(tables.queries["tokens"]))))[0]
        product_MD = model.product(tables.product_inputs(everything))[0]
        logits = 20.0 * query_QD[batch.query_B] @ product_MD.T
    for row, (query, own) in enumerate(zip(batch.query_B.tolist(), batch.product_B.tolist(), strict=True)):
        positives = examples.product_N[examples.engaged][examples.query_N[examples.engaged] == query]
        logits[row, [other for other in positives.tolist() if other != own]] = -math.inf
    assert found == pytest.approx(float(F.cross_entropy(logits, batch.product_B)), rel=1e-4)


@pytest.mark.parametrize("negatives", ['"all"', "40"])
def test_in_chunks_loss_and_gradients_are_the_same_under_dropout(ready, negatives):
    results = []
    for chunk in (5, 999):
        of = recipe(f", negatives = {negatives}, micro_batch = {chunk}")
        task, model = task_of(ready, of), filled(towers(ready, of))
        torch.manual_seed(7)
        loss = total(task.losses(model, first(task)))
        loss.backward()
        gradients = {n: p.grad.to_dense() for n, p in model.named_parameters() if p.grad is not None}
        results.append({"loss": loss.detach(), "scale": task.log_scale.grad} | gradients)
    assert {name.split(".")[1] for name in results[0].keys() - {"loss", "scale"}} == {"join", "ids"}
    torch.testing.assert_close(results[0], results[1], atol=1e-6, rtol=1e-4)


def test_a_sample_is_corrected_by_what_is_drawn_and_what_the_batches_bring(ready, monkeypatch):
    of = without_dropout(recipe(", negatives = 30, popularity_share = 0.5, frequency_rate = 0.5"))
    task, model, seen = task_of(ready, of), towers(ready, of), {}
    monkeypatch.setattr(
        "mercato.training.tasks.recall.log_sum",
        lambda query_BD, _, *, log_q_J, **more: seen.update(log_q_J=log_q_J) or query_BD.sum(1),
    )
    gap = len(set(ready.examples.product_N[ready.examples.engaged])) / 16
    last, gaps = dict[int, int](), dict[int, float]()
    for step, batch in enumerate(task.batches, 1):
        task.losses(model, batch)
        for product in set(batch.product_B.tolist()):
            gaps[product] = 0.5 * gaps.get(product, gap) + 0.5 * (step - last.get(product, 0))
            last[product] = step
        expected = [
            drawn + (1 / max(1, gaps[product]) if product in gaps else 0)
            for product, drawn in zip(batch.column_J.tolist(), batch.drawn_J.tolist(), strict=True)
        ]
        np.testing.assert_allclose(seen["log_q_J"].exp(), expected, rtol=1e-5)


def test_what_a_country_s_batches_bring_is_estimated_of_them_alone(ready, monkeypatch):
    """A country has half of the batches: how often one of them holds a product is twice how often any does."""
    of = without_dropout(recipe(', negatives = 30, batches = "by_country"'))
    examples = ready.examples
    halves = np.zeros(len(examples), np.int64)
    order = examples.engaged[np.argsort(examples.query_N[examples.engaged], kind="stable")]
    halves[order[: len(order) // 2]], halves[order[len(order) // 2 :]] = 1, 2
    of_product = np.full(len(examples.tables.products["title_tokens"]), 2)
    of_product[examples.product_N[order[: len(order) // 2]]] = 1
    apart = replace(ready, examples=replace(examples, country_N=halves, country_M=of_product))
    task, seen = task_of(apart, of), {}
    monkeypatch.setattr(
        "mercato.training.tasks.recall.log_sum",
        lambda query_BD, _, *, log_q_J, **more: seen.update(log_q_J=log_q_J) or query_BD.sum(1),
    )
    batch = next(iter(task.batches))
    task.losses(towers(apart, of), batch)
    brought = task.frequency.probability(batch.column_J)
    share = len(order) // 2 / len(order)
    shares = torch.where(batch.country_J == 1, share, 1 - share)
    expected = batch.drawn_J + (brought / shares).clamp(max=1)
    torch.testing.assert_close(seen["log_q_J"].exp(), expected, rtol=1e-5, atol=1e-7)
    assert brought.max() > 0


def test_content_stays_and_the_rest_learns(ready):
    of = without_dropout(recipe())
    task, model = task_of(ready, of), towers(ready, of)
    before, optimizer = copy.deepcopy(model.state_dict()), adam(model, of.stages[1], task.parameters())
    losses = []
    for task.batches.epoch in range(20):
        for batch in task.batches:
            optimizer.zero_grad()
            loss = total(task.losses(model, batch))
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    assert np.mean(losses[-3:]) < 0.2 * np.mean(losses[:3])
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {".".join(name.split(".")[1:2]) for name in changed} == {"join", "ids"}
    assert float(task.log_scale.detach()) != pytest.approx(math.log(20.0), abs=1e-3)
    for tower in (model.query, model.product):
        assert not any(table.weight[0].any() for table in tower.ids.tables)
    known = np.unique(ready.tables.products["ids"][:, 0])
    rows = model.product.ids.tables[0].weight.detach().any(1).nonzero().squeeze(1).tolist()
    assert rows == known[known > 0].tolist(), "no other row of the table moved"


def test_the_head_learns_along(sold, tmp_path):
    of = recipe("", "head.queries=4")
    own = prepare(sold, of, tmp_path)
    task, model = task_of(own, of), towers(own, of)
    losses = task.losses(model, first(task))
    assert list(losses) == ["relevance", "head"] and losses["head"][0] == of.head.weight
    total(losses).backward()
    assert model.head.weight.grad.any()


class PowerCutError(Exception):
    """What interrupts a training."""


def cut_at(epoch: int) -> Callable[[dict], None]:
    def on_epoch(row: dict) -> None:
        if row["stage"] == 2 and row["epoch"] == epoch:
            raise PowerCutError

    return on_epoch


@pytest.mark.parametrize("negatives", ['"all"', "12"])
def test_an_interrupted_stage_resumes_to_the_same_weights(sold, tmp_path, negatives):
    of = recipe(f", negatives = {negatives}, patience = 9, decay = true")
    unbroken = train(of, sold, tmp_path / "unbroken", onnx=False)
    with pytest.raises(PowerCutError):
        train(of, sold, tmp_path / "run", onnx=False, on_epoch=cut_at(3))
    resumed = train(of, sold, tmp_path / "run", onnx=False)
    for name, value in unbroken.towers.state_dict().items():
        assert torch.equal(value, resumed.towers.state_dict()[name]), name
    again = load(tmp_path / "run")
    np.testing.assert_array_equal(again.encode_products(products()), resumed.encode_products(products()))


def test_a_product_that_nobody_engaged_is_found_by_its_content(tmp_path):
    goods = [product | {"seller_id": f"s{i % 5}"} for i, product in enumerate(products())]
    new = [goods[0] | {"product_id": "new", "seller_id": "nobody"}]
    market = make_market(tmp_path / "market", [*goods, *new], pairs(goods))
    model = train(recipe(), market, tmp_path / "run", onnx=False)
    assert not model.featurizer.products(new)["ids"].any() and model.featurizer.products(goods)["ids"].any()
    tower = model.towers.product
    features = {name: torch.from_numpy(array) for name, array in model.featurizer.products(new).items()}
    with torch.no_grad():
        expected = tower.joined(tower.content(features), None).numpy()
    np.testing.assert_array_equal(model.encode_products(new), expected)
    assert np.abs(model.encode_products(goods[:1]) - expected).max() > 1e-3, "its like has ids that were learned"
