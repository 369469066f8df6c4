"""Query latency of a run, string to vector: what `mercato export` says and `mercato bench query` compares."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mercato.runs.onnx_encoder import OnnxEncoder

QUERIES, WARM_UP = 3_000, 200


def latency(folder: Path) -> dict[str, float]:
    """Milliseconds from a new string to its vector in the encoder, one thread: `p50_ms`, `p99_ms`, `queries`."""
    encoder = OnnxEncoder(folder, threads=1)
    encoder.encode_queries(["warm up"], "us")
    return time_each(lambda query: encoder.encode_queries([query], "us"), made_up_queries(QUERIES))


def exported(differences: dict[str, float], times: dict[str, float]) -> str:
    """What `mercato export` says: how far ONNX is from torch, and how fast the query path is."""
    lines = [f"{tower} tower: ONNX differs from torch by {worst:.1e} at most" for tower, worst in differences.items()]
    speed = f"string → query vector, one thread: {times['p50_ms']:.3f} ms p50, {times['p99_ms']:.3f} ms p99"
    return "\n".join([*lines, speed])


def time_each(encode: Callable[[str], Any], queries: list[str]) -> dict[str, float]:
    """Milliseconds of each call after a warm-up: `p50_ms`, `p99_ms`, and how many `queries` were timed."""
    for query in queries[:WARM_UP]:
        encode(query)
    seconds = []
    for query in queries[WARM_UP:]:
        start = time.perf_counter()
        encode(query)
        seconds.append(time.perf_counter() - start)
    p50, p99 = np.percentile(seconds, [50, 99]) * 1e3
    return {"p50_ms": float(p50), "p99_ms": float(p99), "queries": len(seconds)}


def made_up_queries(count: int) -> list[str]:
    """Distinct strings of one to four made-up words: about as long as a marketplace's queries."""
    generator = np.random.default_rng(0)
    syllables = ["so", "fa", "re", "d", "ta", "ble", "la", "mp", "bi", "ke", "cha", "ir", "wo", "od", "gu", "ita", "r"]
    words = ["".join(generator.choice(syllables, generator.integers(2, 4))) for _ in range(4_000)]
    return [" ".join(generator.choice(words, generator.integers(1, 5))) + f" {i}" for i in range(count)]
