from __future__ import annotations

from pathlib import Path

import pytest
from toys import make_market

from mercato.data.market import Market


@pytest.fixture(scope="session")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Market:
    """To read only."""
    return make_market(Path(tmp_path_factory.mktemp("toys")) / "market")


@pytest.fixture
def unexported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train without the ONNX towers, which take longer than all the rest."""
    monkeypatch.setattr("mercato.training.train.export", lambda model, run: None)
