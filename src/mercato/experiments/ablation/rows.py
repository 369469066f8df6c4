"""The figures of each row of a study in a file of its own, written when the row's last seed is measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.markup import escape

from mercato.evaluation.results import ByMetric, PartCounts, Result
from mercato.experiments.ablation.jobs import is_measured, slug
from mercato.experiments.ablation.measures import Measures
from mercato.experiments.ablation.study import Study
from mercato.files import write_atomic
from mercato.progress import note


@dataclass(frozen=True, kw_only=True)
class RowFigures(Result):
    """What `STUDY/01-ROW.json` holds: a line of the table as it was measured, small enough to be committed."""

    study: str
    row: str
    from_: str | None  # the row it is compared with
    recipe: str
    set_: list[str]  # every change to the recipe: the study's, those of the rows above, its own
    market: dict[str, str]  # its name and fingerprint
    n: dict[str, PartCounts]
    seeds: list[int]
    figures: ByMetric[list[float | None]]  # of each seed; None where it is undefined
    seconds: list[float]  # of training, of each seed
    epochs: list[int]
    mercato: list[str | None]  # the version that measured each seed
    measured: list[str | None]  # the day, UTC
    runs: list[str]


class RowFiles:
    """Writes the file of each row of a study once, as soon as all its seeds are measured."""

    def __init__(self, study: Study, market: dict[str, str], runs: Sequence[Sequence[Path]], folder: Path) -> None:
        """`market` is its name and fingerprint, `runs` the run of each row and seed, `folder` where the files go."""
        self._study, self._market, self._runs, self._folder = study, market, runs, folder
        self._waiting = list(range(len(study.rows)))

    def write_ended(self) -> None:
        """Write the rows that have ended since the last call."""
        for number in list(self._waiting):
            if all(is_measured(run, keep=False) for run in self._runs[number]):
                self._waiting.remove(number)
                self._write(number)

    def _write(self, number: int) -> None:
        name = self._study.rows[number].name
        figures = row_figures(self._study, number, self._market, self._runs[number])
        file = self._folder / f"{number + 1:02}-{slug(name) or 'row'}.json"
        write_atomic(file, json.dumps(figures.as_dict(), indent=1, ensure_ascii=False) + "\n")
        note(f"  row {number + 1} of {len(self._study.rows)} ended: {escape(str(file))}")


def row_figures(study: Study, number: int, market: dict[str, str], runs: Sequence[Path]) -> RowFigures:
    """One row's figures, read from its measured runs (one a seed), rounded to 6 decimals."""
    measures = [Measures.read(run) for run in runs]
    recipe, changes = study.origin(number)
    parent = study.parents[number]
    names = {(part, metric): None for each in measures for part, found in each.figures.items() for metric in found}
    figures: ByMetric[list[float | None]] = {}
    for part, metric in names:
        values = [each.figures.get(part, {}).get(metric) for each in measures]
        figures.setdefault(part, {})[metric] = [None if value is None else round(value, 6) for value in values]
    return RowFigures(
        study=study.name,
        row=study.rows[number].name,
        from_=None if parent is None else study.rows[parent].name,
        recipe=recipe,
        set_=list(changes),
        market=market,
        n=measures[0].n,
        seeds=list(study.seeds),
        figures=figures,
        seconds=[round(each.training.seconds, 1) for each in measures],
        epochs=[each.training.epochs for each in measures],
        mercato=[each.mercato for each in measures],
        measured=[each.measured for each in measures],
        runs=[run.name for run in runs],
    )
