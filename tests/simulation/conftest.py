from __future__ import annotations

from pathlib import Path

import pytest

from mercato.data.market import Market
from mercato.simulation.simulate import simulate


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Market:
    """A tiny simulated market, made once."""
    folder: Path = tmp_path_factory.mktemp("simulated") / "market"
    simulate(folder, "tiny", seed=7)
    return Market.open(folder)
