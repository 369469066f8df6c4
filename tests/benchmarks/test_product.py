"""The benchmark of the product path: float32, int8 and eager torch, on the same products."""

from __future__ import annotations

from rich.console import Console

from mercato.benchmarks import product


def test_a_runs_tower_is_timed_in_both_precisions_and_beside_torch(tiny_run, tiny_market):
    figures = product.run(tiny_run, tiny_market, products=230)
    assert figures["queries"] == figures["int8"]["queries"] == figures["eager_torch"]["queries"] + 29 == 30
    assert 0 < figures["p50_ms"] <= figures["p99_ms"] and figures["ratio_p50"] > 0
    assert 0.9 < figures["int8"]["cosine_least"] <= figures["int8"]["cosine_mean"] < 1.001
    exact, int8, (low, high) = figures["int8"]["metrics"]["relevance ROC AUC, per query"]
    assert abs(int8 - exact) < 0.1 and low <= int8 - exact <= high
    console = Console(width=120, record=True)
    console.print(product.table(figures))
    assert "int8" in console.export_text()
