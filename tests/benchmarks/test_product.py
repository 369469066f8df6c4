"""The benchmark of the product path: float32, int8 and eager torch, on the same products."""

from __future__ import annotations

from rich.console import Console

from mercato.benchmarks import product


def test_a_runs_tower_is_timed_in_both_precisions_and_beside_torch(tiny_run):
    figures = product.run(tiny_run, products=230)
    assert figures["queries"] == figures["int8"]["queries"] == figures["eager_torch"]["queries"] + 29 == 30
    assert 0 < figures["p50_ms"] <= figures["p99_ms"] and figures["ratio_p50"] > 0
    assert 0.9 < figures["int8"]["cosine_least"] <= figures["int8"]["cosine_mean"] < 1.001
    console = Console(width=120, record=True)
    console.print(product.table(figures))
    assert "int8" in console.export_text()
