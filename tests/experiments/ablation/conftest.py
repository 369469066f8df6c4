from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mercato.config import Recipe


@pytest.fixture
def fake_worker(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs take a blink."""
    command = [sys.executable, "-m", "tests.support.fake_trial"]
    monkeypatch.setattr("mercato.experiments.ablation.jobs.WORKER", command)
    return command


@pytest.fixture
def recipes(tmp_path: Path, tiny_recipe: Recipe) -> Path:
    """A folder with the recipe `tiny.toml` that the studies of `studies.py` start from."""
    (tmp_path / "tiny.toml").write_text(tiny_recipe.toml())
    return tmp_path
