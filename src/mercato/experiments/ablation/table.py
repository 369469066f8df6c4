"""Measured runs → the table of a study."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from mercato.data.market import Market
from mercato.errors import MercatoError
from mercato.evaluation.metrics.arrays import FloatArray
from mercato.evaluation.metrics.bootstrap import Interval
from mercato.evaluation.results import ByMetric, PartCounts, Result
from mercato.experiments.ablation.measures import MEASURES, Epoch, Measures, Training, read_replicates
from mercato.experiments.ablation.statistics import Difference, Residual, difference, holm, seed_half_width
from mercato.experiments.ablation.study import Study

OTHER_MARKET = (
    "The paper's figures are of another market, with other raters and other queries: only the order of the rows and the"
    " signs of the steps compare."
)

ADJUSTED = (
    "≈: the interval holds 0, or the step cannot be told from 0 once all steps and metrics of the page are counted"
    " (p adjusted by Holm's method ≥ .05)"
)
LEVEL = 0.05


@dataclass(frozen=True, kw_only=True)
class Step(Result):
    """The difference to the row that a row starts from, and the paper's."""

    value: float
    interval: Interval
    half_width_seeds: float | None  # None for one seed
    half_width_queries: float
    relative: float | None  # percent, where the paper's is
    paper: float | None
    paper_relative: float | None  # percent
    p: float  # adjusted for all steps of the page (`statistics`)
    sure: bool  # the interval leaves 0, and p is below .05
    verdict: str | None  # agrees | disagrees | unsure; None where the paper has no sign


@dataclass(frozen=True, kw_only=True)
class MetricResult(Result):
    """One metric of one row: the paper's figure, ours, and the step."""

    paper: float | None
    mean: float  # over seeds
    half_width: float | None  # of the interval over seeds; None for one
    values: list[float]  # of each seed
    step: Step | None


@dataclass(frozen=True)
class RowDifference(Result):
    """One row less another, paired."""

    value: float
    interval: Interval


@dataclass(frozen=True, kw_only=True)
class TrainingMeans(Result):
    """What training took and reached, the mean over seeds."""

    seconds: float
    epochs: float
    validation_roc_auc: float | None


@dataclass(frozen=True, kw_only=True)
class TableRow(Result):
    """One line of the table."""

    name: str
    from_: str | None
    recipe: str | None
    set_: list[str]
    paper_note: str | None
    metrics: dict[str, MetricResult]  # those of the study
    figures: ByMetric[float]  # every metric, the mean over seeds
    training: TrainingMeans
    curves: list[list[Epoch]]  # of each seed
    runs: list[str]  # the names of their folders


@dataclass(frozen=True, kw_only=True)
class Table(Result):
    """What `mercato ablate --json` prints."""

    name: str
    title: str
    reference: str
    recipe: str
    set_: list[str]
    metrics: list[str]
    curve: bool
    seeds: list[int]
    market: dict[str, str]  # its name and fingerprint
    note: str
    method: str
    n: dict[str, PartCounts]
    differences: dict[str, dict[str, dict[str, RowDifference]]]  # metric → row → other row → row less other
    mercato: list[str]  # versions of the code
    measured: list[str]  # days, UTC
    rows: list[TableRow]


@dataclass(frozen=True)
class MeasuredMetric:
    """One metric of every row and seed."""

    values_WZ: FloatArray
    replicates_WZR: FloatArray  # bootstrap replicates, NaN where undefined

    def compare(self, one: int, other: int) -> Difference:
        """One row less another."""
        values, replicates = self.values_WZ, self.replicates_WZR
        return difference(values[one], values[other], replicates[one], replicates[other])


def method(study: Study) -> str:
    """What the ± and the brackets of a table mean."""
    seeds = len(study.seeds)
    step = "Step: the difference to the row that a row starts from, paired by seed and by query"
    if seeds == 1:
        return (
            f"One seed: no ± over seeds. {step}; its 95 % interval covers the choice of queries only (bootstrap), not"
            f" that of the seed. {ADJUSTED}."
        )
    return (
        f"±: 95 % t interval over {seeds} seeds. {step}; the half-width of its 95 % interval is"
        " √((t·s_d/√n)² + (1.96·se_q)²), with s_d the deviation of the differences over the n seeds and se_q the"
        f" bootstrap standard error over queries of their mean. {ADJUSTED}, with the variance over seeds that all rows"
        " share (residual of rows × seeds)."
    )


def build(study: Study, market: Market, fingerprint: str, runs: Sequence[Sequence[Path]]) -> Table:
    """The whole table.

    Args:
        study: its rows and seeds.
        market: what the runs were trained and measured on.
        fingerprint: the market's.
        runs: the measured run of each row and seed, (rows, seeds).

    Raises:
        MercatoError: the market does not allow one of the study's metrics, or a run's figures cannot be read.
    """
    measures = [[Measures.read(run) for run in row] for row in runs]
    every = [each for row in measures for each in row]
    measured = {metric: _measured(metric, runs, measures) for metric in study.metrics}
    adjusted = adjusted_ps(study, measured)
    rows = []
    for number, (row, parent) in enumerate(zip(study.rows, study.parents, strict=True)):
        own = measures[number]
        rows.append(
            TableRow(
                name=row.name,
                from_=None if parent is None else study.rows[parent].name,
                recipe=row.recipe,
                set_=list(row.changes),
                paper_note=row.paper_note or None,
                metrics={
                    metric: metric_result(study, number, metric, of, adjusted.get((number, metric), 1.0))
                    for metric, of in measured.items()
                },
                figures=_means([each.figures for each in own]),
                training=_training([each.training for each in own]),
                curves=[each.training.curve for each in own],
                runs=[run.name for run in runs[number]],
            )
        )
    counts = every[0].n
    return Table(
        name=study.name,
        title=study.title,
        reference=study.reference,
        recipe=study.recipe,
        set_=list(study.changes),
        metrics=list(study.metrics),
        curve=study.curve,
        seeds=list(study.seeds),
        market={"name": market.config.name, "fingerprint": fingerprint},
        note=OTHER_MARKET if any(row.paper or row.paper_relative or row.paper_note for row in study.rows) else "",
        method=method(study),
        n={part: counts[part] for part in dict.fromkeys(metric.partition(".")[0] for metric in study.metrics)},
        differences={metric: _differences(study, of) for metric, of in measured.items()},
        mercato=_distinct(each.mercato for each in every),
        measured=_distinct(each.measured for each in every),
        rows=rows,
    )


def adjusted_ps(study: Study, measured: Mapping[str, MeasuredMetric]) -> dict[tuple[int, str], float]:
    """The p-value of every step (row number, metric), adjusted for the number of all (`holm`)."""
    steps = [(number, parent) for number, parent in enumerate(study.parents) if parent is not None]
    keys = [(number, metric) for metric in measured for number, _ in steps]
    ps = [
        of.compare(number, parent).p(residual)
        for of, residual in ((of, Residual.of(of.values_WZ)) for of in measured.values())
        for number, parent in steps
    ]
    return dict(zip(keys, holm(ps), strict=True))


def metric_result(study: Study, number: int, metric: str, measured: MeasuredMetric, p: float) -> MetricResult:
    """One metric of the row with this number, whose step has the adjusted p."""
    paper, parent = study.rows[number].paper or {}, study.parents[number]
    values_Z = measured.values_WZ[number]
    return MetricResult(
        paper=paper.get(metric),
        mean=float(values_Z.mean()),
        half_width=seed_half_width(values_Z),
        values=values_Z.tolist(),
        step=None if parent is None else _step(study, number, parent, metric, measured, p),
    )


def _step(study: Study, number: int, parent: int, metric: str, measured: MeasuredMetric, p: float) -> Step:
    found = measured.compare(number, parent)
    row, above = study.rows[number], study.rows[parent]
    here, there = ((each.paper or {}).get(metric) for each in (row, above))
    paper = None if here is None or there is None else here - there
    relative = (row.paper_relative or {}).get(metric)
    low, high = found.interval
    sure = p < LEVEL and not low <= 0 <= high
    sign = relative if paper is None else paper
    verdict = None
    if sign:  # a step of 0 in the paper has none
        verdict = "unsure" if not sure else "agrees" if found.value * sign > 0 else "disagrees"
    start = float(measured.values_WZ[parent].mean())
    return Step(
        value=found.value,
        interval=(low, high),
        half_width_seeds=found.seeds,
        half_width_queries=found.queries,
        relative=100 * found.value / start if relative is not None and start else None,
        paper=None if paper is None else round(paper, 6),
        paper_relative=relative,
        p=p,
        sure=sure,
        verdict=verdict,
    )


def _measured(metric: str, runs: Sequence[Sequence[Path]], measures: Sequence[Sequence[Measures]]) -> MeasuredMetric:
    part, _, name = metric.partition(".")
    for run, each in zip(chain(*runs), chain(*measures), strict=True):
        if name not in each.figures.get(part, {}):
            known = ", ".join(f"{some}.{one}" for some, figures in each.figures.items() for one in figures)
            raise MercatoError(
                f"metrics: {run / MEASURES} has no {metric}, only {known}: where it was measured before there was one,"
                " delete it to measure anew"
            )
    return MeasuredMetric(
        np.array([[each.figures[part][name] for each in row] for row in measures]),
        np.array([[read_replicates(run, metric) for run in row] for row in runs]),
    )


def _differences(study: Study, measured: MeasuredMetric) -> dict[str, dict[str, RowDifference]]:
    """Of every row to every other one, paired."""
    found = {}
    for one, row in enumerate(study.rows):
        others = (other for other in range(len(study.rows)) if other != one)
        compared = {study.rows[other].name: measured.compare(one, other) for other in others}
        found[row.name] = {name: RowDifference(by.value, by.interval) for name, by in compared.items()}
    return found


def _means(figures: Sequence[ByMetric[float]]) -> ByMetric[float]:
    """The means of what every seed has."""
    shared = {
        part: [metric for metric in metrics if all(metric in other.get(part, {}) for other in figures)]
        for part, metrics in figures[0].items()
    }
    return {
        part: {metric: _mean([each[part][metric] for each in figures]) for metric in metrics}
        for part, metrics in shared.items()
    }


def _training(of_seeds: Sequence[Training]) -> TrainingMeans:
    validated = [each.validation_roc_auc for each in of_seeds if each.validation_roc_auc is not None]
    return TrainingMeans(
        seconds=_mean([each.seconds for each in of_seeds]),
        epochs=_mean([each.epochs for each in of_seeds]),
        validation_roc_auc=_mean(validated) if validated else None,
    )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _distinct(values: Iterable[str | None]) -> list[str]:
    return sorted({value for value in values if value is not None})
