"""Replayed paging (Que2Search §6.4): a cheap first page and deeper later ones, against one effort on every page.

Every golden query is paged through by a server's own search, and each page counts by the chance that a searcher asks
for it. That is read from the validation lists. Where they are longer than a page, it is their lengths; where the old
search displayed one page only, it is how likely people look at a position (`mercato.evaluation.propensities`), as a
power of it that goes on beyond what was displayed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from mercato.experiments.tuning.choosing import cheapest_as_good, page_policy
from mercato.experiments.tuning.golden import GoldenQuery
from mercato.experiments.tuning.measuring import Bench, in_turn, timed
from mercato.experiments.tuning.settings import Stages
from mercato.progress import track
from mercato.search.pipeline import Searcher
from mercato.search.policy import Effort, RetrievalPolicy
from mercato.search.request import SearchRequest

PAGES = 6  # replayed of a search
PAGED = 0.01  # of the lists must be longer than a page, for their lengths to tell how far searches go
PAGE_SIZE = SearchRequest().page_size
BY_POLICY = ("cpu_ms", "first_ms", "engaged", "relevant")  # of a search: means over golden queries
SEEN = ("engaged", "relevant")  # of these, what a policy may not lose
DEEPER_LATER, USUAL = "deeper later", "usual"


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
    first_precision: float | None  # of what the first page shows; None where it shows nothing judged


@dataclass(frozen=True)
class Paging:
    """Every policy by its name, and what each other one has more than the chosen one, with intervals that hold
    together.
    """

    reach: Reach
    replayed: Mapping[str, Replayed]
    chosen: str | None  # None: no policy keeps to the constraints once it is replayed
    differences: Mapping[tuple[str, str], tuple[float, Interval | None]]  # by (policy, figure): it less `chosen`

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "chosen": self.chosen,
            "chances": self.reach.chances_P.tolist(),
            "by": self.reach.by,
            "exponent": self.reach.exponent,
            "policies": {
                name: {
                    "pages": [asdict(effort) for effort in each.pages],
                    "figures": {figure: estimate.value for figure, estimate in each.estimates.items()}
                    | {"first_p99_ms": each.first_p99_ms, "first_precision": each.first_precision},
                    "intervals": {figure: estimate.interval for figure, estimate in each.estimates.items()},
                    "less_chosen": {
                        figure: {"difference": difference, "interval": interval}
                        for (policy, figure), (difference, interval) in self.differences.items()
                        if policy == name
                    },
                }
                for name, each in self.replayed.items()
            },
        }


def reach(market: Market) -> Reach | None:
    """How many pages searches of the validation days go on for; None where the market has no lists that tell."""
    if not market.has("lists"):
        return None
    columns = ["query", "country", "product_id", "list_id", "position", "placed_by", "depth", "split"]
    lists = market.frame("lists", columns).with_columns(pl.col("split").fill_null("train"))
    ours = lists.filter(pl.col("split") == "validation").group_by("list_id").agg(pl.col("position").max())
    last_L, starts_P = ours["position"].drop_nulls().to_numpy(), np.arange(PAGES, dtype=np.float64) * PAGE_SIZE
    if len(last_L) and np.mean(last_L > PAGE_SIZE) >= PAGED:
        return Reach(np.array([float(np.mean(last_L > start)) for start in starts_P]), "lengths", None)
    propensities_K = estimate_propensities(lists.filter(pl.col("split").is_in(["train", "validation"])))
    if propensities_K is None:
        return None
    log_K = np.log(np.arange(1, len(propensities_K) + 1))
    exponent = max(0.0, float(-(log_K @ np.log(propensities_K)) / (log_K @ log_K)))  # least squares through (1, 1)
    return Reach(((starts_P + 1.0) ** -exponent).astype(np.float64), "positions", exponent)


def policies(first: Effort, later: Effort, usual: RetrievalPolicy) -> dict[str, tuple[Effort, ...]]:
    """The policies that are compared, each once: deeper later, the usual one, and single efforts on every page."""
    deeper = page_policy(first, later)
    found = {DEEPER_LATER: deeper, USUAL: usual.pages}
    found |= {
        f"{name} throughout": (effort,) for name, effort in zip(("first", "later", "deepest"), deeper, strict=True)
    }
    return {name: pages for place, (name, pages) in enumerate(found.items()) if pages not in [*found.values()][:place]}


def replay(
    bench: Bench,
    reached: Reach,
    compared: Mapping[str, tuple[Effort, ...]],
    stages: Stages,
    keeps: Callable[[Replayed], bool],
) -> Paging:
    """Page through every golden query under each policy, and choose one of those that keep to the constraints: the
    cheapest that surely loses no more than the bound of what is seen; deeper later unless another is surely cheaper.
    """
    searchers = {name: bench.searcher(pages, stages) for name, pages in compared.items()}
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in compared}
    names = [*compared]
    for place, query in enumerate(track(bench.golden.queries, "paging through golden queries")):
        for name in (names[number] for number in in_turn(len(names), place)):
            row = _paged(searchers[name], query, bench.golden.relevant_grade, reached.chances_P)
            rows[name].append(row)
    replayed = {name: _replayed(pages, rows[name], bench.weights_RQ) for name, pages in compared.items()}
    kept = {name: each for name, each in replayed.items() if keeps(each)}
    chosen = None
    if kept:
        best = cheapest_as_good([*kept.values()], SEEN, kept.get(DEEPER_LATER))
        chosen = next(name for name, each in kept.items() if each is best)
    return Paging(reached, replayed, chosen, _differences(replayed, chosen))


def _replayed(pages: tuple[Effort, ...], rows: Sequence[Mapping[str, float]], weights_RQ: FloatArray) -> Replayed:
    values = {figure: np.array([row[figure] for row in rows]) for figure in BY_POLICY}
    estimates = {
        figure: Estimate(float(np.nanmean(values_Q)), QueryMean(values_Q)(weights_RQ))
        for figure, values_Q in values.items()
        if not np.isnan(values_Q).all()
    }
    precision_Q = np.array([row["first_precision"] for row in rows])
    precision = None if np.isnan(precision_Q).all() else float(np.nanmean(precision_Q))
    return Replayed(pages, estimates, float(np.quantile([row["first_ms"] for row in rows], 0.99)), precision)


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
            judged = shown & query.grades.keys()
            found["first_ms"] = wall_ms
            found["first_precision"] = len(judged & relevant) / len(judged) if judged else np.nan
        if page.cursor is None:
            break
        request = replace(request, cursor=page.cursor)
    return found


def _differences(
    replayed: Mapping[str, Replayed], chosen: str | None
) -> dict[tuple[str, str], tuple[float, Interval | None]]:
    if chosen is None:
        return {}
    apart = {
        (name, figure): estimate - replayed[chosen].estimates[figure]
        for name, each in replayed.items()
        if name != chosen
        for figure, estimate in each.estimates.items()
    }
    intervals = simultaneous_intervals([apart])
    return {key: (estimate.value, intervals[key]) for key, estimate in apart.items()}
