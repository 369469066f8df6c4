"""What a report shows beside the figures: curves, score distributions, the worst queries, and results to look at."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mercato.data.images import load_images
from mercato.data.schema import TABLES
from mercato.evaluation.dataset import LabelledPairs
from mercato.evaluation.evaluate import OURS, Evaluation
from mercato.evaluation.metrics.arrays import BoolArray, FloatArray, IntArray
from mercato.evaluation.metrics.knn import recall_and_precision
from mercato.evaluation.metrics.ndcg import ndcg

PHOTO_SIZE = 176
CURVE_POINTS = 200


@dataclass(frozen=True)
class WorstQuery:
    """A query on which the encoder does badly."""

    query: str
    country: str | None
    judged: int
    relevant: int
    ours: float
    bm25: float


@dataclass(frozen=True)
class Details:
    """Everything but the figures. `split_name` says which labels the curves and histogram are of."""

    facts: dict[str, str]
    split_name: str = ""
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)  # system → (false, true positive rate)
    histogram: tuple[list[float], list[float], list[float]] | None = None  # edges, share of relevant, of the others
    worst_metric: str = ""
    worst: list[WorstQuery] = field(default_factory=list)


@dataclass(frozen=True)
class Result:
    """One product in a result list. `verdict` is True or False where known, None where nobody judged it."""

    title: str
    price: str
    photo: str | None  # a data URI
    verdict: bool | None


@dataclass(frozen=True)
class Example:
    """The first results of the encoder and of BM25 for one query."""

    query: str
    country: str | None
    why: str
    ours: list[Result]
    bm25: list[Result]


def collect_details(evaluation: Evaluation, worst: int = 10) -> Details:
    """Curves, score distribution and worst queries of an evaluation, and facts about its market."""
    market, tasks = evaluation.market, evaluation.tasks
    rows = {
        table: market.arrow(table, columns=[TABLES[table].names[0]]).num_rows for table in TABLES if market.has(table)
    }
    facts = {"market": market.config.name, "fingerprint": market.fingerprint()}
    facts |= {table: f"{count:,} rows" for table, count in rows.items()}
    metric, asked_Q, ours_Q = _per_query(evaluation, OURS)
    lexical_Q = _per_query(evaluation, "bm25")[2]
    lists = tasks.relevance or tasks.engaged or tasks.batch
    bottom = [query for query in np.argsort(ours_Q, kind="stable")[:worst] if not np.isnan(ours_Q[query])]
    found = []
    for place in bottom:
        row = int(asked_Q[place])
        judged, relevant = _judged(evaluation, lists, row)
        query, country = tasks.queries.row(row)
        found.append(WorstQuery(query, country, judged, relevant, float(ours_Q[place]), float(lexical_Q[place])))

    labelled = tasks.relevance or tasks.engagement
    if labelled is None:
        return Details(facts, worst_metric=metric, worst=found)
    labels_P = labelled.grades >= (market.config.relevant_grade if tasks.relevance else 1)
    scores = {name: system.score(labelled.queries, labelled.products) for name, system in evaluation.systems.items()}
    both = bool(labels_P.any() and not labels_P.all())
    return Details(
        facts,
        "relevant against irrelevant pairs" if tasks.relevance else "engaged against shown-and-not-engaged pairs",
        {name: _roc(labels_P, values) for name, values in scores.items()} if both else {},
        _histogram(labels_P, scores[OURS]) if both else None,
        metric,
        found,
    )


def collect_examples(evaluation: Evaluation, drawn: int = 6, lost: int = 2, depth: int = 6) -> list[Example]:
    """Result lists from the whole catalogue: `drawn` queries at random, and the `lost` most lost against BM25.

    The draw is seeded by the evaluation's seed, so that the examples are not picked by hand.
    """
    _, asked_Q, ours_Q = _per_query(evaluation, OURS)
    behind_Q = ours_Q - _per_query(evaluation, "bm25")[2]
    losers = [int(place) for place in np.argsort(behind_Q, kind="stable")[:lost] if behind_Q[place] < 0]
    rest = [place for place in range(len(asked_Q)) if place not in losers]
    random = np.random.default_rng(evaluation.seed).permutation(rest)[:drawn].astype(np.int64)
    chosen = [(asked_Q[place], "drawn at random") for place in random]
    chosen += [(asked_Q[place], "where BM25 is furthest ahead") for place in losers]
    rows = np.array([row for row, _ in chosen], dtype=np.int64)

    tops = {name: evaluation.top(name, rows, depth) for name in (OURS, "bm25")}
    shown = np.unique(np.concatenate([top.ravel() for top in tops.values()]))
    shown = shown[shown >= 0]
    table = evaluation.market.arrow("products", ["title", "price", "currency", "images"]).take(shown).to_pylist()
    tiles = {int(row): product_tile(evaluation, product) for row, product in zip(shown, table, strict=True)}
    verdicts = _verdicts(evaluation, rows)

    def results(name: str, place: int) -> list[Result]:
        found = [int(product) for product in tops[name][place] if product >= 0]
        return [Result(*tiles[product], verdicts.get((int(rows[place]), product))) for product in found]

    queries = evaluation.tasks.queries
    return [
        Example(
            queries["query"][int(row)], queries["country"][int(row)], why, results(OURS, place), results("bm25", place)
        )
        for place, (row, why) in enumerate(chosen)
    ]


def _per_query(evaluation: Evaluation, name: str) -> tuple[str, IntArray, FloatArray]:
    tasks, system = evaluation.tasks, evaluation.systems[name]
    if tasks.relevance is not None:
        judged = tasks.relevance
        scores_P = system.score(judged.queries, judged.products)
        return "nDCG@10", judged.query_rows, ndcg(judged.groups, judged.grades, scores_P, 10)
    assert tasks.batch is not None  # an evaluation has one or the other
    lists = tasks.engaged or tasks.batch
    top_QK = evaluation.top(name, lists.query_rows, 100)
    recall_Q, _ = recall_and_precision(top_QK, lists.groups, lists.products, len(tasks.product_ids), 100)
    return "recall@100", lists.query_rows, recall_Q


def _judged(evaluation: Evaluation, lists: LabelledPairs | None, row: int) -> tuple[int, int]:
    if lists is None:
        return 0, 0
    grades = lists.grades[lists.queries == row]
    threshold = evaluation.market.config.relevant_grade if evaluation.tasks.relevance else 1.0
    return len(grades), int((grades >= threshold).sum())


def _verdicts(evaluation: Evaluation, rows: IntArray) -> dict[tuple[int, int], bool]:
    """Whether a (query, product) is relevant to a rater or, where no rater saw it, was engaged."""
    verdicts: dict[tuple[int, int], bool] = {}
    sources = ((evaluation.tasks.engaged, 1.0), (evaluation.tasks.relevance, evaluation.market.config.relevant_grade))
    for lists, threshold in sources:
        if lists is None:
            continue
        for pair in np.flatnonzero(np.isin(lists.queries, rows)):
            key = (int(lists.queries[pair]), int(lists.products[pair]))
            verdicts[key] = bool(lists.grades[pair] >= threshold)
    return verdicts


def product_tile(evaluation: Evaluation, product: dict[str, Any]) -> tuple[str, str, str | None]:
    """A product's title, its price in words, and its first photo, small, as a data URI."""
    price, currency = product["price"], product["currency"] or evaluation.market.config.currency
    photos = load_images(evaluation.market.path, product["images"], limit=1)
    photo = None
    if photos:
        photos[0].thumbnail((PHOTO_SIZE, PHOTO_SIZE))
        packed = io.BytesIO()
        photos[0].save(packed, "JPEG", quality=80)
        photo = "data:image/jpeg;base64," + base64.b64encode(packed.getvalue()).decode()
    return product["title"], "" if price is None else f"{price:,.2f} {currency}", photo


def _roc(labels_P: BoolArray, scores_P: FloatArray) -> list[tuple[float, float]]:
    order_P = np.argsort(-scores_P, kind="stable")
    ends_S = np.flatnonzero(np.append(np.diff(scores_P[order_P]) != 0, True))  # a tie is one slanted step
    true_S = np.cumsum(labels_P[order_P])[ends_S]
    false_S = ends_S + 1 - true_S
    kept = np.unique(np.linspace(0, len(ends_S) - 1, CURVE_POINTS).astype(int))
    points = zip(false_S[kept] / (~labels_P).sum(), true_S[kept] / labels_P.sum(), strict=True)
    return [(0.0, 0.0), *((float(x), float(y)) for x, y in points)]


def _histogram(labels_P: BoolArray, scores_P: FloatArray) -> tuple[list[float], list[float], list[float]]:
    edges = np.histogram_bin_edges(scores_P, 40)
    relevant, irrelevant = (np.histogram(scores_P[chosen], edges)[0] / chosen.sum() for chosen in (labels_P, ~labels_P))
    return edges.tolist(), relevant.tolist(), irrelevant.tolist()
