"""Stands in for `mercato.experiments.ablation.trial`: a recipe's figures are of its dimension and seed."""

from __future__ import annotations

import json
import os
import sys
import time
import tomllib
from pathlib import Path

import numpy as np

recipe = tomllib.loads(sys.stdin.read())
run = Path(sys.argv[2])
with (run.parent / "calls.txt").open("a") as calls:
    calls.write(f"{run.name} {os.environ['OMP_NUM_THREADS']}\n")
if len((run.parent / "calls.txt").read_text().splitlines()) > int(os.environ.get("FAKE_TRIALS", "1000")):
    time.sleep(3600)  # it never ends: somebody kills it
if recipe["dropout"] > 0.8:
    sys.exit("a line of the log\nerror: the loss of epoch 1 is nan")
dimension, seed, stages = recipe["dimension"], recipe["seed"], recipe["stages"]
value = dimension / 100 + seed / 1000
noise = np.random.default_rng(0).normal(0, 0.01, 1000)  # of the queries: the same for every run
own = np.random.default_rng(dimension).normal(0, 0.002, 1000)
curve = [
    {"stage": stage, "epoch": epoch, "loss": None, "roc_auc": value - 0.1 / (stage + epoch)}
    for stage in range(1, len(stages) + 1)
    for epoch in range(4)
]
measures = {
    "figures": {
        "relevance": {"roc_auc": value, "ndcg@10": value / 2},
        "engagement": {"roc_auc": 1 - value, "roc_auc_exposure_matched": 1 - value / 2},
        "batch": {"recall@1": value / 3},
    },
    "n": {
        "relevance": {"queries": 31, "pairs": 530},
        "engagement": {"queries": 1525, "pairs": 22_806},
        "batch": {"queries": 20, "pairs": 20},
    },
    "training": {"seconds": 12.0, "epochs": 3 * len(stages), "validation_roc_auc": value, "curve": curve},
    "mercato": "0.0.1",
    "measured": f"2026-05-0{seed + 1}",
}
run.mkdir(parents=True, exist_ok=True)
replicates = {
    f"{part}.{metric}": figure + noise + own
    for part, figures in measures["figures"].items()
    for metric, figure in figures.items()
}
np.savez(run / "replicates.npz", **replicates)
if "--keep" in sys.argv:
    (run / "model.safetensors").touch()
    (run / "product_tower.onnx").touch()
(run / "measures.json").write_text(json.dumps(measures))
