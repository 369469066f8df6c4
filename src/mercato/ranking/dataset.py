"""What a ranker learns from: displayed lists with what became of each product, and judged lists, as features.

Shapes: P rows, L lists, F features, T ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time
from typing import cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mercato.errors import MercatoError
from mercato.ranking.features import IDS, NAMES, UNLOGGED, Asked, features_of, ids_of, without
from mercato.ranking.lookup import Keys
from mercato.ranking.statistics import Statistics
from mercato.retrieval.expression import Expression
from mercato.retrieval.protocol import Index
from mercato.runs.encoder import Encoder
from mercato.runs.query_head import QueryHead

LIST = ["query", "country", "day"]  # rows that are alike in these have their features in one go


@dataclass(frozen=True, eq=False)
class RankingSet:
    """Rows of lists, those of one list side by side."""

    features_PF: NDArray[np.float32]
    ids_PT: Keys
    grades_P: NDArray[np.float64]
    positions_P: NDArray[np.int64]  # at which each was shown, from 1; 0 of what was judged
    lists_P: NDArray[np.int64]  # the list of each, 0 … L - 1

    @property
    def sizes(self) -> NDArray[np.int64]:
        """The rows of each list, (L,)."""
        return np.bincount(self.lists_P)

    @property
    def tells_apart(self) -> bool:
        """Whether anything is better than something else of its list."""
        order = np.lexsort([self.grades_P, self.lists_P])
        lists_P, grades_P = self.lists_P[order], self.grades_P[order]
        return bool(((lists_P[1:] == lists_P[:-1]) & (grades_P[1:] > grades_P[:-1])).any())

    def only(self, keep_P: NDArray[np.bool_]) -> RankingSet:
        """Some of the rows."""
        numbered_p = np.unique(self.lists_P[keep_P], return_inverse=True)[1]
        return RankingSet(
            self.features_PF[keep_P], self.ids_PT[keep_P], self.grades_P[keep_P], self.positions_P[keep_P], numbered_p
        )

    def without(self, names: Sequence[str]) -> RankingSet:
        """The same rows with these features unknown."""
        return replace(self, features_PF=without(self.features_PF, names))

    def folds(self, count: int) -> NDArray[np.int64]:
        """Which of so many folds each row is in, (P,): one query's lists are in one."""
        return (self.ids_PT[:, IDS.index("query")] % np.uint64(count)).astype(np.int64)


def displayed(
    lists: pl.DataFrame,
    encoder: Encoder,
    index: Index,
    statistics: Statistics,
    head: QueryHead | None = None,
    version: str | None = None,
) -> RankingSet:
    """Displayed lists (schema `LISTS`) whose outcomes are all known; what the index does not hold is left out.

    Features are those that a list was ordered by, where all its rows have them in this `version`: what the ranker saw
    then, and not what the catalogue and the log say today. Those of other lists are computed, as are `UNLOGGED` ones.
    """
    whole = lists.filter((pl.col("depth").is_not_null() & pl.col("position").is_not_null()).all().over("list_id"))
    logged: pl.Expr = pl.lit(None, pl.List(pl.Float32))
    if version is not None:
        own = (pl.col("features_version") == version) & pl.col("features").is_not_null()
        logged = pl.when(own.fill_null(False).all().over("list_id")).then("features")
    rows = whole.select(
        *LIST, "list_id", "product_id", "position", grade=pl.col("depth").cast(pl.Float64), logged=logged
    )
    return _ranked(rows, encoder, index, statistics, head)


def judged(
    judgments: pl.DataFrame,
    as_of: datetime,
    encoder: Encoder,
    index: Index,
    statistics: Statistics,
    head: QueryHead | None = None,
) -> tuple[RankingSet, list[float]]:
    """Judged products as lists, one a query, as of a moment; several raters' grades are averaged.

    Returns the lists, whose grades are numbers of levels, 0 the lowest, and what each level is worth.
    """
    rows = judgments.group_by("query", "country", "product_id", maintain_order=True).agg(pl.col("grade").mean())
    worth, levels = np.unique(np.maximum(rows["grade"].to_numpy(), 0.0), return_inverse=True)
    rows = rows.with_columns(
        list_id=pl.struct("query", "country"),
        day=pl.lit(as_of.date()),
        position=pl.lit(0, pl.Int64),
        logged=pl.lit(None, pl.List(pl.Float32)),
        grade=pl.Series(levels, dtype=pl.Float64),
    )
    return _ranked(rows, encoder, index, statistics, head), worth.tolist()


def _ranked(
    rows: pl.DataFrame, encoder: Encoder, index: Index, statistics: Statistics, head: QueryHead | None
) -> RankingSet:
    rows = rows.with_columns(list=pl.col("list_id").rank("dense") - 1).sort(*LIST, "list", "product_id")
    held = np.zeros(len(rows), bool)
    found = np.full((len(rows), len(NAMES)), np.nan, np.float32)
    named = np.zeros((len(rows), len(IDS)), np.uint64)
    start = 0
    for key, group in rows.group_by(LIST, maintain_order=True):
        query, country, day = cast(tuple[str, str | None, date], key)
        ids = group["product_id"].unique(maintain_order=True).to_list()
        expression = Expression(vector=encoder.encode_queries([query], country)[0], text=query)
        hits = index.lookup(expression, ids)
        asked = Asked(query, datetime.combine(day, time(12), UTC))
        place_of = {product_id: place for place, product_id in enumerate(hits.product_ids)}
        places = np.array([place_of.get(product_id, -1) for product_id in group["product_id"].to_list()])
        own = slice(start, start + len(group))
        held[own] = places >= 0
        columns, known = hits.signals(), places[places >= 0]
        found[own][places >= 0] = features_of(asked, hits, columns, statistics, head)[known]
        named[own][places >= 0] = ids_of(query, columns)[known]
        start += len(group)
    _put_logged(found, rows["logged"])
    kept = rows.filter(pl.Series(held))
    order = np.argsort(kept["list"].to_numpy(), kind="stable")
    numbered = np.unique(kept["list"].to_numpy()[order], return_inverse=True)[1]
    grades_P, positions_P = kept["grade"].to_numpy()[order], kept["position"].to_numpy()[order]
    return RankingSet(found[held][order], named[held][order], grades_P, positions_P, numbered)


def _put_logged(found_PF: NDArray[np.float32], logged: pl.Series) -> None:
    """Features as they were logged in place of those computed, where a row has some."""
    logged_P = logged.is_not_null().to_numpy()
    if not logged_P.any():
        return
    told = logged.drop_nulls()
    if (told.list.len() != len(NAMES)).any():
        raise MercatoError(f"table lists, column features: a row has not the {len(NAMES)} that its version has")
    told_pF = told.explode().to_numpy().reshape(-1, len(NAMES))  # what is null is NaN
    kept_F = np.array([name not in UNLOGGED for name in NAMES])
    found_PF[np.ix_(logged_P, kept_F)] = told_pF[:, kept_F]
