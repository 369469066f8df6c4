"""What a batch of pretraining holds."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from mercato.models.build import build_pretraining_towers, text_configs
from mercato.training.pretrain import pretraining_recipe
from mercato.training.tasks.step import Step
from tests.support.pretraining import TEXT, task_of
from tests.support.toys import make_market, pairs, products, toy_recipe, with_photos

PATCHES = ('pretraining.channels=["title_text", "patches"]', "images.size=16", "images.patch_size=8")
TRIGRAMS = (
    'pretraining.channels=["title_text", "title_trigrams", "patches"]',
    'query_tower.channels=["country", "text", "trigrams"]',
    *PATCHES[1:],
)


def test_a_product_seen_in_two_ways_is_one(tmp_path: Path) -> None:
    """Pairs of the catalogue that drop the title read a product in another way than where it stands alone."""
    market = make_market(tmp_path / "market", with_photos(products()))
    recipe = toy_recipe(
        TEXT, *PATCHES, 'pairs={ market = false, catalogue = [{ query = "{title}", drop_fields = ["title"] }] }'
    )
    batches = task_of(market, recipe).batches
    batch = batches.batch(batches.pairs, batches.products, batches.queries, np.random.default_rng(0))
    _, counts = np.unique(batch.product_M.numpy(), return_counts=True)
    assert (counts > 1).any()
    titled, has_images = (batch.product["title_tokens"] != 0).any(1), batch.product["patch_mask"].any(1)
    assert batch.hidden_MS.any(1)[has_images & ~titled].all()  # where there are no words to mask, patches always are
    assert not batch.told_product["title_tokens"][~titled].any()


def test_few_pairs_are_no_reason_to_see_few_products(tmp_path: Path) -> None:
    goods = products(120)
    links = [row for row in pairs(goods) if row["split"] == "train"]
    few = make_market(tmp_path / "few", goods, links[:6])
    batches = task_of(few, toy_recipe(TEXT, "pretraining.unpaired=0.5")).batches
    steps = list(batches)
    assert len(steps) == len(batches) == math.ceil((len(batches.pairs) + len(batches.products)) / 24)
    assert sum(len(step.query_B) for step in steps) == len(batches.pairs) < 7
    for step in steps:
        assert len(step.unpaired_U) + len(step.product_B.unique()) > 20, "a batch is as large as one of pairs"
    many = task_of(make_market(tmp_path / "many", goods, links), toy_recipe(TEXT, "pretraining.unpaired=3")).batches
    assert len(many) == math.ceil(len(many.pairs) / 16)
    alone = task_of(few, toy_recipe(TEXT, "pretraining.unpaired=0")).batches
    assert len(alone) == 1 and not any(len(step.unpaired_U) for step in alone)


def test_what_is_masked_is_not_spelled_by_trigrams(tmp_path: Path) -> None:
    market = make_market(tmp_path / "market", with_photos(products()))
    task = task_of(market, toy_recipe(TEXT, *TRIGRAMS, "pretraining.mlm.share=0.6", "pretraining.ict.weight=1"))
    spelled = 0
    for batch in task.batches:
        told_Q, told_M = batch.told_query_QL.any(1), batch.told_product["title_tokens"].any(1)
        hidden_M = batch.hidden_MS.any(1)
        assert told_Q.any() and told_M.any() and hidden_M.any()
        for told, whole, masked, name in (
            (told_Q, batch.query, batch.masked_query, "trigrams"),
            (told_M, batch.product, batch.masked_product, "title_trigrams"),
        ):
            assert (whole[name] != 0).any(1).all()
            assert not masked[name][told].any()
        assert torch.equal(batch.masked_product["title_trigrams"][hidden_M], batch.product["title_trigrams"][hidden_M])
        own = batch.crops.query["trigrams"]
        spelled += int((own != 0).any(1).all() and len(own) > 0)
    assert spelled, "crops are read by trigrams too"


def test_masked_words_are_found_beside_channels_of_one_position(tmp_path: Path) -> None:
    """Where trigrams stand between title and patches, each told word is the title's own."""
    market = make_market(tmp_path / "market", with_photos(products()))
    recipe = toy_recipe(TEXT, *TRIGRAMS)
    task, own = task_of(market, recipe), pretraining_recipe(recipe)
    spec = task.batches.examples.tables.spec
    step = Step(build_pretraining_towers(own, spec, text_configs(own, spec)), next(iter(task.batches)))
    states_BSH = step.masked_items.state_BSH
    assert step.told.shape == step.tokens.shape == step.hidden.shape == states_BSH.shape[:2]
    told_ML = step.batch.told_product["title_tokens"]
    assert torch.equal(step.tokens[step.told], step.batch.product["title_tokens"][told_ML])
    length = told_ML.shape[1]
    assert torch.equal(step.hidden[:, length + 1 :], step.batch.hidden_MS)
    assert not step.hidden[:, : length + 1].any()


@pytest.mark.parametrize(
    ("channels", "read"),
    [
        (["title_text"], ("text",)),
        (["title_text", "title_trigrams"], ("trigrams", "country", "text")),
    ],
)
def test_queries_read_trigrams_where_products_do(channels: list[str], read: tuple[str, ...]) -> None:
    recipe = toy_recipe(
        TEXT,
        f"pretraining.channels={channels}",
        'query_tower.channels=["trigrams", "country", "text", "ids"]',
        'product_tower.channels=["title_text", "ids"]',
        "query_tower.fusion='concat'",
    )
    tower = pretraining_recipe(recipe).query_tower
    assert tower.channels == read
    assert tower.fusion == ("concat" if len(read) > 1 else "attention")
