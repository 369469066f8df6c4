"""Every metric that a market's tables allow, for an encoder, any other, BM25F, BM25 and random, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import polars as pl
import pyarrow as pa

from mercato.data.market import Market
from mercato.data.pairs import split_cutoff
from mercato.errors import MercatoError
from mercato.evaluation.baselines.bm25 import BM25
from mercato.evaluation.baselines.bm25f import BM25F
from mercato.evaluation.baselines.lexical import FIELDS
from mercato.evaluation.baselines.log import impressions, popularity
from mercato.evaluation.baselines.price import cheapness
from mercato.evaluation.baselines.registry import BASELINES
from mercato.evaluation.dataset import EARLIER, EvaluationSet, LabelledPairs, Split
from mercato.evaluation.metrics.arrays import BoolArray, FloatArray, IntArray
from mercato.evaluation.metrics.batch_recall import draw_batches
from mercato.evaluation.metrics.bootstrap import RESAMPLES, Estimate, Interval, estimates, resample
from mercato.evaluation.metrics.knn import ranks
from mercato.evaluation.metrics.matched_auc import strata
from mercato.evaluation.metrics.metric import (
    EngagementPairs,
    QueryMean,
    RankedCatalogue,
    RetrievedPairs,
    ScoredBatches,
    ScoredLists,
    ScoredPairs,
    Statistic,
)
from mercato.evaluation.metrics.registry import CATALOGUE_PARTS, LOG_PARTS, METRICS, SEARCH_PARTS
from mercato.evaluation.metrics.simultaneous import simultaneous_intervals
from mercato.evaluation.results import OURS, ByMetric, Counts, Figure, Metrics, PartCounts, Tuning
from mercato.evaluation.systems import LexicalSystem, PairScores, ProductScores, RandomSystem, Scorer, System, encode
from mercato.features.drop import drop_columns
from mercato.progress import track
from mercato.runs.encoder import Encoder

RESERVED = {OURS, *BASELINES}
DEPTH = 1000  # products that a search is asked for
BLOCK = 4096  # queries whose results are held at once


def evaluate(
    encoder: Encoder,
    market: Market,
    *,
    split: Split = "test",
    seed: int = 0,
    pairs: pl.DataFrame | None = None,
    dropped: Sequence[str] = (),
    others: Mapping[str, Encoder] | None = None,
) -> Metrics:
    """Measure an encoder on a market: the object that `mercato evaluate --json` prints.

    Use `Evaluation.of(…)` where the report's details are wanted too: nothing is then encoded twice.

    Args:
        encoder: the model.
        market: judgments give `relevance`; pairs give `engagement`, `batch` and `knn`, lists `lists`.
        split: `test` (judgments of the test split, pairs of the future) or `validation` (both, of that split).
        seed: of the bootstrap, the batches and the random baseline.
        pairs: held-out pairs, in place of the market's pairs table.
        dropped: fields that every system must do without, e.g. the title where the queries were made of it; without
            `images` there are no vectors of them either, and no count.
        others: more encoders to compare with, by name; they appear under `baselines`.

    Returns:
        Figures by part and metric (`mercato.evaluation.metrics.registry`), whose `as_dict` is {"relevance",
        "engagement", "lists", "batch", "knn", "unseen", "cold", "visual": {metric: value}, "baselines": {name: {part:
        {metric: value}}}, "n": {counts, seed}, "intervals": {the same tree with [low, high]; "differences": {name:
        ours - theirs}, and "simultaneous", the same corrected for their number}}.
        A part whose table is missing and a metric that is undefined are absent.

    Raises:
        MercatoError: no table to measure on, a broken table, or an encoder that returns NaN.
    """
    return Evaluation.of(encoder, market, split=split, seed=seed, pairs=pairs, dropped=dropped, others=others).metrics()


@dataclass(frozen=True)
class Evaluation:
    """Encoded systems and the set they are measured on.

    `systems` holds ours (`mercato`), others, `bm25f`, `bm25` and `random`; `scorers` what cannot search: it is
    measured in `LOG_PARTS` only.
    """

    market: Market
    dataset: EvaluationSet
    systems: dict[str, System]
    seed: int
    scorers: Mapping[str, Scorer] = field(default_factory=dict)
    tuned: dict[str, Tuning] = field(default_factory=dict)  # the baselines that were
    wanted: Sequence[str] = SEARCH_PARTS  # that are measured, where the tables allow them
    depth: int = DEPTH  # products that a search is asked for; recall further down is undefined
    _ranks: dict[str, IntArray] = field(default_factory=dict, init=False, repr=False, compare=False)  # by system

    @classmethod
    def of(
        cls,
        encoder: Encoder,
        market: Market,
        *,
        split: Split = "test",
        seed: int = 0,
        pairs: pl.DataFrame | None = None,
        dropped: Sequence[str] = (),
        others: Mapping[str, Encoder] | None = None,
        products: pa.Table | None = None,
        baselines: bool = True,
    ) -> Self:
        """Read the evaluation set and encode queries and products once for each encoder (arguments as `evaluate`).

        `products` stands in for the market's table, the same rows, e.g. with images already turned into vectors.
        Without `baselines` there are only encoders. BM25F is tuned on the validation split where the test split is
        measured. To a run, listings are as old as where the split begins.
        """
        reserved = RESERVED & set(others or {})
        if reserved:
            raise MercatoError(f"an encoder to compare with cannot be called {sorted(reserved)[0]!r}")
        dataset = EvaluationSet.read(market, split, pairs)
        if dataset.relevance is None and dataset.batch is None:
            raise MercatoError(f"{market.path} has nothing to evaluate on: no {split} judgments, no engaged pairs")
        products = drop_columns(market.arrow("products") if products is None else products, dropped)
        as_of = split_cutoff(market, EARLIER[split])
        systems: dict[str, System] = {}
        tuned: dict[str, Tuning] = {}
        for name, model in {OURS: encoder, **(others or {})}.items():
            systems[name] = encode(model, name, dataset.queries, products, dataset.rows, as_of=as_of)
        if baselines:
            lexical, texts = products.select(["product_id", "language", *FIELDS]), dataset.queries["query"].to_list()
            bm25f = BM25F(lexical)
            if split == "test" and (
                tuning := _tune(bm25f, EvaluationSet.read(market, "validation", pairs, lists=False))
            ):
                tuned["bm25f"] = tuning
            systems["bm25f"] = LexicalSystem(bm25f, texts)
            systems["bm25"] = LexicalSystem(BM25(lexical), texts)
            systems["random"] = RandomSystem(products.num_rows, seed)
        logged = baselines and any(dataset.pairs(part) for part in LOG_PARTS)
        scorers = _scorers(market, dataset, split, products, pairs) if logged else {}
        return cls(market, dataset, systems, seed, scorers, tuned)

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that are wanted and that the market's tables allow."""
        return tuple(part for part in SEARCH_PARTS if part in self.wanted and self.dataset.pairs(part) is not None)

    def measured(self, part: str) -> Mapping[str, Scorer]:
        """Who is measured in a part, ours first."""
        return {**self.systems, **(self.scorers if part in LOG_PARTS else {})}

    def metrics(self) -> Metrics:
        """Every figure and interval."""
        figures: dict[str, ByMetric[Figure]] = {name: {} for name in (*self.systems, *self.scorers)}
        differences: dict[str, ByMetric[Interval | None]] = {name: {} for name in figures if name != OURS}
        counts: dict[str, PartCounts] = {}
        ours: dict[str, Estimate] = {}  # in the part at hand
        family: dict[str, dict[tuple[str, str, str], Estimate]] = {part: {} for part in self.parts}
        steps = [(part, name) for part in self.parts for name in self.measured(part)]
        for part, name in track(steps, "metrics and intervals"):
            statistics, counts[part] = self.part(part, name)
            if name == OURS:
                weights_RQ = self.weights(part)
            found = estimates(statistics, weights_RQ)
            if name == OURS:
                ours = found
            elif found:
                less = {metric: ours[metric] - theirs for metric, theirs in found.items()}
                differences[name][part] = {metric: estimate.interval for metric, estimate in less.items()}
                if name in self.systems and name != "random":
                    family[part] |= {(name, part, metric): estimate for metric, estimate in less.items()}
            if found:
                figures[name][part] = {metric: Figure.of(estimate) for metric, estimate in found.items()}
        simultaneous: dict[str, ByMetric[Interval | None]] = {}
        for (name, part, metric), interval in simultaneous_intervals(list(family.values())).items():
            simultaneous.setdefault(name, {}).setdefault(part, {})[metric] = interval
        return Metrics(
            ours=figures.pop(OURS),
            baselines=figures,
            differences=differences,
            simultaneous_differences=simultaneous,
            tuned=self.tuned,
            n=Counts(
                products=len(self.dataset.product_ids),
                queries=len(self.dataset.queries),
                resamples=RESAMPLES,
                seed=self.seed,
                unit=self.dataset.unit,
                parts=counts,
            ),
        )

    def weights(self, part: str) -> FloatArray:
        """The resamples of a part's queries, whole units at a time: (R, Q), the same for every system."""
        return resample(self._units(part), self.seed)

    def _units(self, part: str) -> IntArray:
        """The unit of each query of a part, in the order of its statistics: (Q,)."""
        pairs = self.dataset.pairs(part)
        assert pairs is not None, part
        rows_Q = pairs.query_rows
        if part == "batch":
            rows_Q = pairs.queries[np.concatenate(_dealt(pairs, self.dataset.queries, self.seed))]
        return self.dataset.units_Q[rows_Q]

    def part(self, part: str, name: str) -> tuple[dict[str, Statistic], PartCounts]:
        """One part's metrics for one system, as statistics over the part's queries, and the part's counts."""
        pairs, scorer = self.dataset.pairs(part), self.measured(part)[name]
        assert pairs is not None, part
        inputs: Any
        counted: dict[str, Any] = {}
        if part in ("relevance", "relevance_unseen"):
            labels_P = pairs.grades >= self.market.config.relevant_grade
            inputs = replace(_scored(scorer, pairs, labels_P), found=self._found(name, pairs))
            counted = {"relevant": int(labels_P.sum())}
        elif part == "engagement":
            labels_P = pairs.grades >= 1
            inputs, counted = _engagement(scorer, pairs, labels_P, self.dataset), {"engaged": int(labels_P.sum())}
        elif part == "lists":
            inputs, counted = _displayed(scorer, self.dataset)
        elif part == "batch":
            batches = _dealt(pairs, self.dataset.queries, self.seed)
            drawn = sum(map(len, batches))
            inputs = _batches(self.systems[name], pairs, batches)
            counted = {"queries": drawn, "pairs": drawn, "batch_size": max(map(len, batches)), "unknown_products": None}
        else:
            inputs = self._retrieved(name, pairs)
            if part == "visual":
                counted = self._sources(pairs)
        statistics: dict[str, Statistic] = {metric.name: metric.compute(inputs) for metric in METRICS[part]}
        counts = _counts(pairs, units=len(np.unique(self._units(part))), **counted)
        defined = {name: each.queries for name, each in statistics.items() if isinstance(each, QueryMean)}
        fewer = {name: queries for name, queries in defined.items() if queries < counts.queries}
        return statistics, replace(counts, defined=fewer or None)

    def top(self, name: str, queries_Q: IntArray, k: int) -> IntArray:
        """The k best products of each query by one system, within the areas that `EvaluationSet.areas` draws."""
        found_QK = np.full((len(queries_Q), k), -1, dtype=np.int64)
        for places, among_M in self.dataset.areas(queries_Q):
            found_QK[places] = self.systems[name].top(queries_Q[places], k, among_M)
        return found_QK

    def _retrieved(self, name: str, pairs: LabelledPairs) -> RetrievedPairs:
        """Where a system finds the products of pairs. It searches once for the pairs of all parts."""
        catalogue, searched_P = len(self.dataset.product_ids), self._searched
        if name not in self._ranks:
            self._ranks[name] = self._rank(name, *np.divmod(searched_P, catalogue))
        ranks_P = self._ranks[name][np.searchsorted(searched_P, self._keys(pairs))]
        return RetrievedPairs(groups_P=pairs.groups, ranks_P=ranks_P, depth=self.depth)

    @cached_property
    def _searched(self) -> IntArray:
        """The distinct pairs of all parts that are of the whole catalogue, ascending: query · N + product."""
        found = [self._keys(pairs) for part in CATALOGUE_PARTS if (pairs := self.dataset.pairs(part)) is not None]
        return np.unique(np.concatenate(found))

    def _rank(self, name: str, queries_P: IntArray, products_P: IntArray) -> IntArray:
        """Where a system finds each pair's product, pairs in the order of their queries: (P,), -1 where it does not."""
        ranks_P = np.empty(len(queries_P), dtype=np.int64)
        rows_Q, first_Q = np.unique(queries_P, return_index=True)
        ends = np.append(first_Q, len(queries_P))
        for start in range(0, len(rows_Q), BLOCK):
            some_Q = rows_Q[start : start + BLOCK]
            own = slice(ends[start], ends[start + len(some_Q)])
            groups_P = np.searchsorted(some_Q, queries_P[own])
            ranks_P[own] = ranks(self.top(name, some_Q, self.depth), groups_P, products_P[own])
        return ranks_P

    def _sources(self, pairs: LabelledPairs) -> dict[str, Any]:
        """How many of the pairs are engaged, and how many relevant: some are both."""
        engaged, judged = self.dataset.engaged, self.dataset.relevance
        relevant = judged.only(judged.grades >= self.market.config.relevant_grade) if judged else None
        keys = self._keys(pairs)
        counted = {
            name: int(np.isin(keys, self._keys(own)).sum())
            for name, own in (("relevant", relevant), ("engaged", engaged))
            if own
        }
        return {**counted, "unknown_products": None}

    def _keys(self, pairs: LabelledPairs) -> IntArray:
        return pairs.queries * len(self.dataset.product_ids) + pairs.products

    def _found(self, name: str, judged: LabelledPairs) -> RankedCatalogue | None:
        """What a system finds first for the judged queries; None where only judged products were encoded."""
        if self.dataset.batch is None:
            return None
        return _ranked(self.top(name, judged.query_rows, 10), judged, len(self.dataset.product_ids))


def _tune(bm25f: BM25F, validation: EvaluationSet) -> Tuning | None:
    pairs = validation.relevance or validation.engagement
    return bm25f.tune(validation.queries["query"].to_list(), pairs) if pairs else None


def _scorers(
    market: Market, dataset: EvaluationSet, split: Split, products: pa.Table, pairs: pl.DataFrame | None
) -> dict[str, Scorer]:
    """The baselines of the log and the price; one of which nothing is known is absent."""
    found: dict[str, Scorer] = {}
    if (shown := impressions(dataset)) is not None:
        found["impressions"] = PairScores.of(*shown, len(dataset.product_ids))
    if pairs is None and market.has("pairs"):
        table = market.frame("pairs", ["product_id", "label", "weight", "impressions", "split"])
        earlier = table.filter(pl.col("split").fill_null("train").is_in(EARLIER[split]))
        if (rates_N := popularity(earlier, dataset.product_ids)) is not None:
            found["popularity"] = ProductScores(rates_N)
    priced = pl.from_arrow(products.select(["category", "currency", "country", "price"]))
    assert isinstance(priced, pl.DataFrame)
    if (cheap_N := cheapness(priced)) is not None:
        found["price"] = ProductScores(cheap_N)
    return found


def _scored(scorer: Scorer, pairs: LabelledPairs, labels_P: BoolArray) -> ScoredPairs:
    scores_P = scorer.score(pairs.queries, pairs.products)
    return ScoredPairs(groups_P=pairs.groups, grades_P=pairs.grades, labels_P=labels_P, scores_P=scores_P)


def _engagement(scorer: Scorer, pairs: LabelledPairs, labels_P: BoolArray, dataset: EvaluationSet) -> EngagementPairs:
    return EngagementPairs(
        **vars(_scored(scorer, pairs, labels_P)),
        strata_P=strata(pairs.impressions),
        kinds_P=dataset.kinds_N[pairs.products],
        clicked_P=pairs.depth >= 1,
    )


def _displayed(scorer: Scorer, dataset: EvaluationSet) -> tuple[ScoredLists, dict[str, Any]]:
    lists = dataset.lists
    assert lists is not None
    inputs = ScoredLists(
        queries_L=lists.list_queries,
        lists_P=lists.lists_P,
        gains_P=lists.shown.grades / lists.propensities_P,
        scores_P=scorer.score(lists.shown.queries, lists.shown.products),
    )
    propensities = lists.propensities_K.round(4).tolist()
    return inputs, {"lists": len(inputs.queries_L), "propensities": propensities}


def _dealt(pairs: LabelledPairs, queries: pl.DataFrame, seed: int) -> list[IntArray]:
    """The batches of `draw_batches`: positions in the pairs."""
    texts = queries["query"].rank("dense").cast(pl.Int64).to_numpy()  # one text in two countries is one query here
    return draw_batches(texts[pairs.queries], pairs.products, seed)


def _batches(system: System, pairs: LabelledPairs, batches: list[IntArray]) -> ScoredBatches:
    return ScoredBatches(scores_BB=[system.grid(pairs.queries[rows], pairs.products[rows]) for rows in batches])


def _ranked(top_QK: IntArray, pairs: LabelledPairs, catalogue: int) -> RankedCatalogue:
    return RankedCatalogue(top_QK=top_QK, groups_P=pairs.groups, products_P=pairs.products, catalogue=catalogue)


def _counts(pairs: LabelledPairs, /, **counted: Any) -> PartCounts:
    common: dict[str, Any] = {
        "queries": len(pairs.query_rows),
        "pairs": len(pairs.queries),
        "split": pairs.split,
        "unknown_products": pairs.unknown,
    }
    return PartCounts(**(common | counted))
