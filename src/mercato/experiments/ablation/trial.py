"""One run of a study in a process of its own: train, measure, keep the figures.

`python -m mercato.experiments.ablation.trial MARKET RUN [--keep]`, the recipe on standard input; killed at any point,
the same command picks up.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from mercato.config import Recipe
from mercato.data.market import Market
from mercato.errors import MercatoError
from mercato.evaluation.evaluate import OURS, Evaluation
from mercato.evaluation.metrics.bootstrap import point, resample
from mercato.experiments.ablation.jobs import MEASURES, REPLICATES, is_measured
from mercato.files import write_atomic
from mercato.runs.export import export
from mercato.runs.folder import HISTORY, MONITOR, PRODUCT_TOWER, RECIPE, SPEC, WEIGHTS, read_history
from mercato.runs.image_vectors import products_with_vectors
from mercato.runs.torch_encoder import TorchEncoder, load
from mercato.training.train import BLENDING, train
from mercato.version import __version__

KEPT = {RECIPE, SPEC, HISTORY, BLENDING, MEASURES, REPLICATES, "README.md"}  # of a run that was measured


def work(recipe: Recipe, market: Market, run: Path, keep: bool) -> None:
    """Do what is missing of a run; without `keep`, what its figures do not need (the weights) is then dropped."""
    with FileLock(run.parent / f".{run.name}.lock"):  # the process of a study that was killed may still be at it
        if not is_measured(run, keep):
            if not (run / WEIGHTS).is_file():
                train(recipe, market, run, onnx=keep)
            elif keep and not (run / PRODUCT_TOWER).is_file():
                export(TorchEncoder.load(run), run)
            if not is_measured(run, keep=False):
                measure(run, market)
        if not keep:
            _drop_weights(run)


def measure(run: Path, market: Market) -> None:
    """Write every figure of a run with its bootstrap replicates; queries, resamples and batches are the same for all.

    `measures.json` holds the figures, what they were measured on and when by which Mercato, the training and its curve;
    `replicates.npz` an array (R,) for each metric, named as in a study: "relevance.roc_auc".
    """
    model = load(run, market.path)
    products = products_with_vectors(market, model, run)
    evaluation = Evaluation.of(model, market, products=products, baselines=False)
    figures: dict[str, dict[str, float]] = {}
    counts: dict[str, Any] = {}
    replicates = {}
    for part in evaluation.parts:
        statistics, counts[part] = evaluation.part(part, OURS)
        weights_RQ = resample(counts[part]["queries"], evaluation.seed)
        for metric, statistic in statistics.items():
            value = point(statistic, counts[part]["queries"])
            if value is not None:
                figures.setdefault(part, {})[metric] = value
                replicates[f"{part}.{metric}"] = statistic(weights_RQ)
    packed = io.BytesIO()
    np.savez_compressed(packed, **replicates)  # type: ignore[arg-type]
    write_atomic(run / REPLICATES, packed.getvalue())
    made = {"mercato": __version__, "measured": datetime.now(UTC).date().isoformat()}
    measures = {"figures": figures, "n": counts, "training": _training(run), **made}
    write_atomic(run / MEASURES, json.dumps(measures) + "\n")


def _training(run: Path) -> dict[str, Any]:
    history = read_history(run)
    curve = [
        {"stage": row["stage"], "epoch": row["epoch"], "loss": row.get("loss"), "roc_auc": row.get(MONITOR)}
        for row in history
    ]
    best = [row for row in history if row["best"]]
    return {
        "seconds": sum(row.get("seconds", 0) for row in history),  # of the epochs: also right for a resumed run
        "epochs": sum(row["epoch"] > 0 for row in history),
        "validation_roc_auc": best[-1].get(MONITOR) if best else None,
        "curve": curve,
    }


def _drop_weights(run: Path) -> None:
    (run / WEIGHTS).unlink(missing_ok=True)  # first: half a run must not look like a whole one
    for path in run.iterdir():
        if path.name not in KEPT:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


if __name__ == "__main__":
    try:
        work(Recipe.parse(sys.stdin.read()), Market.open(sys.argv[1]), Path(sys.argv[2]), "--keep" in sys.argv[3:])
    except (MercatoError, OSError) as failure:
        sys.exit(f"error: {failure}")
