"""Small studies to try things on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mercato.experiments.ablation.study import Study

ROWS: list[dict[str, Any]] = [
    {"name": "small", "paper": 0.70},
    {"name": "larger", "set": ["dimension=24"], "paper": 0.75},
    {"name": "+ a second stage", "set": ["stages.1.loss='in_batch_softmax'"], "paper": 0.76},
    {"name": "smaller", "from": "small", "set": ["dimension=8"], "paper": 0.72},
]


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
    """The runs that fake workers were asked for, in order."""
    return (out / "runs" / "calls.txt").read_text().split()
