"""Measured runs → the table, as one object of JSON data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mercato.data.market import Market
from mercato.errors import MercatoError
from mercato.evaluation.metrics.arrays import FloatArray
from mercato.experiments.ablation.jobs import MEASURES, REPLICATES
from mercato.experiments.ablation.statistics import Difference, difference, seed_half_width
from mercato.experiments.ablation.study import Study

Tree = dict[str, Any]

OTHER_MARKET = (
    "The paper's figures are of another market, with other raters and other queries: only the order of the rows and the"
    " signs of the steps compare."
)


@dataclass(frozen=True)
class Measured:
    """One metric of every row and seed."""

    values_NS: FloatArray
    replicates_NSR: FloatArray  # bootstrap replicates, NaN where undefined


def method(study: Study) -> str:
    """What the ± and the brackets of a table mean."""
    seeds = len(study.seeds)
    step = "Step: the difference to the row that a row starts from, paired by seed and by query"
    if seeds == 1:
        return (
            f"One seed: no ± over seeds. {step}; its 95 % interval covers the choice of queries only (bootstrap), not"
            " that of the seed."
        )
    return (
        f"±: 95 % t interval over {seeds} seeds. {step}; the half-width of its 95 % interval is"
        " √((t·s_d/√n)² + (1.96·se_q)²), with s_d the deviation of the differences over the n seeds and se_q the"
        " bootstrap standard error over queries of their mean."
    )


def build(study: Study, market: Market, fingerprint: str, runs: Sequence[Sequence[Path]]) -> Tree:
    """The whole table.

    Args:
        study: its rows and seeds.
        market: what the runs were trained and measured on.
        fingerprint: the market's.
        runs: the measured run of each row and seed, (rows, seeds).

    Raises:
        MercatoError: the market does not allow one of the study's metrics, or a run's figures cannot be read.
    """
    measures = [[json.loads((run / MEASURES).read_text()) for run in row] for row in runs]
    measured = {metric: _measured(metric, runs, measures) for metric in study.metrics}
    rows = []
    for number, (row, parent) in enumerate(zip(study.rows, study.parents, strict=True)):
        rows.append(
            {
                "name": row.name,
                "from": None if parent is None else study.rows[parent].name,
                "recipe": row.recipe,
                "set": list(row.changes),
                "paper_note": row.paper_note or None,
                "metrics": {metric: _result(study, number, metric, of) for metric, of in measured.items()},
                "figures": _means([content["figures"] for content in measures[number]]),
                "training": {
                    field: _mean([content["training"][field] for content in measures[number]])
                    for field in ("seconds", "epochs", "validation_roc_auc")
                },
                "curves": [content["training"]["curve"] for content in measures[number]],
                "runs": [run.name for run in runs[number]],
            }
        )
    counts = measures[0][0]["n"]
    return {
        "name": study.name,
        "title": study.title,
        "reference": study.reference,
        "recipe": study.recipe,
        "set": list(study.changes),
        "metrics": list(study.metrics),
        "curve": study.curve,
        "seeds": list(study.seeds),
        "market": {"name": market.config.name, "fingerprint": fingerprint},
        "note": OTHER_MARKET if any(row.paper or row.paper_relative or row.paper_note for row in study.rows) else "",
        "method": method(study),
        "n": {part: counts[part] for part in dict.fromkeys(metric.partition(".")[0] for metric in study.metrics)},
        "differences": {metric: _differences(study, of) for metric, of in measured.items()},
        "mercato": _distinct(measures, "mercato"),  # versions of the code
        "measured": _distinct(measures, "measured"),  # days, UTC
        "rows": rows,
    }


def _measured(metric: str, runs: Sequence[Sequence[Path]], measures: Sequence[Sequence[Tree]]) -> Measured:
    part, _, name = metric.partition(".")
    for content in (content for row in measures for content in row):
        if name not in content["figures"].get(part, {}):
            known = ", ".join(f"{some}.{each}" for some, tree in content["figures"].items() for each in tree)
            raise MercatoError(f"metrics: {metric} cannot be measured on this market; it allows {known}")
    return Measured(
        np.array([[content["figures"][part][name] for content in row] for row in measures]),
        np.array([[_replicates(run, metric) for run in row] for row in runs]),
    )


def _replicates(run: Path, metric: str) -> FloatArray:
    with np.load(run / REPLICATES) as replicates:
        found: FloatArray = replicates[metric]
    return found


def _distinct(measures: Sequence[Sequence[Tree]], field: str) -> list[str]:
    return sorted({content[field] for row in measures for content in row if field in content})


def _result(study: Study, number: int, metric: str, measured: Measured) -> Tree:
    """One metric of one row: the paper's figure, ours, and the step."""
    paper = study.rows[number].paper
    values_S = measured.values_NS[number]
    parent = study.parents[number]
    return {
        "paper": None if paper is None else paper[study.metrics.index(metric)],
        "mean": float(values_S.mean()),
        "half_width": seed_half_width(values_S),
        "values": values_S.tolist(),
        "step": None if parent is None else _step(study, number, parent, metric, measured),
    }


def _step(study: Study, number: int, parent: int, metric: str, measured: Measured) -> Tree:
    found = _compare(measured, number, parent)
    row, above, place = study.rows[number], study.rows[parent], study.metrics.index(metric)
    paper = None if row.paper is None or above.paper is None else row.paper[place] - above.paper[place]
    relative = None if row.paper_relative is None else row.paper_relative[place]
    low, high = found.interval
    sign = relative if paper is None else paper
    verdict = None
    if sign:  # a step of 0 in the paper has none
        verdict = "unsure" if low <= 0 <= high else "agrees" if found.value * sign > 0 else "disagrees"
    start = float(measured.values_NS[parent].mean())
    return {
        "value": found.value,
        "interval": [low, high],
        "half_width_seeds": found.seeds,
        "half_width_queries": found.queries,
        "relative": 100 * found.value / start if relative is not None and start else None,  # percent
        "paper": None if paper is None else round(paper, 6),
        "paper_relative": relative,  # percent
        "verdict": verdict,
    }


def _differences(study: Study, measured: Measured) -> Tree:
    """Of every row to every other one, paired: {row: {other: {"value": row minus other, "interval"}}}."""
    found: Tree = {}
    for one, row in enumerate(study.rows):
        others = (other for other in range(len(study.rows)) if other != one)
        compared = {study.rows[other].name: _compare(measured, one, other) for other in others}
        found[row.name] = {name: {"value": by.value, "interval": [*by.interval]} for name, by in compared.items()}
    return found


def _compare(measured: Measured, one: int, other: int) -> Difference:
    values_NS, replicates_NSR = measured.values_NS, measured.replicates_NSR
    return difference(values_NS[one], values_NS[other], replicates_NSR[one], replicates_NSR[other])


def _means(figures: Sequence[Mapping[str, Mapping[str, float]]]) -> Tree:
    shared = {
        part: [m for m in tree if all(m in other.get(part, {}) for other in figures)]
        for part, tree in figures[0].items()
    }
    return {
        part: {metric: _mean([tree[part][metric] for tree in figures]) for metric in metrics}
        for part, metrics in shared.items()
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
