"""`mercato bench product`: product → vector, one by one, one thread: what an upsert costs (Que2Search §4: 7 ms)."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from rich.console import Group
from rich.table import Table

from mercato.benchmarks.machine import machine
from mercato.benchmarks.untrained import untrained_run
from mercato.config import Recipe
from mercato.config.towers import ProductTower, TextEncoder
from mercato.data.market import Market
from mercato.evaluation.evaluate import Evaluation
from mercato.evaluation.metrics.bootstrap import Interval
from mercato.reports.headlines import HEADLINES
from mercato.runs.encoder import RunEncoder
from mercato.runs.export import int8
from mercato.runs.folder import PRODUCT_TOWER
from mercato.runs.latency import made_up_queries, time_each
from mercato.runs.onnx_encoder import OnnxEncoder
from mercato.runs.torch_encoder import TorchEncoder

BUDGET_MS = 7.0
_TOKENS = 64
_IMAGE = 512  # the length of an image vector, which is given
_PRODUCTS = 600  # 200 of them to warm up
_EXACT = "float32"


def run(folder: Path | None = None, market: Market | None = None, products: int = _PRODUCTS) -> dict[str, Any]:
    """Time a run's product path, or an untrained tower's (6 layers, 384-d, a text of 64 tokens, an image vector).

    Features and tower, each product new. The reference is the same tower, same products, in eager torch. Beside both
    stands the tower in int8 (dynamic quantisation, weights per channel), its vectors' cosines with float32's and, where
    a run and a market are given, what it does to the metrics of search.
    """
    with tempfile.TemporaryDirectory() as scratch:
        if folder is None:
            folder = Path(scratch) / "run"
            untrained_run(folder, _recipe(), title_tokens=_TOKENS, image_dimension=_IMAGE)
        model = TorchEncoder.load(folder)
        texts = made_up_products(products)
        vectors = np.random.default_rng(0).normal(size=(products, math.prod(model.featurizer.spec.image_shape)))

        def timed(encoder: RunEncoder, count: int = products) -> dict[str, float]:
            each = {text: _product(text, vector) for text, vector in zip(texts, vectors, strict=True)}
            return time_each(lambda text: encoder.encode_products([each[text]]), texts[:count])

        encoder = OnnxEncoder(folder)
        float32 = timed(encoder)
        tower = int8((folder / PRODUCT_TOWER).read_bytes())
        sample = [_product(text, vector) for text, vector in zip(texts[:100], vectors, strict=False)]
        exact = encoder.encode_products(sample)
        encoder = _Int8(folder, tower)
        quantised = timed(encoder)
        cosines = np.sum(exact * encoder.encode_products(sample), axis=1)
        metrics = None if market is None else _metrics(folder, tower, market)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        reference = timed(model, max(products // 2, 201))
        torch.set_num_threads(threads)
    return {
        **float32,
        "budget_p99_ms": BUDGET_MS,
        "int8": quantised
        | {"cosine_mean": float(cosines.mean()), "cosine_least": float(cosines.min()), "metrics": metrics},
        "eager_torch": reference,
        "ratio_p50": reference["p50_ms"] / float32["p50_ms"],
        "recipe": model.recipe.name,
        "machine": machine(),
    }


def table(figures: dict[str, Any]) -> Group:
    """The figures for people."""
    grid = Table("", "p50", "p99", title="product → vector, one by one, one thread")
    rows = (("mercato, ONNX Runtime", figures), ("the same, int8", figures["int8"]))
    for name, times in (*rows, ("same tower, eager torch", figures["eager_torch"])):
        grid.add_row(name, f"{times['p50_ms']:.2f} ms", f"{times['p99_ms']:.2f} ms")
    quantised = figures["int8"]
    grid.caption = (
        f"budget p99 ≤ {figures['budget_p99_ms']:g} ms; {figures['ratio_p50']:.1f}× faster than eager; int8's cosine"
        f" with float32 {quantised['cosine_mean']:.4f}, at least {quantised['cosine_least']:.4f}; {figures['recipe']};"
        f" {figures['queries']:,} products; {figures['machine']}"
    )
    metrics = Table("", "float32", "int8", "int8 - float32, 95 %", title="the same search, products in either")
    for label, (exact, ours, difference) in (quantised["metrics"] or {}).items():
        interval = "-" if difference is None else f"[{difference[0]:+.4f}, {difference[1]:+.4f}]"
        metrics.add_row(label, f"{exact:.4f}", f"{ours:.4f}", interval)
    return Group(grid, *[metrics] * (metrics.row_count > 0))


def made_up_products(count: int) -> list[str]:
    """Distinct texts of about as many made-up words as fill 64 tokens."""
    words = made_up_queries(16 * count)
    return [" ".join(words[16 * place : 16 * (place + 1)]) for place in range(count)]


def _metrics(run: Path, tower: bytes, market: Market) -> dict[str, tuple[float, float, Interval | None]]:
    """The headline metrics: with float32 vectors, with int8 ones, and the difference's interval, by label."""
    encoders = _Int8(run, tower, market.path), OnnxEncoder(run, market.path)
    found = Evaluation.of(encoders[0], market, others={_EXACT: encoders[1]}, baselines=False).metrics()
    exact, differences = found.baselines[_EXACT], found.differences[_EXACT]
    return {
        headline.label: (theirs.value, ours.value, headline.of(differences))
        for headline in HEADLINES
        if (ours := headline.of(found.ours)) and (theirs := headline.of(exact))
    }


class _Int8(OnnxEncoder):
    def __init__(self, run: Path, tower: bytes, market_path: Path | None = None) -> None:
        super().__init__(run, market_path)
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.__dict__["_product"] = ort.InferenceSession(tower, options, providers=["CPUExecutionProvider"])


def _product(text: str, vector: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, Any]:
    images = [vector.astype(np.float32)] if len(vector) else None
    return {"product_id": text, "title": text, "country": "us", "language": "en", "image_embeddings": images}


def _recipe() -> Recipe:
    text = TextEncoder(layers=6, heads=6, hidden=384, feed_forward=1536)
    tower = ProductTower(channels=("title_text", "language", "country", "images"), text=text)
    return Recipe(name="6 × 384 (untrained)", product_tower=tower)
