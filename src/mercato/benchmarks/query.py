"""`mercato bench query`: string → query vector, the whole path, one thread (Que2Search §3.5: 1.5 ms p99)."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from mercato.benchmarks.machine import machine
from mercato.benchmarks.untrained import untrained_run
from mercato.config import Recipe
from mercato.runs.latency import QUERIES, latency, made_up_queries, time_each
from mercato.runs.torch_encoder import TorchEncoder

BUDGET_MS = 0.3


def run(folder: Path | None = None) -> dict[str, Any]:
    """Time a run's query path, or an untrained Que2Search query tower's (2 layers, 4 heads, 128-d), on made-up queries.

    The query cache is left out: every query is new. The reference is the same tower, same strings, in eager torch.
    """
    with tempfile.TemporaryDirectory() as scratch:
        if folder is None:
            folder = Path(scratch)
            untrained_run(folder, _recipe())
        model = TorchEncoder.load(folder)
        times = latency(folder)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        reference = time_each(lambda query: model.encode_queries([query], "us"), made_up_queries(QUERIES // 3))
        torch.set_num_threads(threads)
    return {
        **times,
        "budget_p99_ms": BUDGET_MS,
        "eager_torch": reference,
        "ratio_p50": reference["p50_ms"] / times["p50_ms"],
        "recipe": model.recipe.name,
        "query_tokens": model.featurizer.spec.query_tokens,
        "vocabulary": model.featurizer.spec.vocabulary,
        "machine": machine(),
    }


def table(figures: dict[str, Any]) -> Table:
    """The figures for people."""
    grid = Table("", "p50", "p99", title="string → query vector, one thread")
    grid.add_row("mercato, ONNX Runtime", f"{figures['p50_ms']:.3f} ms", f"{figures['p99_ms']:.3f} ms")
    reference = figures["eager_torch"]
    grid.add_row("same tower, eager torch", f"{reference['p50_ms']:.3f} ms", f"{reference['p99_ms']:.3f} ms")
    grid.caption = (
        f"budget p99 ≤ {figures['budget_p99_ms']} ms; {figures['ratio_p50']:.1f}× faster than eager;"
        f" {figures['queries']:,} queries; {figures['machine']}"
    )
    return grid


def _recipe() -> Recipe:
    recipe = Recipe(name="que2search (untrained)")
    product_tower = recipe.product_tower.model_copy(update={"channels": ("title_trigrams",)})
    return recipe.model_copy(update={"product_tower": product_tower})
