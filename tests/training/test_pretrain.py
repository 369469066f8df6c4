"""Pretraining on a toy market, from the recipe to the towers that start from it."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mercato.config import Recipe
from mercato.data.market import Market
from mercato.errors import MercatoError
from mercato.models.build import build_pretraining_towers, text_configs
from mercato.models.que2engage import FusionSequence
from mercato.models.taobao import PretrainingTowers
from mercato.models.tower import tensors
from mercato.reports.explanation import explain
from mercato.runs.folder import PRETRAINING, read_history
from mercato.runs.pretrained import load_pretrained
from mercato.runs.torch_encoder import load
from mercato.training import pretrain
from mercato.training.data.pretraining import PretrainingBatch
from mercato.training.pretrain import pretrained
from mercato.training.task import Losses
from mercato.training.tasks import pretraining as tasks_of_pretraining
from mercato.training.tasks.pretraining import PretrainingTask
from mercato.training.tasks.step import Outcome
from mercato.training.train import train
from tests.support.toys import make_market, pairs, products, toy_recipe, with_photos

TEXT = 'pretraining={epochs=3, batch_size=16, channels=["title_text"], held_out=0.2, learning_rate=1e-2}'
PATCHES = ('pretraining.channels=["title_text", "patches"]', "images.size=16", "images.patch_size=8")
MEAN = "product_tower.text.pooling='mean'"  # an untrained [CLS] takes longer than a test lasts


@pytest.fixture
def market(tmp_path: Path) -> Market:
    return make_market(tmp_path / "market")


def _state(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def _texts(batch: PretrainingBatch) -> list[tuple[int, ...]]:
    return [tuple(token for token in row if token) for row in batch.product["title_tokens"].tolist()]


def test_every_task_gets_better_than_it_began(market: Market) -> None:
    recipe = toy_recipe(TEXT, MEAN, "pretraining.epochs=12", "pretraining.text_learning_rate=1e-2")
    rows = read_history(pretrained(market, recipe))
    first, best = rows[0], min(rows, key=lambda row: row["validation/loss"])
    assert best["epoch"] > 0
    assert best["mlm/loss"] < first["mlm/loss"]  # which began as a unigram model; a toy's numbers cannot be told
    assert best["qic/loss"] < 0.8 * first["qic/loss"]
    assert {"mlm/weight", "mlm/accuracy", "mlm/trivial", "vectors/rank", "vectors/mean_cosine"} <= best.keys()
    assert not any(name.startswith(("mpm", "qim2")) for name in best)  # of images that nothing reads


def test_recipes_whose_pretraining_is_alike_share_it(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = pretrained(market, toy_recipe(TEXT))
    monkeypatch.setattr(pretrain, "_train", lambda *_: pytest.fail("trained again"))
    assert pretrained(market, toy_recipe(TEXT, "name='other'", "stages.0.epochs=9", "head.queries=3")) == folder
    assert pretrained(market, toy_recipe(TEXT, "query_tower.ids.least=3", "product_tower.fusion='concat'")) == folder
    alone = ("product_tower.fusion='transformer'", 'product_tower.channels=["title_text"]')
    assert pretrained(market, toy_recipe(TEXT, *alone)) == folder
    beside = ("product_tower.fusion='transformer'", 'product_tower.channels=["title_text", "language"]')
    for other in (("pretraining.qic.margin=0.3",), beside):
        with pytest.raises(pytest.fail.Exception):
            pretrained(market, toy_recipe(TEXT, *other))


def test_it_is_the_same_each_time_and_goes_on_where_it_stopped(
    market: Market, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _state(pretrained(market, toy_recipe(TEXT)))
    again = make_market(tmp_path / "again")
    log, seen = pretrain.log_row, []

    def cut(folder: Path, row: dict[str, Any], validation: Any) -> None:
        seen.append(row["epoch"])
        if seen == [0, 1, 2]:
            raise KeyboardInterrupt
        log(folder, row, validation)

    monkeypatch.setattr(pretrain, "log_row", cut)
    with pytest.raises((KeyboardInterrupt, SystemExit, MercatoError)):
        pretrained(again, toy_recipe(TEXT))
    folder = pretrained(again, toy_recipe(TEXT))
    assert seen == [0, 1, 2, 2, 3]
    for name, tensor in _state(folder).items():
        torch.testing.assert_close(tensor, whole[name], rtol=0, atol=0)


def _task_of(market: Market, recipe: Recipe) -> PretrainingTask:
    """The task as pretraining builds it."""
    found: list[PretrainingTask] = []

    def stop(towers: PretrainingTowers, *, task: PretrainingTask, **_: Any) -> None:
        found.append(task)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pretrain, "run_stage", stop)
        pretrained(market, recipe)
    return found[0]


def test_towers_start_from_what_was_pretrained(market: Market, tmp_path: Path) -> None:
    recipe = toy_recipe(TEXT, "stages.0.epochs=1", "stages.0.learning_rate=1e-12", "stages.0.text_learning_rate=1e-12")
    train(recipe, market, tmp_path / "run", onnx=False)
    known, model = _state(pretrained(market, recipe)), load(tmp_path / "run")
    own = model.towers.state_dict()
    taken = {name for name in known if name in own and known[name].shape == own[name].shape}
    for tower in ("query", "product"):
        assert f"{tower}.text.backbone.encoder.layer.0.output.dense.weight" in taken
        assert f"{tower}.text.backbone.embeddings.word_embeddings.weight" in taken
    for name in taken:
        torch.testing.assert_close(own[name], known[name], atol=1e-6, rtol=0)
    card = (tmp_path / "run" / "README.md").read_text()
    assert "| pretrained | queries and title_text: mlm " in card
    assert read_history(tmp_path / "run" / PRETRAINING) == read_history(pretrained(market, recipe))


@pytest.mark.parametrize("missing", ["zeros", "token"])
def test_channels_that_were_not_pretrained_do_not_disturb_the_others(tmp_path: Path, missing: str) -> None:
    goods = products()
    market = make_market(tmp_path / "market", goods)  # without photos
    recipe = toy_recipe(
        TEXT,
        MEAN,
        "query_tower.text.pooling='mean'",
        "query_tower.fusion='wide_and_deep'",
        'query_tower.channels=["text", "trigrams", "country"]',
        "product_tower.fusion='transformer'",
        f"product_tower.missing='{missing}'",
        'product_tower.channels=["title_trigrams", "title_text", "language", "images", "context"]',
        "stages.0.epochs=1",
        "stages.0.learning_rate=1e-12",
        "stages.0.text_learning_rate=1e-12",
    )
    model = train(recipe, market, tmp_path / "run", onnx=False)
    before, featurizer = load_pretrained(pretrained(market, recipe))
    fusion = model.towers.product.fusion
    assert isinstance(fusion, FusionSequence)
    assert fusion.missing_NH is None or fusion.missing_NH.abs().max() < 1e-6
    queries, country = ["table number 7", "a good chair", "silla"], ["us"] * 3
    with torch.inference_mode():
        read = before.read_items(tensors(featurizer.products(goods)))
        vector_BD, _ = model.towers.product(tensors(model.featurizer.products(goods)))
        torch.testing.assert_close(vector_BD, read.vector_BD, atol=1e-4, rtol=0)
        read = before.read_queries(tensors(featurizer.queries(queries, country)))
        vector_BD, _ = model.towers.query(tensors(model.featurizer.queries(queries, country)))
        torch.testing.assert_close(vector_BD, read.vector_BD, atol=1e-4, rtol=0)


def test_held_out_products_and_what_is_listed_later_teach_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    market = make_market(tmp_path / "market")
    read: set[tuple[int, ...]] = set()
    held: set[tuple[int, ...]] = set()
    run_stage = pretrain.run_stage

    def watched(towers: PretrainingTowers, **how: Any) -> None:
        task = how["task"]
        tables = task.batches.examples.tables
        for batch in task.batches:
            read.update(_texts(batch))
        for batch in task.validation.batches:
            held.update(_texts(batch))
        assert len(task.batches.products) < len(tables.products["title_tokens"])
        run_stage(towers, **how)

    monkeypatch.setattr(pretrain, "run_stage", watched)
    pretrained(market, toy_recipe(TEXT, "product_tower.title_tokens=32"))  # so that no title is cut
    assert held and read and not held & read


def test_a_loss_that_is_not_finite_names_task_and_batch(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    honest, calls = PretrainingTask.losses, []

    def broken(self: PretrainingTask, towers: PretrainingTowers, batch: PretrainingBatch) -> Losses:
        calls.append(1)
        losses = honest(self, towers, batch)
        if len(calls) == len(self.batches) + 2:  # the second batch of the second epoch
            losses["qic"] = (1.0, losses["qic"][1] * float("nan"))
        return losses

    monkeypatch.setattr(PretrainingTask, "losses", broken)
    with pytest.raises(MercatoError, match=r"the loss of qic is nan in batch 2 of epoch 2"):
        pretrained(market, toy_recipe(TEXT))
    monkeypatch.setattr(PretrainingTask, "losses", honest)
    rows = read_history(pretrained(market, toy_recipe(TEXT)))  # goes on behind the last good epoch
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3]


def test_photos_in_files_are_part_of_what_it_is_known_by(tmp_path: Path) -> None:
    goods = with_photos(products())
    market = make_market(tmp_path / "market", [row | {"images": [{"bytes": None, "path": "one.png"}]} for row in goods])
    (tmp_path / "market" / "one.png").write_bytes(goods[1]["images"][0]["bytes"])
    recipe = toy_recipe(TEXT, *PATCHES)
    first = pretrained(market, recipe)
    assert pretrained(market, recipe) == first
    (tmp_path / "market" / "one.png").write_bytes(goods[2]["images"][0]["bytes"] + b"more")
    assert pretrained(market, recipe) != first


def test_marks_go_by_the_name_of_their_channel(tmp_path: Path) -> None:
    market = make_market(tmp_path / "market", with_photos(products()))
    recipe = toy_recipe(
        TEXT,
        *PATCHES,
        "product_tower.fusion='transformer'",
        'product_tower.channels=["title_text", "language", "patches"]',
        'pretraining.channels=["title_text", "description_text", "patches"]',
        "stages.0.epochs=1",
        "stages.0.learning_rate=1e-12",
        "stages.0.text_learning_rate=1e-12",
    )
    train(recipe, market, tmp_path / "run", onnx=False)
    known = _state(pretrained(market, recipe))["product.fusion.mark_NH"]
    own = load(tmp_path / "run").towers.state_dict()["product.fusion.mark_NH"]
    torch.testing.assert_close(own[[0, 2]], known[[0, 2]], atol=1e-6, rtol=0)
    assert not torch.allclose(own[1], known[1])  # language has no mark yet, and not the description's


def test_a_product_seen_in_two_ways_is_one(tmp_path: Path) -> None:
    """Pairs of the catalogue that drop the title read a product in another way than where it stands alone."""
    market = make_market(tmp_path / "market", with_photos(products()))
    recipe = toy_recipe(
        TEXT, *PATCHES, 'pairs={ market = false, catalogue = [{ query = "{title}", drop_fields = ["title"] }] }'
    )
    batches = _task_of(market, recipe).batches
    batch = batches.batch(batches.pairs, batches.products, batches.queries, np.random.default_rng(0))
    _, counts = np.unique(batch.product_M.numpy(), return_counts=True)
    assert (counts > 1).any()
    titled, has_images = (batch.product["title_tokens"] != 0).any(1), batch.product["patch_mask"].any(1)
    assert batch.hidden_MS.any(1)[has_images & ~titled].all()  # where there are no words to mask, patches always are
    assert not batch.told_product["title_tokens"][~titled].any()


def test_a_task_that_is_off_has_no_loss(market: Market) -> None:
    rows = read_history(pretrained(market, toy_recipe(TEXT, "pretraining.qim.weight=0", "pretraining.mlm.weight=0")))
    assert not any(name.startswith(("mlm", "qim")) for row in rows for name in {**row, **row.get("losses", {})})


def test_few_pairs_weigh_no_more_than_as_many_products(market: Market) -> None:
    task = _task_of(market, toy_recipe(TEXT, "pairs.fraction=0.3", "pretraining.qic.weight=2"))
    share = len(task.batches.pairs) / len(task.batches.products)
    assert 0 < share < 0.5
    assert {name: weight for name, (weight, _) in task.objectives.items()} == {
        "mlm": 1,
        "qic": pytest.approx(2 * share),
        "qim": pytest.approx(share),
        "qim2": 1,
    }
    alone = _task_of(market, toy_recipe(TEXT, "pairs.fraction=0.3", "pretraining.unpaired=0"))
    assert {weight for weight, _ in alone.objectives.values()} == {1}, "where nothing stands beside them"


def test_many_pairs_weigh_what_the_recipe_says(tmp_path: Path) -> None:
    goods = products()
    others = [row | {"query": f"{row['query']} {i}"} for row in pairs(goods) for i in range(2)]
    market = make_market(tmp_path / "market", goods, [*pairs(goods), *others])
    task = _task_of(market, toy_recipe(TEXT))
    assert len(task.batches.pairs) > len(task.batches.products)
    assert {weight for weight, _ in task.objectives.values()} == {1}


def test_an_encoder_of_each_side_when_it_is_not_shared(market: Market) -> None:
    apart = _state(pretrained(market, toy_recipe(TEXT, "pretraining.shared=false")))
    name = "text.backbone.encoder.layer.0.output.dense.weight"
    assert not torch.equal(apart[f"query.{name}"], apart[f"product.{name}"])
    one = _state(pretrained(market, toy_recipe(TEXT)))
    assert torch.equal(one[f"query.{name}"], one[f"product.{name}"])


def test_without_images_it_reads_titles_alone_and_says_so(market: Market, tmp_path: Path) -> None:
    recipe = toy_recipe(
        TEXT, 'pretraining.channels=["title_text", "patches"]', "images.patch_size=8", "stages.0.epochs=1"
    )
    train(recipe, market, tmp_path / "run", onnx=False)
    rows = read_history(tmp_path / "run" / PRETRAINING)
    assert {"mlm/loss", "qic/loss", "qim/loss"} <= rows[-1].keys()
    assert not any(name.startswith(("mpm", "qim2")) for name in rows[-1])
    assert "| pretrained | queries and title_text: mlm " in (tmp_path / "run" / "README.md").read_text()


@pytest.mark.parametrize("target", ["codebook", "features"])
def test_what_is_told_of_a_patch(tmp_path: Path, target: str) -> None:
    market = make_market(tmp_path / "market", with_photos(products()))
    recipe = toy_recipe(
        TEXT,
        MEAN,
        'pretraining.channels=["title_text", "patches"]',
        f"pretraining.mpm.target='{target}'",
        "pretraining.mpm.where='both'",
        "images.size=16",
        "images.patch_size=8",
        "pretraining.epochs=6",
    )
    rows = read_history(pretrained(market, recipe))
    assert min(row["mpm/loss"] for row in rows) < rows[0]["mpm/loss"]


@pytest.mark.parametrize("where", ["cross", "both"])
def test_words_may_be_told_by_the_cross_encoder(market: Market, where: str) -> None:
    rows = read_history(pretrained(market, toy_recipe(TEXT, f"pretraining.mlm.where='{where}'")))
    assert np.isfinite([row["mlm/loss"] for row in rows]).all()


def test_a_run_explains_what_its_queries_look_at_in_photos(tmp_path: Path) -> None:
    goods = with_photos(products())
    market = make_market(tmp_path / "market", goods, [row | {"split": "future"} for row in pairs(goods)] + pairs(goods))
    single_stream = ("product_tower.fusion='transformer'", "product_tower.channels=['title_text', 'patches']")
    recipe = toy_recipe(TEXT, *PATCHES, *single_stream, "images.max_images=1", "stages.0.epochs=1")
    run = tmp_path / "run"
    train(recipe, market, run, onnx=False)
    found = explain(run, market).photos
    assert found is not None and found.head == "qim2" and not found.visual
    with_a_photo = {row["product_id"] for row in goods if row["images"]}
    assert found.pairs > 0 and {example.product_id for example in found.examples} <= with_a_photo
    for example in found.examples:
        assert example.own.query != example.other.query
        assert len(example.own.patches) == 4
        assert sum(example.own.patches) in (0, pytest.approx(1, abs=1e-3)), "nothing may have spoken for it"
    page = (run / "explain.html").read_text()
    assert page.count("<figure>") == 2 * len(found.examples)
    assert json.loads((run / "explain.json").read_text())["photos"]["pairs"] == found.pairs
    shutil.rmtree(run / PRETRAINING)
    assert explain(run, market).photos is None


def test_what_the_towers_of_a_run_do_not_read_is_not_explained(tmp_path: Path) -> None:
    goods = with_photos(products())
    market = make_market(tmp_path / "market", goods, [row | {"split": "future"} for row in pairs(goods)] + pairs(goods))
    for channels in ("['title_text']", "['title_text', 'images']"):
        recipe = toy_recipe(TEXT, *PATCHES, "stages.0.epochs=1", f"product_tower.channels={channels}")
        run = tmp_path / f"run-{len(channels)}"
        train(recipe, market, run, onnx=False)
        assert (run / PRETRAINING / "model.safetensors").is_file()
        assert explain(run, market).photos is None


def test_photos_that_cannot_be_read_and_titles_that_lack_stop_no_explanation(tmp_path: Path) -> None:
    goods = with_photos(products())
    links = pairs(goods)
    broken = [{"bytes": b"GIF89a nonsense", "path": None}]
    goods = [
        row | ({"images": broken} if number % 3 == 1 else {"title": None} if number % 2 else {})
        for number, row in enumerate(goods)
    ]
    market = make_market(tmp_path / "market", goods, [row | {"split": "future"} for row in links] + links)
    single_stream = ("product_tower.fusion='transformer'", "product_tower.channels=['title_text', 'patches']")
    run = tmp_path / "run"
    train(toy_recipe(TEXT, *PATCHES, *single_stream, "stages.0.epochs=1"), market, run, onnx=False)
    found = explain(run, market).photos
    assert found is not None and {int(example.product_id[1:]) % 3 for example in found.examples} == {2}
    assert "" in {example.title for example in found.examples}


def test_few_pairs_are_no_reason_to_see_few_products(tmp_path: Path) -> None:
    goods = products(120)
    links = [row for row in pairs(goods) if row["split"] == "train"]
    few = make_market(tmp_path / "few", goods, links[:6])
    batches = _task_of(few, toy_recipe(TEXT, "pretraining.unpaired=0.5")).batches
    steps = list(batches)
    assert len(steps) == len(batches) == math.ceil((len(batches.pairs) + len(batches.products)) / 24)
    assert sum(len(step.query_B) for step in steps) == len(batches.pairs) < 7
    for step in steps:
        assert len(step.unpaired_U) + len(step.product_B.unique()) > 20, "a batch is as large as one of pairs"
    many = _task_of(make_market(tmp_path / "many", goods, links), toy_recipe(TEXT, "pretraining.unpaired=3")).batches
    assert len(many) == math.ceil(len(many.pairs) / 16)
    alone = _task_of(few, toy_recipe(TEXT, "pretraining.unpaired=0")).batches
    assert len(alone) == 1 and not any(len(step.unpaired_U) for step in alone)


def test_a_task_that_knows_less_than_nothing_counts_as_one_that_guesses(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = toy_recipe(TEXT, "pretraining.mlm.weight=3", "pretraining.unpaired=0")
    task, own = _task_of(market, recipe), pretrain.pretraining_recipe(recipe)
    spec = task.batches.examples.tables.spec
    towers = build_pretraining_towers(own, spec, text_configs(own, spec))

    def scored(**losses: float) -> float:
        made = {
            name: Outcome(torch.tensor(loss), torch.tensor(0.5), torch.tensor(4.0)) for name, loss in losses.items()
        }
        monkeypatch.setattr(tasks_of_pretraining, "outcomes", lambda *_: made)
        return task.validation.scores(towers)["validation/loss"]

    assert scored(mlm=2.0, qic=3.0) == pytest.approx((3 * 0.5 + 0.75) / 4)
    assert scored(mlm=2.0, qic=40.0) == pytest.approx((3 * 0.5 + 1) / 4)
    assert math.isnan(scored(mlm=2.0, qic=math.nan)), "and what is no number is never the best"
    assert scored() == 1
