"""A trial: one run of a study in a process of its own, trained and measured, of which the figures are kept.

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

import numpy as np
from filelock import FileLock

from mercato.config import Recipe
from mercato.data.market import Market
from mercato.errors import MercatoError
from mercato.evaluation.evaluate import Evaluation
from mercato.evaluation.metrics.arrays import FloatArray
from mercato.evaluation.metrics.bootstrap import estimates
from mercato.evaluation.results import OURS, ByMetric, PartCounts
from mercato.experiments.ablation.jobs import is_measured
from mercato.experiments.ablation.measures import MEASURES, REPLICATES, Epoch, Measures, Training
from mercato.files import write_atomic
from mercato.runs.export import export
from mercato.runs.folder import HISTORY, MONITOR, PRODUCT_TOWER, RECIPE, SPEC, WEIGHTS, read_history
from mercato.runs.image_vectors import products_with_vectors
from mercato.runs.torch_encoder import TorchEncoder, load
from mercato.training.train import BLENDING, train
from mercato.version import __version__

KEPT = {RECIPE, SPEC, HISTORY, BLENDING, MEASURES, REPLICATES, "README.md"}  # of a run that was measured


def run_trial(recipe: Recipe, market: Market, run: Path, keep: bool) -> None:
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
    figures: ByMetric[float] = {}
    counts: dict[str, PartCounts] = {}
    replicates: dict[str, FloatArray] = {}
    for part in evaluation.parts:
        statistics, counts[part] = evaluation.part(part, OURS)
        found = estimates(statistics, evaluation.weights(part))
        if found:
            figures[part] = {metric: estimate.value for metric, estimate in found.items()}
        replicates |= {f"{part}.{metric}": estimate.replicates_R for metric, estimate in found.items()}
    packed = io.BytesIO()
    np.savez_compressed(packed, **replicates)  # type: ignore[arg-type]
    write_atomic(run / REPLICATES, packed.getvalue())
    measures = Measures(
        figures=figures,
        n=counts,
        training=training_of(run),
        mercato=__version__,
        measured=datetime.now(UTC).date().isoformat(),
    )
    write_atomic(run / MEASURES, json.dumps(measures.as_dict()) + "\n")


def training_of(run: Path) -> Training:
    """What the run's history says of its training."""
    history = read_history(run)
    best = [row for row in history if row["best"]]
    return Training(
        seconds=sum(row.get("seconds", 0) for row in history),  # of the epochs: also right for a resumed run
        epochs=sum(row["epoch"] > 0 for row in history),
        validation_roc_auc=best[-1].get(MONITOR) if best else None,
        curve=[
            Epoch(stage=row["stage"], epoch=row["epoch"], loss=row.get("loss"), roc_auc=row.get(MONITOR))
            for row in history
        ],
    )


def _drop_weights(run: Path) -> None:
    (run / WEIGHTS).unlink(missing_ok=True)  # first: half a run must not look like a whole one
    for path in run.iterdir():
        if path.name not in KEPT:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


if __name__ == "__main__":
    try:
        run_trial(Recipe.parse(sys.stdin.read()), Market.open(sys.argv[1]), Path(sys.argv[2]), "--keep" in sys.argv[3:])
    except (MercatoError, OSError) as failure:
        sys.exit(f"error: {failure}")
