"""`mercato bench query`: string → query vector, the whole path, one thread (Que2Search §3.5: 1.5 ms p99)."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table

from mercato.benchmarks.machine import machine
from mercato.config import Recipe
from mercato.models.build import build_towers, text_configs
from mercato.models.export import export
from mercato.models.model import Model
from mercato.serving.predictor import Predictor
from mercato.text.features import FeatureSpec, Featurizer
from mercato.text.tokenizer import train_tokenizer

QUERIES, WARM_UP = 3_000, 200
BUDGET_MS = 0.3


def run(folder: Path | None = None) -> dict[str, Any]:
    """Time a run's query path, or an untrained Que2Search query tower's (2 layers, 4 heads, 128-d), on made-up queries.

    The query cache is left out: every query is new. The reference is the same tower, same strings, in eager torch.
    """
    with tempfile.TemporaryDirectory() as scratch:
        if folder is None:
            folder = Path(scratch)
            _untrained(folder)
        model = Model.load(folder)
        times = latency(folder)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        reference = _time(lambda query: model.encode_queries([query], "us"), _queries(QUERIES // 3))
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


def latency(folder: Path) -> dict[str, float]:
    """Milliseconds from a new string to its vector in the predictor, one thread: `p50_ms`, `p99_ms`, `queries`."""
    predictor = Predictor(folder, threads=1)
    predictor.encode_queries(["warm up"], "us")
    return _time(lambda query: predictor.encode_queries([query], "us"), _queries(QUERIES))


def exported(differences: dict[str, float], times: dict[str, float]) -> str:
    """What `mercato export` says: how far ONNX is from torch, and how fast the query path is."""
    lines = [f"{tower} tower: ONNX differs from torch by {worst:.1e} at most" for tower, worst in differences.items()]
    speed = f"string → query vector, one thread: {times['p50_ms']:.3f} ms p50, {times['p99_ms']:.3f} ms p99"
    return "\n".join([*lines, speed])


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


def _time(encode: Callable[[str], Any], queries: list[str]) -> dict[str, float]:
    for query in queries[:WARM_UP]:
        encode(query)
    seconds = []
    for query in queries[WARM_UP:]:
        start = time.perf_counter()
        encode(query)
        seconds.append(time.perf_counter() - start)
    p50, p99 = np.percentile(seconds, [50, 99]) * 1e3
    return {"p50_ms": float(p50), "p99_ms": float(p99), "queries": len(seconds)}


def _queries(count: int) -> list[str]:
    """Distinct strings of one to four made-up words: about as long as a marketplace's queries."""
    generator = np.random.default_rng(0)
    syllables = ["so", "fa", "re", "d", "ta", "ble", "la", "mp", "bi", "ke", "cha", "ir", "wo", "od", "gu", "ita", "r"]
    words = ["".join(generator.choice(syllables, generator.integers(2, 4))) for _ in range(4_000)]
    return [" ".join(generator.choice(words, generator.integers(1, 5))) + f" {i}" for i in range(count)]


def _untrained(folder: Path) -> None:
    recipe = Recipe(name="que2search (untrained)")
    recipe = recipe.model_copy(
        update={"product_tower": recipe.product_tower.model_copy(update={"channels": ("title_trigrams",)})}
    )
    tokenizer = train_tokenizer(_queries(20_000), recipe.text.vocabulary)
    spec = FeatureSpec(
        query_channels=recipe.query_tower.channels,
        product_channels=recipe.product_tower.channels,
        pad_id=0,
        vocabulary=tokenizer.get_vocab_size(),
        buckets=recipe.trigrams.buckets,
        query_tokens=16,
        query_characters=48,
        title_tokens=32,
        description_tokens=64,
        countries=("gb", "us"),
        languages=("en",),
    )
    torch.manual_seed(0)
    towers = build_towers(recipe, spec, text_configs(recipe, spec))
    model = Model(recipe, Featurizer(spec, tokenizer), None, towers)
    model.save(folder)
    export(model, folder)
