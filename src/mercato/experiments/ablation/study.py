"""A study: one TOML a table of a paper; each row is a recipe with changes, started from the row above."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from mercato.config import Frozen, Recipe, load_recipe, shipped_folder
from mercato.errors import MercatoError
from mercato.evaluation.metrics.registry import SEARCH_PARTS

BASE = "base"  # what a row starts from that starts from no row: the recipe with the study's own changes


class Row(Frozen):
    """One line of the table."""

    name: str = Field(min_length=1)
    changes: tuple[str, ...] = Field((), alias="set")  # as `mercato train --set`: "stages.0.epochs=3"
    start: str | None = Field(None, alias="from")  # an earlier row or "base"; None: the row above
    recipe: str | None = None  # start from this recipe instead; the row that `from` names is then only compared with
    paper: dict[str, float] | None = None  # the paper's figures by metric; or a list of one for each; for one, a number
    paper_relative: dict[str, float] | None = None  # or its changes on the row this one starts from, in percent
    paper_note: str = ""  # the paper's own words, where it gives no figure to compare with

    @model_validator(mode="after")
    def _one_figure(self) -> Self:
        if self.paper is not None and self.paper_relative is not None:
            raise ValueError("paper and paper_relative: give one of them")
        return self


class Study(Frozen):
    """A whole table."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")  # of the files that hold the table
    title: str = Field(min_length=1)
    recipe: str  # the name of one that ships, or a file (beside the study, or as seen from here)
    metrics: tuple[str, ...] = Field(min_length=1)  # parts of `mercato evaluate --json` and metrics of them
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    reference: str = ""  # the paper and its table
    curve: bool = False  # the rows are points of a curve: the plot of two metrics connects them in order
    changes: tuple[str, ...] = Field((), alias="set")  # of every row
    rows: tuple[Row, ...] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _by_metric(cls, given: Any) -> Any:
        """Figures in the order of the metrics get their names."""
        if not isinstance(given, dict) or not isinstance(given.get("rows"), list | tuple):
            return given
        metrics = list(given.get("metrics", ()))
        rows = [dict(row) if isinstance(row, dict) else row for row in given["rows"]]
        for number, row in enumerate(row for row in rows if isinstance(row, dict)):
            for field in ("paper", "paper_relative"):
                figures = row.get(field)
                if isinstance(figures, int | float):
                    figures = [figures]
                if isinstance(figures, list | tuple):
                    if len(figures) != len(metrics):
                        raise ValueError(f"rows.{number}.{field}: must be a figure for each of {', '.join(metrics)}")
                    row[field] = dict(zip(metrics, figures, strict=True))
        return given | {"rows": rows}

    @field_validator("metrics")
    @classmethod
    def _name_a_part(cls, metrics: tuple[str, ...]) -> tuple[str, ...]:
        for metric in metrics:
            part, _, name = metric.partition(".")
            if part not in SEARCH_PARTS or not name:
                parts = ", ".join(SEARCH_PARTS)
                raise ValueError(f'{metric!r} must be PART.METRIC, such as "relevance.roc_auc"; the parts are {parts}')
        if len(set(metrics)) < len(metrics):
            raise ValueError("must be different ones")
        return metrics

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds) or min(seeds) < 0:
            raise ValueError("must be different numbers from 0 up")
        return seeds

    @model_validator(mode="after")
    def _rows_start_somewhere(self) -> Self:
        known = {BASE}
        for number, row in enumerate(self.rows):
            if row.name in known:
                raise ValueError(f"rows.{number}.name: {row.name!r} is taken")
            if row.start is not None and row.start not in known:
                raise ValueError(f'rows.{number}.from: {row.start!r} is neither an earlier row nor "{BASE}"')
            known.add(row.name)
        return self

    @model_validator(mode="after")
    def _figures_are_of_metrics(self) -> Self:
        for number, row in enumerate(self.rows):
            for field, figures in (("paper", row.paper), ("paper_relative", row.paper_relative)):
                if unknown := [metric for metric in figures or {} if metric not in self.metrics]:
                    raise ValueError(f"rows.{number}.{field}: {unknown[0]} is none of {', '.join(self.metrics)}")
        if self.curve and len(axes(self.metrics)) < 2:
            raise ValueError("curve: all metrics are of one part, and a curve has two")
        return self

    @property
    def parents(self) -> tuple[int | None, ...]:
        """For each row the number of the row it starts from or is compared with; None: a recipe, and no row."""
        names = [row.name for row in self.rows]
        starts = [row.start or (names[number - 1] if number else BASE) for number, row in enumerate(self.rows)]
        return tuple(None if start == BASE else names.index(start) for start in starts)

    def origin(self, number: int) -> tuple[str, tuple[str, ...]]:
        """The recipe of a row, and every change to it in order: the study's, those of the rows above, the row's own."""
        row, parent = self.rows[number], self.parents[number]
        if row.recipe is not None or parent is None:
            return row.recipe or self.recipe, (*self.changes, *row.changes)
        recipe, before = self.origin(parent)
        return recipe, (*before, *row.changes)

    def recipes(self, folder: Path) -> list[Recipe]:
        """The recipe of each row, with the recipe's own seed; `folder` is where recipe files may lie.

        Raises:
            MercatoError: a change does not fit, naming the row and the field.
        """
        resolved = []
        for number, row in enumerate(self.rows):
            recipe, changes = self.origin(number)
            beside = folder / recipe
            try:
                resolved.append(load_recipe(beside if beside.is_file() else recipe, changes))
            except MercatoError as error:
                raise MercatoError(f"study {self.name}, row {row.name!r}: {error}") from None
        return resolved


def axes(metrics: Sequence[str]) -> tuple[str, ...]:
    """What to plot against what: the first metric of the first part and of the last; of one part, only that."""
    parts = [metric.partition(".")[0] for metric in metrics]
    return tuple(dict.fromkeys((metrics[0], metrics[parts.index(parts[-1])])))


def load_study(name: str | Path) -> tuple[Study, Path]:
    """A study from a file, or by the name of one that ships (`que2search-table4`), and the folder it lies in.

    Raises:
        MercatoError: there is none, it is not TOML, or a field is unknown or wrong; the message names every one.
    """
    shipped = {path.stem: path for path in (shipped_folder() / "studies").glob("*.toml")}
    path = Path(name) if Path(name).is_file() else shipped.get(str(name))
    if path is None:
        raise MercatoError(f"no study {name}: neither a file nor one of {', '.join(sorted(shipped))}")
    try:
        return Study.model_validate(tomllib.loads(path.read_text(encoding="utf-8"))), path.parent
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise MercatoError(f"{path}: not valid TOML: {error}") from None
    except ValidationError as error:
        problems = [f"  {'.'.join(map(str, e['loc'])) or 'study'}: {e['msg']}" for e in error.errors()]
        raise MercatoError(f"{path} has {len(problems)} wrong field(s):\n" + "\n".join(problems)) from None
