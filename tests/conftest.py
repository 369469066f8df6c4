"""What several rooms' tests share: a tiny simulated market, and one run trained on it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from mercato.config import Recipe
from mercato.data.market import Market
from mercato.data.mining import mine
from mercato.progress import quiet
from mercato.simulation.simulate import simulate
from mercato.training.train import train

# No test depends on how fast or how busy the machine is.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

TINY = """
name = "tiny"
dimension = 16
dropout = 0.2
trigrams = { buckets = 500 }
text = { vocabulary = 400 }
query_tower = { text = { layers = 1, heads = 2, hidden = 16, feed_forward = 32 } }
images = { epochs = 1, size = 16 }
stages = [{ batch_size = 64, epochs = 3, learning_rate = 5e-3, text_learning_rate = 2e-3 }]

[product_tower]
title_tokens = 12
description_tokens = 12
text = { layers = 1, heads = 2, hidden = 16, feed_forward = 32 }
"""


@pytest.fixture(scope="session", autouse=True)
def _modest() -> None:
    torch.set_num_threads(1)  # tensors this small only wait for a second one
    quiet()


@pytest.fixture(scope="session")
def tiny_market(tmp_path_factory: pytest.TempPathFactory) -> Market:
    """300 products with photos, a log mined into pairs, judgments. To read only."""
    folder: Path = tmp_path_factory.mktemp("tiny") / "market"
    simulate(folder, "tiny", 0)
    market = Market.open(folder)
    mine(market)
    return market


@pytest.fixture(scope="session")
def tiny_recipe() -> Recipe:
    """Every channel of Que2Search, as small as it goes: an epoch takes about a second."""
    return Recipe.parse(TINY)


@pytest.fixture(scope="session")
def tiny_run(tiny_market: Market, tiny_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run of `tiny_recipe` on `tiny_market`. To read only."""
    run: Path = tmp_path_factory.mktemp("runs") / "tiny"
    train(tiny_recipe, tiny_market, run)
    return run
