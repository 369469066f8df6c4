"""A pretrained encoder's projections, started from what the catalogue says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize
from toys import make_market, toy_recipe

import mercato as mc
from mercato.config import Recipe
from mercato.errors import MercatoError
from mercato.models.build import build_towers, text_configs
from mercato.models.que2search import TwoTower
from mercato.training.batches import Examples
from mercato.training.prepare import prepare
from mercato.training.train import train
from mercato.training.whitening import whiten


def recipe(bert: Path, *changes: str) -> Recipe:
    towers = [
        f"{tower}_tower.text.{change}" for tower in ("query", "product") for change in ("layers=2", "pooling=mean")
    ]
    channels = ('query_tower.channels=["text"]', 'product_tower.channels=["text"]')
    return toy_recipe(f"text.pretrained={bert}", "text.shared=true", "text.whitened=1.0", *channels, *towers, *changes)


@pytest.fixture
def fresh(bert: Path, tmp_path: Path) -> tuple[TwoTower, Examples]:
    prepared = prepare(make_market(tmp_path / "market"), recipe(bert), tmp_path)
    spec = prepared.featurizer.spec
    return build_towers(recipe(bert), spec, text_configs(recipe(bert), spec)).eval(), prepared.examples


@torch.inference_mode()
def said(towers: TwoTower, examples: Examples) -> tuple[torch.Tensor, torch.Tensor]:
    """What each tower's text encoder makes of the training queries and of all products."""
    queries = examples.queries["tokens"][np.unique(examples.query_N)]
    texts = ((towers.query.text, queries), (towers.product.text, examples.products["text_tokens"]))
    query, product = (encoder(torch.from_numpy(tokens.astype(np.int64))).double() for encoder, tokens in texts)
    return query, product


def test_white_products_are_uncorrelated_and_each_tower_is_centred(fresh: tuple[TwoTower, Examples]) -> None:
    towers, examples = fresh
    before = torch.linalg.eigvalsh(said(towers, examples)[1].T.cov())
    varies = int((before > 1e-3 * before.max()).sum())
    whiten(towers, examples, 1.0, seed=0)
    query, product = said(towers, examples)
    assert query.mean(0).abs().max() < 1e-5
    assert product.mean(0).abs().max() < 1e-5
    covariance = product.T.cov()
    assert (covariance - torch.diag(covariance.diagonal())).abs().max() < 1e-5
    assert covariance.diagonal()[:varies].tolist() == pytest.approx([covariance[0, 0].item()] * varies, rel=1e-3)
    assert product.norm(dim=1).mean() == pytest.approx(1, abs=1e-5)


def test_power_zero_only_centres(fresh: tuple[TwoTower, Examples]) -> None:
    towers, examples = fresh
    before = said(towers, examples)
    whiten(towers, examples, 0.0, seed=0)
    wanted, found = (
        normalize(query, dim=1) @ normalize(product, dim=1).T
        for query, product in ([part - part.mean(0) for part in before], said(towers, examples))
    )
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)


def test_the_towers_stay_as_they_were_but_for_the_projections(fresh: tuple[TwoTower, Examples]) -> None:
    towers, examples = fresh
    before = {name: value.clone() for name, value in towers.state_dict().items()}
    whiten(towers.train(), examples, 0.5, seed=0)
    assert towers.training
    changed = {name for name, value in towers.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {
        f"{tower}.text.projection.{part}" for tower in ("query", "product") for part in ("weight", "bias")
    }
    assert towers.query.text.backbone is towers.product.text.backbone


def test_a_catalogue_alone_makes_a_run(bert: Path, tmp_path: Path, unexported: None) -> None:
    market = make_market(tmp_path / "market", links=[])
    alone = recipe(bert, "stages=[]", "pairs.market=false", 'pairs.catalogue=[{query = "{title}", words = [1, 2]}]')
    model = train(alone, market, tmp_path / "run")
    again = mc.load(tmp_path / "run")
    assert again.recipe == model.recipe and again.recipe.stages == ()
    rows = market.arrow("products")
    assert np.array_equal(again.encode_products(rows), model.encode_products(rows))
    assert np.abs(again.encode_products(rows).mean(0)).max() < 0.2  # out of the cone
    plain = train(recipe(bert, "text.whitened=0.0", "stages.0.epochs=1"), make_market(tmp_path / "m"), tmp_path / "p")
    assert np.abs(plain.encode_products(rows).mean(0)).max() > 0.2


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (["text.shared=false"], "text.whitened: needs text.pretrained, text.shared"),
        (['query_tower.channels=["trigrams"]'], "text channels in both towers"),
        (["text.whitened=0.0", "stages=[]"], "without one only text.whitened learns anything"),
        (["head.queries=5", "stages=[]"], "blending and the head need one"),
    ],
)
def test_what_it_needs_is_said(bert: Path, changes: list[str], problem: str) -> None:
    with pytest.raises(MercatoError, match=problem):
        recipe(bert, *changes)
