"""Which patches a query looks at: read off towers that have learned to look for one thing."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mercato.data.market import Market
from mercato.evaluation.rollout import Head, matches, patches_looked_at
from mercato.models.build import build_pretraining_towers, text_configs
from mercato.models.taobao import PretrainingTowers
from mercato.models.text_encoder import attended, through
from mercato.models.tower import Inputs, tensors
from mercato.training.data.prepare import prepare
from mercato.training.pretrain import pretraining_recipe
from tests.support.toys import make_market, products, toy_recipe, with_photos

READS = (
    'pretraining.channels=["title_text", "patches"]',
    'product_tower.channels=["title_text", "patches"]',
    'product_tower.fusion="transformer"',
    "images.size=16",
    "images.patch_size=8",
    "images.max_images=1",
)
PATCHES = 4


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[PretrainingTowers, Inputs, Inputs]:
    return _made(tmp_path_factory.mktemp("rollout"))


def _made(folder: Path, unread: int = 0) -> tuple[PretrainingTowers, Inputs, Inputs]:
    """Untrained towers, and 24 queries and products that all have a photo."""
    market: Market = make_market(folder / "market", with_photos(products()))
    recipe = pretraining_recipe(toy_recipe(*READS))
    prepared = prepare(market, recipe, folder)
    spec = prepared.featurizer.spec
    torch.manual_seed(0)
    towers = build_pretraining_towers(recipe, spec, text_configs(recipe, spec), unread=unread).eval()
    rows = np.flatnonzero(prepared.tables.products["patch_mask"].any(1))[:24]
    query = tensors(prepared.featurizer.queries(["mesa", "silla"] * 12, [None] * 24))
    return towers, query, prepared.tables.product_inputs(rows)


def test_what_is_attended_is_what_the_towers_read(made: tuple[PretrainingTowers, Inputs, Inputs]) -> None:
    towers, _, product = made
    state_BSH, present_BS, _ = towers.item_sequence(product)
    present_BS[::2, -1] = False
    layers = towers.product.text.layers()
    found_BSH, weights = attended(layers, state_BSH, present_BS)
    torch.testing.assert_close(found_BSH[present_BS], through(layers, state_BSH, present_BS)[present_BS])
    assert len(weights) == len(layers)
    torch.testing.assert_close(weights[0].sum(-1), torch.ones_like(weights[0].sum(-1)))
    assert not weights[0][::2, ..., -1].any()


@pytest.mark.parametrize("head", ["qim", "qim2"])
def test_what_a_match_hangs_on_is_looked_at(made: tuple[PretrainingTowers, Inputs, Inputs], head: Head) -> None:
    """Of a third of the photos one patch is white, all others are grey: the head learns to tell, and it is found."""
    torch.manual_seed(1)
    towers, query, product = made
    towers = copy.deepcopy(towers)
    rows = len(query["tokens"])
    white_B = torch.arange(rows) % 3 == 0
    place_B = torch.arange(rows) % PATCHES
    patches_BIPV = torch.zeros_like(product["patches"])
    patches_BIPV[torch.arange(rows), 0, place_B] = white_B.float().unsqueeze(1)
    product = product | {"patches": patches_BIPV}
    optimizer = torch.optim.AdamW(towers.parameters(), 5e-3)
    for _ in range(150):
        logit_B = _logit(towers, head, query, product)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logit_B, white_B.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.05

    share_BP, logit_B = patches_looked_at(towers, head, query, product)
    torch.testing.assert_close(logit_B, _logit(towers, head, query, product).detach())
    torch.testing.assert_close(share_BP.sum(1)[white_B], torch.ones(int(white_B.sum())))
    brightest_B = share_BP.argmax(1)[white_B]
    assert (brightest_B == place_B[white_B]).float().mean() > 0.8

    own_BP = torch.nn.functional.one_hot(place_B, PATCHES).bool()
    without_B = matches(towers, head, query, product, own_BP)
    assert (logit_B - without_B)[white_B].mean() > 1
    torch.testing.assert_close(matches(towers, head, query, product, torch.zeros_like(own_BP)), logit_B)


def _logit(towers: PretrainingTowers, head: Head, query: Inputs, product: Inputs) -> Tensor:
    items = towers.read_items(product, "text" if head == "qim2" else None)
    found: Tensor = towers.matches[head](towers.cross.first(towers.read_queries(query), items)).squeeze(1)
    return found


def test_a_product_without_a_photo_has_nothing_to_look_at(made: tuple[PretrainingTowers, Inputs, Inputs]) -> None:
    towers, query, product = made
    none = product | {"patch_mask": torch.zeros_like(product["patch_mask"])}
    share_BP, logit_B = patches_looked_at(towers, "qim", query, none)
    assert not share_BP.any() and logit_B.isfinite().all()


def test_channels_that_were_not_read_are_not_looked_at(tmp_path: Path) -> None:
    towers, query, product = _made(tmp_path, unread=2)
    share_BP, logit_B = patches_looked_at(towers, "qim2", query, product)
    torch.testing.assert_close(logit_B, _logit(towers, "qim2", query, product).detach())
    assert share_BP.shape == (24, PATCHES)
    hidden_BP = torch.zeros(24, PATCHES, dtype=torch.bool)
    torch.testing.assert_close(matches(towers, "qim2", query, product, hidden_BP), logit_B)
    hidden_BP[:, 1] = True
    assert not torch.allclose(matches(towers, "qim2", query, product, hidden_BP), logit_B)
