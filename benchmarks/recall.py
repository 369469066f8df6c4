"""What a step of the recall stage costs: seconds and memory, by the number of shared negatives.

    python benchmarks/recall.py --negatives 1000 100000 1000000 --chunk 8192 --known 0.1 --out OUT

A step of 256 queries against random content of 128 numbers, with the ids of four fields: the loss, its gradients, the
clip and the optimiser, as in `mercato train`. `--known` is the share of products that have an id of their own, each in
a row of its own. Every size runs in a process of its own; its memory is the most that steps took beyond what content,
weights and the optimiser's state hold. `--chunk 0` is the reference: all columns at once.

Shapes: B queries, J columns, D numbers of a vector, K fields.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mercato.benchmarks.machine import machine
from mercato.config.stages import SampledSoftmax
from mercato.losses.sampled_softmax import log_sum, sampled_softmax
from mercato.models.ids import IdEmbeddings
from mercato.models.recall import Join
from mercato.models.tower import TwoTower
from mercato.training.optimizer import adam, clip

B, D = 256, 128
FIELDS = {"seller": 20_000, "category": 300, "brand": 2_000}  # how many of each there are, beside the product
STEPS = 3  # that are timed, after one that makes the optimiser's state


class Recall(nn.Module):
    """What learns: a layer of each tower, and the products' ID embeddings."""

    def __init__(self, known: int) -> None:
        super().__init__()
        self.query, self.product = Join(D, 0), Join(D, 1)
        self.ids = IdEmbeddings([known, *FIELDS.values()], D)
        self.vision = None

    text_parameters = TwoTower.text_parameters
    text_encoders = TwoTower.text_encoders


def measure(negatives: int, chunk: int | None, known: float = 1.0) -> dict[str, float]:
    """Seconds of a step, by the clock and of the processor, and its memory in MB."""
    torch.manual_seed(0)
    own = max(1, round(known * negatives))
    model, stage = Recall(own), SampledSoftmax()
    content_JD = F.normalize(torch.randn(negatives, D), dim=-1)
    product_J = torch.zeros(negatives, dtype=torch.int64)
    product_J[torch.randperm(negatives)[:own]] = torch.arange(own) + 1
    others = [torch.randint(1, count + 1, (negatives,)) for count in FIELDS.values()]
    ids_JK = torch.stack([product_J, *others], dim=1)
    optimizer = adam(model, stage)
    excluded_E2 = torch.zeros(0, 2, dtype=torch.int64)

    def vectors(start: int, stop: int) -> Tensor:
        joined: Tensor = model.product(content_JD[start:stop], model.ids(ids_JK[start:stop]))
        return joined

    def step() -> None:
        own_B = torch.randint(negatives, (B,))
        query_BD = model.query(F.normalize(torch.randn(B, D), dim=-1), None)
        product_BD = model.product(content_JD[own_B], model.ids(ids_JK[own_B]))
        others_B = log_sum(
            query_BD, vectors, scale=20.0, log_q_J=torch.zeros(negatives), excluded_E2=excluded_E2, chunk=chunk
        )
        loss = sampled_softmax(20.0 * (query_BD * product_BD).sum(1), others_B)
        optimizer.zero_grad()
        loss.backward()
        clip(model.parameters(), stage.clip)
        optimizer.step()

    step()
    optimizer.zero_grad()
    with Peak() as peak:
        start, worked = time.perf_counter(), time.process_time()
        for _ in range(STEPS):
            step()
        took = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - worked}
    row = {"negatives": negatives, "known": own, "chunk": chunk or 0, "step_mb": peak.mb, "held_mb": peak.before}
    return row | {name: value / STEPS for name, value in took.items()}


class Peak:
    """The most memory that the process takes while in the context, beyond what it took before."""

    def __enter__(self) -> Peak:
        self._over, self.mb, self.before = threading.Event(), 0.0, resident_mb()
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._watcher.join()

    def _watch(self) -> None:
        while not self._over.wait(0.005):
            self.mb = max(self.mb, resident_mb() - self.before)


def resident_mb() -> float:
    """What the process has in memory, as Linux tells it."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def main() -> None:
    """Measure each size, in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--negatives", type=int, nargs="+", default=[1_000, 100_000, 1_000_000])
    parser.add_argument("--chunk", type=int, nargs="+", default=[SampledSoftmax().micro_batch or 0])
    parser.add_argument("--known", type=float, default=1.0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(measure(asked.negatives[0], asked.chunk[0] or None, asked.known)))
        return
    rows = []
    print(f"{B} queries a step; {machine()}\n")
    columns = ["negatives", "known ids", "chunk", "seconds a step", "of a core", "MB a step", "MB held"]
    print(f"| {' | '.join(columns)} |\n|{'--:|' * len(columns)}")
    for negatives in asked.negatives:
        for chunk in asked.chunk:
            own = ["--negatives", str(negatives), "--chunk", str(chunk), "--known", str(asked.known)]
            done = subprocess.run([sys.executable, __file__, "--one", *own], check=True, stdout=subprocess.PIPE)
            row = json.loads(done.stdout)
            cells = [f"{negatives:,}", f"{row['known']:,}", f"{chunk:,}" if chunk else "all"]
            cells += [f"{row['seconds']:.2f}", f"{row['cpu_seconds']:.2f}"]
            cells += [f"{row[name]:,.0f}" for name in ("step_mb", "held_mb")]
            print(f"| {' | '.join(cells)} |", flush=True)
            rows.append(row)
    if asked.out:
        asked.out.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
