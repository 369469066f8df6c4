"""A study: one TOML a table of a paper; each row is a recipe with changes, started from the row above."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Self

from pydantic import Field, ValidationError, field_validator, model_validator

from mercato.config import Frozen, Recipe, load_recipe, shipped_folder
from mercato.errors import MercatoError
from mercato.evaluation.evaluate import PARTS

BASE = "base"  # what a row starts from that starts from no row: the recipe with the study's own changes


class Row(Frozen):
    """One line of the table."""

    name: str = Field(min_length=1)
    changes: tuple[str, ...] = Field((), alias="set")  # as `mercato train --set`: "stages.0.epochs=3"
    start: str | None = Field(None, alias="from")  # an earlier row or "base"; None: the row above
    paper: float | None = None  # the paper's figure
    paper_relative: float | None = None  # or its change on the row this one starts from, in percent
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
    metric: str  # a part of `mercato evaluate --json` and a metric of it: "relevance.roc_auc"
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    reference: str = ""  # the paper and its table
    changes: tuple[str, ...] = Field((), alias="set")  # of every row
    rows: tuple[Row, ...] = Field(min_length=1)

    @field_validator("metric")
    @classmethod
    def _names_a_part(cls, metric: str) -> str:
        part, _, name = metric.partition(".")
        if part not in PARTS or not name:
            raise ValueError(f'must be PART.METRIC, such as "relevance.roc_auc"; the parts are {", ".join(PARTS)}')
        return metric

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

    @property
    def parents(self) -> tuple[int | None, ...]:
        """For each row the number of the row it starts from, which it is compared with; None: the base."""
        names = [row.name for row in self.rows]
        starts = [row.start or (names[number - 1] if number else BASE) for number, row in enumerate(self.rows)]
        return tuple(None if start == BASE else names.index(start) for start in starts)

    def all_changes(self, number: int) -> tuple[str, ...]:
        """Every change from the recipe to a row, in order: the study's, those of the rows it starts from, its own."""
        parent = self.parents[number]
        before = self.changes if parent is None else self.all_changes(parent)
        return (*before, *self.rows[number].changes)

    def recipes(self, folder: Path) -> list[Recipe]:
        """The recipe of each row, with the recipe's own seed; `folder` is where a recipe file may lie.

        Raises:
            MercatoError: a change does not fit, naming the row and the field.
        """
        beside = folder / self.recipe
        resolved = []
        for number, row in enumerate(self.rows):
            try:
                resolved.append(load_recipe(beside if beside.is_file() else self.recipe, self.all_changes(number)))
            except MercatoError as error:
                raise MercatoError(f"study {self.name}, row {row.name!r}: {error}") from None
        return resolved


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
