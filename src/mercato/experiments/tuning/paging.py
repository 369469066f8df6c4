"""Replayed paging (Que2Search §6.4): a cheap first page and deeper later ones, against one effort on every page.

Every golden query is paged through by a server's own search, and each page counts by the chance that a searcher asks
for it. That is read from the validation lists. Where they are longer than a page, it is their lengths; where the old
search displayed one page only, it is how likely people look at a position (`mercato.evaluation.propensities`), as a
power of it that goes on beyond what was displayed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import polars as pl

from mercato.data.market import Market
from mercato.evaluation.metrics.arrays import FloatArray
from mercato.evaluation.metrics.bootstrap import Estimate, Interval
from mercato.evaluation.metrics.metric import QueryMean
from mercato.evaluation.metrics.simultaneous import simultaneous_intervals
from mercato.evaluation.propensities import estimate_propensities
from mercato.experiments.tuning.golden import GoldenQuery
from mercato.experiments.tuning.measuring import Bench, timed
from mercato.experiments.tuning.settings import Stages
from mercato.progress import track
from mercato.search.pipeline import Searcher
from mercato.search.policy import Effort
from mercato.search.request import SearchRequest

PAGES = 6  # replayed of a search
PAGED = 0.01  # of the lists must be longer than a page, for their lengths to tell how far searches go
PAGE_SIZE = SearchRequest().page_size
BY_POLICY = ("cpu_ms", "engaged", "relevant")  # of a search: means over golden queries
DYNAMIC = "dynamic"


@dataclass(frozen=True)
class Reach:
    """The chance that a search goes on to each page, the first being 1."""

    chances_P: FloatArray
    by: Literal["lengths", "positions"]
    exponent: float | None  # η of k^-η, the chance that position k is looked at; None where lengths tell

    @property
    def pages(self) -> float:
        """The mean number of pages of a search."""
        return float(self.chances_P.sum())


@dataclass(frozen=True, eq=False)
class Replayed:
    """One policy: what a search costs over its pages, and what it shows."""

    pages: tuple[Effort, ...]
    estimates: Mapping[str, Estimate]  # by `BY_POLICY`
    first_p99_ms: float


@dataclass(frozen=True)
class Paging:
    """Every policy by its name, and what each other one has more than the dynamic one, with intervals that hold
    together.
    """

    reach: Reach
    replayed: Mapping[str, Replayed]
    differences: Mapping[tuple[str, str], tuple[float, Interval | None]]  # by (policy, figure): it less the dynamic one

    @property
    def first_p99_ms(self) -> float:
        """Of the dynamic policy's first page."""
        return self.replayed[DYNAMIC].first_p99_ms

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "chances": self.reach.chances_P.tolist(),
            "by": self.reach.by,
            "exponent": self.reach.exponent,
            "policies": {
                name: {
                    "pages": [asdict(effort) for effort in each.pages],
                    "figures": {figure: estimate.value for figure, estimate in each.estimates.items()}
                    | {"first_p99_ms": each.first_p99_ms},
                    "intervals": {figure: estimate.interval for figure, estimate in each.estimates.items()},
                    "less_dynamic": {
                        figure: {
                            "difference": self.differences[name, figure][0],
                            "interval": self.differences[name, figure][1],
                        }
                        for figure in each.estimates
                        if name != DYNAMIC
                    },
                }
                for name, each in self.replayed.items()
            },
        }


def reach(market: Market) -> Reach | None:
    """How many pages searches of the validation days go on for; None where the market has no lists that tell."""
    if not market.has("lists"):
        return None
    columns = ["query", "country", "product_id", "list_id", "position", "depth", "split"]
    lists = market.frame("lists", columns).with_columns(pl.col("split").fill_null("train"))
    ours = lists.filter(pl.col("split") == "validation").group_by("list_id").agg(pl.col("position").max())
    last_L, starts_P = ours["position"].drop_nulls().to_numpy(), np.arange(PAGES) * PAGE_SIZE
    if len(last_L) and np.mean(last_L > PAGE_SIZE) >= PAGED:
        return Reach(np.array([np.mean(last_L > start) for start in starts_P]), "lengths", None)
    propensities_K = estimate_propensities(lists.filter(pl.col("split").is_in(["train", "validation"])))
    if propensities_K is None:
        return None
    log_K = np.log(np.arange(1, len(propensities_K) + 1))
    exponent = max(0.0, float(-(log_K @ np.log(propensities_K)) / (log_K @ log_K)))  # least squares through (1, 1)
    return Reach((starts_P + 1.0) ** -exponent, "positions", exponent)


def replay(bench: Bench, reached: Reach, pages: tuple[Effort, ...], stages: Stages) -> Paging:
    """Page through every golden query under the policy, and under each of its efforts on every page."""
    policies = {DYNAMIC: pages}
    policies |= {
        f"{name} throughout": (effort,) for name, effort in zip(("first", "second", "deepest"), pages, strict=True)
    }
    searchers = {name: bench.searcher(policy, stages) for name, policy in policies.items()}
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in policies}
    for query in track(bench.golden.queries, "paging through golden queries"):
        for name, searcher in searchers.items():
            rows[name].append(_paged(searcher, query, bench.golden.relevant_grade, reached.chances_P))
    replayed = {}
    for name, policy in policies.items():
        values = {figure: np.array([row[figure] for row in rows[name]]) for figure in BY_POLICY}
        estimates = {
            figure: Estimate(float(np.nanmean(values_Q)), QueryMean(values_Q)(bench.weights_RQ))
            for figure, values_Q in values.items()
            if not np.isnan(values_Q).all()
        }
        first_ms = [row["first_ms"] for row in rows[name]]
        replayed[name] = Replayed(policy, estimates, float(np.quantile(first_ms, 0.99)))
    return Paging(reached, replayed, _differences(replayed))


def _paged(searcher: Searcher, query: GoldenQuery, relevant_grade: float, chances_P: FloatArray) -> dict[str, float]:
    """What one query's pages cost and show, each page by the chance that it is asked for."""
    relevant = {product for product, grade in query.grades.items() if grade >= relevant_grade}
    sought = {"engaged": query.engaged, "relevant": relevant}
    found = dict.fromkeys(BY_POLICY, 0.0)
    request = query.request
    for number, chance in enumerate(chances_P.tolist()):
        page, cpu_ms, wall_ms = timed(searcher, request)
        shown = {hit.product["product_id"] for hit in page.hits}
        found["cpu_ms"] += chance * cpu_ms
        for name, wanted in sought.items():
            found[name] += chance * len(shown & wanted) / len(wanted) if wanted else np.nan
        if number == 0:
            found["first_ms"] = wall_ms
        if page.cursor is None:
            break
        request = replace(request, cursor=page.cursor)
    return found


def _differences(replayed: Mapping[str, Replayed]) -> dict[tuple[str, str], tuple[float, Interval | None]]:
    dynamic = replayed[DYNAMIC].estimates
    apart = {
        (name, figure): estimate - dynamic[figure]
        for name, each in replayed.items()
        if name != DYNAMIC
        for figure, estimate in each.estimates.items()
    }
    intervals = simultaneous_intervals([apart])
    return {key: (estimate.value, intervals[key]) for key, estimate in apart.items()}
