"""An ablation study: do the runs that it lacks, then make its table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape

from mercato.config import Recipe
from mercato.data.market import Market
from mercato.errors import MercatoError
from mercato.evaluation.dataset import EvaluationSet
from mercato.evaluation.evaluate import Evaluation
from mercato.evaluation.metrics.bootstrap import point
from mercato.evaluation.results import OURS
from mercato.evaluation.systems import RandomSystem
from mercato.experiments.ablation.jobs import Job, do_missing, run_name
from mercato.experiments.ablation.rows import RowFiles
from mercato.experiments.ablation.study import Study
from mercato.experiments.ablation.table import Table, build
from mercato.progress import note

RUNS = "runs"


def measure_study(
    study: Study, folder: Path, market: Market, out: Path, *, jobs: int | None = None, keep: bool = False
) -> Table:
    """Train and measure every row of a study with every seed, as far as `out` lacks them.

    A row whose seeds are all measured is written to `out/STUDY/01-ROW.json` at once (`RowFigures`).

    Args:
        study: rows, seeds, metrics (`load_study`).
        folder: where the study's recipes may lie as files.
        market: to train and measure on.
        out: holds `runs/`, which studies share: a run is named by its recipe and its market, and what is there is not
            done again.
        jobs: processes at once, which share the cores; None: one a core, or one in all where there is a GPU.
        keep: keep each run whole (weights, ONNX towers); else its recipe, history and figures.

    Raises:
        MercatoError: a row's recipe is wrong, the market does not allow a metric (both before anything is trained),
            or runs failed.
    """
    recipes = study.recipes(folder)
    if out.exists() and not out.is_dir():
        raise MercatoError(f"{out} exists and is not a folder: give a new folder")
    require_metrics(market, study.metrics)
    note(f"[bold]{escape(study.title)}[/]: rows {len(study.rows)}, seeds {len(study.seeds)}")
    fingerprint = market.fingerprint()

    def job(number: int, seed: int) -> Job:
        recipe = Recipe.model_validate(recipes[number].model_dump() | {"seed": seed})
        return Job(f"row {study.rows[number].name!r}, seed {seed}", recipe, out / RUNS / run_name(recipe, fingerprint))

    grid = [[job(number, seed) for seed in study.seeds] for number in range(len(recipes))]
    runs = [[job.run for job in row] for row in grid]
    files = RowFiles(study, {"name": market.config.name, "fingerprint": fingerprint}, runs, out / study.name)
    files.write_ended()  # of rows that are there
    row_by_row = [job for row in grid for job in row]  # an interruption loses one row
    do_missing(row_by_row, market, at_once=jobs, keep=keep, ended=files.write_ended)
    return build(study, market, fingerprint, runs)


def require_metrics(market: Market, metrics: Sequence[str]) -> None:
    """Make sure that the market's tables allow every metric, by measuring chance.

    Raises:
        MercatoError: they do not; the message names those that they allow.
    """
    dataset = EvaluationSet.read(market, "test")
    chance = Evaluation(market, dataset, {OURS: RandomSystem(len(dataset.product_ids), 0)}, 0)
    for metric in metrics:
        part, _, name = metric.partition(".")
        if part not in chance.parts:
            allowed = f"allows {', '.join(chance.parts)}" if chance.parts else "has no test judgments, no engaged pairs"
            raise MercatoError(f"metrics: {metric} cannot be measured on {market.path}; it {allowed}")
        known, counts = chance.part(part, OURS)
        if name not in known:
            raise MercatoError(f"metrics: {part} has no {name}; it has {', '.join(known)}")
        defined = [each for each, statistic in known.items() if point(statistic, counts.queries) is not None]
        if name not in defined:
            raise MercatoError(
                f"metrics: {metric} is undefined on {market.path}, which has no positive and negative pairs to compare;"
                f" defined there: {', '.join(defined) or 'nothing'}"
            )
