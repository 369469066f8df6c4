"""A pretrained encoder's projection, started from what the catalogue says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from toys import make_market, toy_recipe

from mercato.errors import MercatoError
from mercato.models.build import build_towers, text_configs
from mercato.models.que2search import TwoTower
from mercato.text.features import FeatureSpec
from mercato.training.prepare import Prepared, prepare
from mercato.training.whitening import whiten


@pytest.fixture
def started(bert: Path, tmp_path: Path) -> tuple[TwoTower, Prepared, FeatureSpec]:
    changes = ("layers=2", "pooling=mean")
    towers = [f"{tower}_tower.text.{change}" for tower in ("query", "product") for change in changes]
    recipe = toy_recipe(f"text.pretrained={bert}", "text.shared=true", 'product_tower.channels=["text"]', *towers)
    prepared = prepare(make_market(tmp_path / "market"), recipe, tmp_path)
    spec = prepared.featurizer.spec
    return build_towers(recipe, spec, text_configs(recipe, spec)), prepared, spec


def said(towers: TwoTower, prepared: Prepared) -> torch.Tensor:
    towers.eval()
    tokens = torch.from_numpy(prepared.examples.products["text_tokens"].astype(np.int64))
    with torch.inference_mode():
        return towers.product.text(tokens).double()


def test_white_vectors_are_centred_and_uncorrelated(started):
    towers, prepared, spec = started
    products = prepared.examples.products
    before = said(towers, prepared)
    rank = int((torch.linalg.eigvalsh(before.T.cov()) > 1e-4 * before.T.cov().trace()).sum())
    whiten(towers, products, spec, 1.0, seed=0)
    after = said(towers, prepared)
    assert after.mean(0).abs().max() < 1e-5
    covariance = after.T.cov()
    assert (covariance - torch.diag(covariance.diagonal())).abs().max() < 1e-5
    strong = covariance.diagonal()[:rank]
    assert strong.max() / strong.min() == pytest.approx(1, abs=0.05)
    assert after.norm(dim=1).mean() == pytest.approx(1, abs=1e-5)
    assert towers.query.text is towers.product.text  # the queries are read by it too


def test_power_zero_only_centres(started):
    towers, prepared, spec = started
    before = said(towers, prepared)
    whiten(towers, prepared.examples.products, spec, 0.0, seed=0)
    centred, after = before - before.mean(0), said(towers, prepared)
    cosines = [
        torch.nn.functional.normalize(x, dim=1) @ torch.nn.functional.normalize(x, dim=1).T for x in (centred, after)
    ]
    torch.testing.assert_close(*cosines, atol=1e-4, rtol=0)


def test_the_towers_go_on_in_the_mode_they_were_in(started):
    towers, prepared, spec = started
    for mode in (True, False):
        towers.train(mode)
        whiten(towers, prepared.examples.products, spec, 0.5, seed=0)
        assert towers.training is mode
        assert not towers.product.text.projection._forward_pre_hooks


@pytest.mark.parametrize("missing", ["text.shared=true", "text.pretrained=somewhere"])
def test_what_it_needs_is_said(missing):
    with pytest.raises(MercatoError, match=r"text.whitened: needs text.pretrained, text.shared"):
        toy_recipe("text.whitened=0.5", missing)
