"""What the towers read of a pretraining batch, and that nothing masked can be read elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mercato.config.pretraining import TASKS
from mercato.data.market import Market
from mercato.models.taobao import PretrainingTowers
from mercato.training import pretrain
from mercato.training.data.pretraining import PretrainingBatch
from mercato.training.pretrain import pretrained
from mercato.training.tasks.masked_words import MaskedWordsTask
from mercato.training.tasks.pretraining import PretrainingTask, spread
from mercato.training.tasks.step import Step
from tests.support.toys import make_market, products, toy_recipe, with_photos

RECIPE = toy_recipe(
    'pretraining={epochs=1, batch_size=16, channels=["title_text", "patches"], held_out=0.2}',
    "images.size=16",
    "images.patch_size=8",
    "images.max_images=2",
    "product_tower.text.pooling='mean'",
    "pretraining.mlm.share=0.5",
    "pretraining.ict.weight=1",
)


class _StopError(Exception):
    """Once the towers and the task are built."""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[PretrainingTowers, PretrainingTask]:
    market: Market = make_market(Path(tmp_path_factory.mktemp("pretraining")) / "market", with_photos(products()))
    found: list[Any] = []

    def stop(towers: PretrainingTowers, *, task: PretrainingTask, **_: Any) -> None:
        found.extend((towers, task))
        raise _StopError

    with pytest.MonkeyPatch.context() as patch, pytest.raises(_StopError):
        patch.setattr(pretrain, "run_stage", stop)
        pretrained(market, RECIPE)
    towers, task = found
    return towers.eval(), task


@pytest.fixture
def step(built: tuple[PretrainingTowers, PretrainingTask]) -> Iterator[Step]:
    towers, task = built
    with torch.no_grad():
        yield Step(towers, next(iter(task.batches)))


def _other_photos(batch: PretrainingBatch, where: torch.Tensor) -> PretrainingBatch:
    """The batch with other pixels in some patches (M, S)."""
    patches = batch.masked_product["patches"].clone()
    patches[where.unflatten(1, patches.shape[1:3])] = 9.0
    return replace(batch, masked_product=batch.masked_product | {"patches": patches})


def test_positions_are_those_of_the_towers_sequence(step: Step) -> None:
    tower, batch = step.towers.product, step.batch
    channels = tower.encode(batch.product)
    texts = batch.product["title_tokens"].shape[1]
    assert tower.channels == ("title_text", "patches") and (channels.channel_S[:texts] == 0).all()
    assert step.hidden.shape == step.told.shape == channels.present_BS.shape
    assert not step.hidden[:, :texts].any() and not step.told[:, texts:].any()
    assert not (step.hidden & ~channels.present_BS).any()
    assert torch.equal(step.tokens[step.told], batch.product["title_tokens"][batch.told_product["title_tokens"]])


def test_of_a_product_words_are_masked_or_patches_never_both(step: Step) -> None:
    batch = step.batch
    words, patches = batch.told_product["title_tokens"].any(1), batch.hidden_MS.any(1)
    assert words.any() and patches.any() and not (words & patches).any()
    assert not words[batch.product["patch_mask"].any(1)].all()  # a product without images has words to tell
    changed = (batch.masked_product["title_tokens"] != batch.product["title_tokens"]).any(1)
    assert changed.any() and not (changed & ~words).any()


def test_what_a_masked_patch_shows_is_read_nowhere(step: Step) -> None:
    other = Step(step.towers, _other_photos(step.batch, step.batch.hidden_MS))
    for one, two in zip(step.masked_items, other.masked_items, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0)
    shown = Step(step.towers, _other_photos(step.batch, ~step.batch.hidden_MS))
    assert not torch.allclose(step.masked_items.state_BSH, shown.masked_items.state_BSH, atol=1e-3)


def test_masked_patches_still_know_where_they_are(step: Step) -> None:
    texts = step.batch.product["title_tokens"].shape[1]
    hidden_BS = torch.zeros_like(step.hidden)
    hidden_BS[:, texts:] = step.batch.product["patch_mask"].repeat_interleave(4, 1)
    state_BSH = step.towers.read_items(step.batch.product, hidden_BS=hidden_BS).state_BSH
    row = int(step.batch.product["patch_mask"].all(1).nonzero()[0])
    first, second = state_BSH[row, texts : texts + 4], state_BSH[row, texts + 4 : texts + 8]
    torch.testing.assert_close(first, second)  # of two images, the same places
    assert not torch.allclose(first[0], first[1], atol=1e-3)


def test_an_image_alone_does_not_know_its_title(step: Step) -> None:
    other = Step(step.towers, replace(step.batch, product=step.batch.product | {"title_tokens": _shuffled(step.batch)}))
    torch.testing.assert_close(step.images.vector_BD, other.images.vector_BD, rtol=0, atol=1e-6)
    assert not torch.allclose(step.titles.vector_BD, other.titles.vector_BD, atol=1e-3)


def test_a_title_alone_does_not_know_its_image(step: Step) -> None:
    blank = step.batch.product | {"patches": torch.full_like(step.batch.product["patches"], 9.0)}
    other = Step(step.towers, replace(step.batch, product=blank))
    torch.testing.assert_close(step.titles.vector_BD, other.titles.vector_BD, rtol=0, atol=1e-6)


def test_the_item_tower_of_pretraining_is_the_one_that_is_kept(step: Step) -> None:
    """Read state by state for the tasks, it gives the vectors that the tower itself gives."""
    vectors, _ = step.towers.product(step.batch.product)
    torch.testing.assert_close(step.items.vector_BD, vectors, rtol=0, atol=1e-5)
    vectors, _ = step.towers.query(step.batch.query)
    torch.testing.assert_close(step.queries.vector_BD, vectors, rtol=0, atol=1e-5)


def test_every_task_finds_something(built: tuple[PretrainingTowers, PretrainingTask]) -> None:
    towers, task = built
    assert set(task.objectives) == set(TASKS)
    scores = task.validation.scores(towers)
    assert all(f"{name}/loss" in scores for name in task.objectives)
    assert scores == task.validation.scores(towers)  # what is drawn is drawn alike


def test_the_unigram_model_is_that_of_the_words_that_train(built: tuple[PretrainingTowers, PretrainingTask]) -> None:
    towers, task = built
    words_task = task.objectives["mlm"][1]
    assert isinstance(words_task, MaskedWordsTask)
    chance_W = words_task.log_chance_W.exp()
    assert chance_W.sum() == pytest.approx(1, abs=1e-5)
    batches = task.batches
    titles = batches.examples.tables.products["title_tokens"][batches.products]
    queries = batches.examples.tables.queries["tokens"][batches.examples.query_N[batches.pairs]]
    words = [int(token) for array in (titles, queries) for token in array.ravel() if batches.mask.words.words_W[token]]
    most = max(set(words), key=words.count)
    expected = (words.count(most) + 1) / (len(words) + len(batches.mask.words.words_W))
    assert float(chance_W[most]) == pytest.approx(expected, rel=1e-4)
    assert torch.equal(towers.words.bias_W, words_task.log_chance_W)


def test_the_spread_of_vectors() -> None:
    apart = spread(torch.eye(4))
    assert apart["vectors/mean_cosine"] == pytest.approx(0, abs=1e-6) and apart["vectors/rank"] == pytest.approx(4)
    alike = spread(torch.eye(4)[:1].repeat(5, 1))
    assert alike["vectors/mean_cosine"] == pytest.approx(1) and alike["vectors/rank"] == pytest.approx(1, abs=1e-4)


def _shuffled(batch: PretrainingBatch) -> torch.Tensor:
    return batch.product["title_tokens"].roll(1, 0)
