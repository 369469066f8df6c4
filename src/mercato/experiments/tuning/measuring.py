"""One setting on the golden queries: what it retrieves, what page one then shows, and what that costs.

Shapes: Q golden queries.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from mercato.evaluation.metrics.arrays import FloatArray
from mercato.evaluation.metrics.bootstrap import Estimate, Interval
from mercato.evaluation.metrics.metric import QueryMean
from mercato.experiments.replay import Replay
from mercato.experiments.tuning.golden import GoldenQuery, GoldenSet
from mercato.experiments.tuning.settings import Setting, Stages
from mercato.progress import track
from mercato.ranking.ranker import Ranker
from mercato.retrieval.expression import Expression
from mercato.retrieval.protocol import Hits
from mercato.search.pipeline import Page, Searcher
from mercato.search.policy import Effort, RetrievalPolicy
from mercato.search.request import SearchRequest

K = 10  # of nDCG and of the exact nearest
EXACT_QUERIES = 100  # at most, whose neighbours are found exactly


@dataclass(frozen=True)
class Measure:
    """One figure of a setting, a mean over the golden queries of which it is defined."""

    name: str  # in JSON
    label: str  # for people
    meaning: str
    digits: int = 3


MEASURES = (
    Measure("precision", "precision", "Relevant products among the judged ones that were retrieved."),
    Measure("recall", "recall of relevant", "Of the products judged relevant, the share that was retrieved."),
    Measure("engaged", "recall of engaged", "Of the products engaged with in the validation days, the share that was"
            " retrieved. What the ranker learned from has no part in it."),
    Measure("retrieved", "retrieved", "Products retrieved.", 0),
    Measure("unjudged", "unjudged", "Products retrieved for a judged query that no rater has judged.", 0),
    Measure("exact@10", "exact@10", "Of the ten nearest by an exact scan, the share that the vector's part found."),
    Measure("exact", "exact", "The same of as many nearest as the vector was to bring."),
    Measure("ndcg@10", "nDCG@10", "nDCG of the first ten judged products on page one, beside the best of all judged."),
    Measure("engaged_shown", "engaged shown", "Of the engaged products, the share on page one. The ranker has learned"
            " from these lists: in-fold."),
    Measure("cpu_ms", "CPU ms", "Processor time of page one in the thread that answers, the query's vector in the"
            " cache.", 2),
    Measure("wall_ms", "ms", "Time of page one from asked to answered.", 2),
)  # fmt: skip
TIMES = ("cpu_ms", "wall_ms")


@dataclass(frozen=True, eq=False)
class Measured:
    """The figures of one setting by golden query, (Q,) by the names of `MEASURES`, NaN where one is undefined."""

    setting: Setting
    values: Mapping[str, FloatArray]
    weights_RQ: FloatArray  # of the bootstrap's resamples

    @cached_property
    def estimates(self) -> dict[str, Estimate]:
        """Each mean with its replicates; what is defined for no query is left out."""
        found = {}
        for name, values_Q in self.values.items():
            if not np.isnan(values_Q).all():
                mean = QueryMean(values_Q)
                found[name] = Estimate(float(np.nanmean(values_Q)), mean(self.weights_RQ))
        return found

    def value(self, name: str) -> float | None:
        """A mean; None where it is undefined."""
        estimate = self.estimates.get(name)
        return estimate.value if estimate else None

    def quantile_ms(self, share: float) -> float:
        """A quantile of the time of page one, in ms: .5 or .99."""
        return float(np.quantile(self.values["wall_ms"], share))

    def at_pace(self, factor: float) -> Measured:
        """The same with its processor times multiplied."""
        return replace(self, values={**self.values, "cpu_ms": factor * self.values["cpu_ms"]})

    @property
    def figures(self) -> dict[str, float]:
        """All figures by their names, with `p50_ms` and `p99_ms`."""
        means = {name: estimate.value for name, estimate in self.estimates.items()}
        return means | {"p50_ms": self.quantile_ms(0.5), "p99_ms": self.quantile_ms(0.99)}

    @property
    def intervals(self) -> dict[str, Interval]:
        """The 95 % interval of each mean over other queries."""
        found = {name: estimate.interval for name, estimate in self.estimates.items() if name not in TIMES}
        return {name: interval for name, interval in found.items() if interval}


@dataclass(frozen=True)
class Bench:
    """What settings are measured with: a run's index as it serves, the golden queries and the resamples of them."""

    replay: Replay
    rankers: Mapping[Stages, Ranker | None]
    golden: GoldenSet
    weights_RQ: FloatArray
    nearest: Mapping[int, Mapping[str, float]]  # the exact nearest of some queries, by place: their cosines, best first

    def measure(self, settings: Sequence[Setting], what: str) -> list[Measured]:
        """Measure settings query by query, in an order that turns by one from query to query: whatever else the machine
        does, and that a query's first search is the dearest, falls on all alike.
        """
        searchers = [self.searcher((setting.effort,), setting.stages) for setting in settings]
        found: list[list[dict[str, float]]] = [[] for _ in settings]
        for place, query in enumerate(track(self.golden.queries, what)):
            retrieved: dict[Effort, dict[str, float]] = {}
            for number in in_turn(len(settings), place):
                setting, searcher, rows = settings[number], searchers[number], found[number]
                page, cpu_ms, wall_ms = timed(searcher, query.request)
                if setting.effort not in retrieved:
                    hits = self.retrieved(query, setting.effort)
                    retrieved[setting.effort] = self._of_hits(place, query, setting.effort, hits)
                row = retrieved[setting.effort] | self._of_page(query, page)
                rows.append(row | {"cpu_ms": cpu_ms, "wall_ms": wall_ms})
        names = [measure.name for measure in MEASURES]
        return [
            Measured(setting, {name: np.array([row[name] for row in rows]) for name in names}, self.weights_RQ)
            for setting, rows in zip(settings, found, strict=True)
        ]

    def searcher(self, pages: tuple[Effort, ...], stages: Stages) -> Searcher:
        """A server's search."""
        return self.replay.searcher(RetrievalPolicy(pages=pages), self.rankers[stages])

    def retrieved(self, query: GoldenQuery, effort: Effort) -> Hits:
        """What an effort brings for a query, as a search asks for it."""
        vector = self.replay.encoder.encode_queries([query.query], query.country)[0]
        expression = Expression(
            vector=vector,
            text=query.query,
            filters=query.request.filters,
            ef_search=effort.ef_search,
            min_cosine=effort.min_cosine,
            text_candidates=effort.text_candidates,
        )
        return self.replay.index.search(expression, effort.candidates)

    def _of_hits(self, place: int, query: GoldenQuery, effort: Effort, hits: Hits) -> dict[str, float]:
        ids = hits.product_ids
        found = {*ids}
        judged = found & query.grades.keys()
        relevant = self._relevant(query)
        nearest = self._nearest(place, effort)
        by_vector = {product_id for product_id, by_ann in zip(ids, hits.by_ann_H, strict=True) if by_ann}
        return {
            "precision": _share(judged & relevant, judged),
            "recall": _share(found & relevant, relevant),
            "engaged": _share(found & query.engaged, query.engaged),
            "retrieved": len(found),
            "unjudged": len(found) - len(judged) if query.grades else np.nan,
            "exact@10": _share(by_vector & {*nearest[:K]}, nearest[:K]),
            "exact": _share(by_vector & {*nearest}, nearest),
        }

    def _of_page(self, query: GoldenQuery, page: Page) -> dict[str, float]:
        shown = [hit.product["product_id"] for hit in page.hits]
        return {
            "ndcg@10": page_ndcg(shown, query.grades),
            "engaged_shown": _share(query.engaged & {*shown}, query.engaged),
        }

    def _relevant(self, query: GoldenQuery) -> set[str]:
        return {product for product, grade in query.grades.items() if grade >= self.golden.relevant_grade}

    def _nearest(self, place: int, effort: Effort) -> list[str]:
        """The exact nearest that an effort's vector part is to bring, best first."""
        least = -1.0 if effort.min_cosine is None else effort.min_cosine
        first = list(self.nearest.get(place, {}).items())[: effort.candidates]
        return [product for product, cosine in first if cosine >= least]


def in_turn(count: int, first: int) -> Iterator[int]:
    """0 … `count` - 1, another one first each time."""
    return ((first + number) % count for number in range(count))


def timed(searcher: Searcher, request: SearchRequest) -> tuple[Page, float, float]:
    """A page, the processor time of this process for it (the engine has threads) and the time it took, in ms."""
    cpu, wall = time.process_time(), time.perf_counter()
    page = searcher.search(request)
    return page, 1000 * (time.process_time() - cpu), 1000 * (time.perf_counter() - wall)


def page_ndcg(shown: Sequence[str], grades: Mapping[str, float]) -> float:
    """nDCG@10 of what a page shows, its unjudged products left out (condensed, Sakai, SIGIR 2007), beside the best
    order of all that is judged: what was not retrieved, or stands on a later page, gains nothing. NaN where nothing
    is judged good.
    """
    gained = [max(0.0, grades[product]) for product in shown if product in grades][:K]
    best = sorted((max(0.0, grade) for grade in grades.values()), reverse=True)[:K]
    ideal = _dcg(best)
    return _dcg(gained) / ideal if ideal else np.nan


def _dcg(gains: Sequence[float]) -> float:
    return float(sum(gain / np.log2(rank + 2) for rank, gain in enumerate(gains)))


def _share(some: set[str] | frozenset[str], of: set[str] | frozenset[str] | Sequence[str]) -> float:
    return len(some) / len(of) if of else np.nan
