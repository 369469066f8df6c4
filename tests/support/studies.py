"""Small studies to try things on, with trials that take a blink."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from mercato.config import Recipe
from mercato.experiments.ablation.study import Study

ROWS: list[dict[str, Any]] = [
    {"name": "small", "paper": 0.70},
    {"name": "larger", "set": ["dimension=24"], "paper": 0.75},
    {"name": "+ a second stage", "set": ["stages.1.loss='in_batch_softmax'"], "paper": 0.76},
    {"name": "smaller", "from": "small", "set": ["dimension=8"], "paper": 0.72},
]

BOTH = ["engagement.roc_auc", "relevance.roc_auc"]
MANY = [
    "engagement.roc_auc_exposure_matched",
    "engagement.roc_auc",
    "batch.recall@1",
    "relevance.ndcg@10",
    "relevance.roc_auc",
]
PAPERS = (
    {"engagement.roc_auc": 0.56, "relevance.roc_auc": 0.67},
    {"engagement.roc_auc": 0.55, "relevance.roc_auc": 0.68},
)
TWO_METRICS: list[dict[str, Any]] = [
    {"name": "small", "paper": PAPERS[0]},
    {"name": "larger", "set": ["dimension=24"], "paper": PAPERS[1]},
    {"name": "smaller", "from": "small", "set": ["dimension=8"], "paper": PAPERS[1]},
]


@pytest.fixture
def fake_trial(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Trials take a blink."""
    command = [sys.executable, "-m", "tests.support.fake_trial"]
    monkeypatch.setattr("mercato.experiments.ablation.jobs.TRIAL", command)
    return command


@pytest.fixture
def recipes(tmp_path: Path, tiny_recipe: Recipe) -> Path:
    """A folder with the recipe `tiny.toml` that these studies start from."""
    (tmp_path / "tiny.toml").write_text(tiny_recipe.toml())
    return tmp_path


def study(**changes: Any) -> Study:
    fields = {
        "name": "toy-table",
        "title": "Toys | and more",
        "recipe": "tiny.toml",
        "metrics": ["relevance.roc_auc"],
        "seeds": [0, 1, 2],
        "reference": "Nobody, Table 0",
        "rows": ROWS,
    }
    return Study.model_validate(fields | changes)


def calls(out: Path) -> list[str]:
    """The runs that fake trials were asked for, in order."""
    return _lines(out, 0)


def threads(out: Path) -> list[str]:
    """How many threads each of them was given."""
    return _lines(out, 1)


def _lines(out: Path, column: int) -> list[str]:
    return [line.split()[column] for line in (out / "runs" / "calls.txt").read_text().splitlines()]
