"""What an evaluation's page shows beside the figures: curves, score distributions, worst queries, example products."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mercato.data.images import load_images
from mercato.data.market import Market
from mercato.data.normalize import normalize
from mercato.data.schema import TABLES
from mercato.evaluation.dataset import LabelledPairs
from mercato.evaluation.evaluate import Evaluation
from mercato.evaluation.metrics.arrays import BoolArray, FloatArray, IntArray
from mercato.evaluation.metrics.knn import recall_and_precision
from mercato.evaluation.metrics.ndcg import ndcg
from mercato.evaluation.query_prediction import QueryPrediction
from mercato.evaluation.results import OURS

IMAGE_SIZE = 176
COLUMNS = ["title", "price", "currency", "images"]  # that a tile shows
CURVE_POINTS = 200
LEXICAL = "bm25f"  # what results are held against


@dataclass(frozen=True)
class WorstQuery:
    """A query on which the encoder does badly."""

    query: str
    country: str | None
    judged: int
    relevant: int
    ours: float
    lexical: float


@dataclass(frozen=True)
class Details:
    """Everything but the figures. `pairs_name` says which labels the curves and histogram are of."""

    market_info: dict[str, str]  # its name, fingerprint and tables
    pairs_name: str = ""
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)  # system → (false, true positive rate)
    histogram: tuple[list[float], list[float], list[float]] | None = None  # edges, share of relevant, of the others
    worst_metric: str = ""
    worst: list[WorstQuery] = field(default_factory=list)


@dataclass(frozen=True)
class Tile:
    """A product as a page shows it. `verdict` is True or False where known, None where nobody judged it."""

    title: str
    price: str
    image: str | None  # a data URI
    verdict: bool | None = None


@dataclass(frozen=True)
class Example:
    """The first results of the encoder and of BM25F for one query."""

    query: str
    country: str | None
    why: str
    ours: list[Tile]
    lexical: list[Tile]


@dataclass(frozen=True)
class PredictedProduct:
    """A product with its likeliest queries, (query, probability, whether it came true), and those that came true."""

    tile: Tile
    predicted: list[tuple[str, float, bool]]
    searched: list[str]


def collect_details(evaluation: Evaluation, worst: int = 10) -> Details:
    """Curves, score distribution and worst queries of an evaluation, and what its market holds."""
    market, dataset = evaluation.market, evaluation.dataset
    rows = {
        table: market.arrow(table, columns=[TABLES[table].names[0]]).num_rows for table in TABLES if market.has(table)
    }
    market_info = {"market": market.config.name, "fingerprint": market.fingerprint()}
    market_info |= {table: f"{count:,} rows" for table, count in rows.items()}
    metric, rows_Q, ours_Q = _per_query(evaluation, OURS)
    lexical_Q = _per_query(evaluation, LEXICAL)[2]
    pairs = dataset.relevance or dataset.engaged or dataset.batch
    bottom = [query for query in np.argsort(ours_Q, kind="stable")[:worst] if not np.isnan(ours_Q[query])]
    found = []
    for place in bottom:
        row = int(rows_Q[place])
        judged, relevant = _judged(evaluation, pairs, row)
        query, country = dataset.queries.row(row)
        found.append(WorstQuery(query, country, judged, relevant, float(ours_Q[place]), float(lexical_Q[place])))

    labelled = dataset.relevance or dataset.engagement
    if labelled is None:
        return Details(market_info, worst_metric=metric, worst=found)
    labels_P = labelled.grades >= (market.config.relevant_grade if dataset.relevance else 1)
    scores = {name: system.score(labelled.queries, labelled.products) for name, system in evaluation.systems.items()}
    both = bool(labels_P.any() and not labels_P.all())
    return Details(
        market_info,
        "relevant against irrelevant pairs" if dataset.relevance else "engaged against unengaged pairs",
        {name: _roc(labels_P, values) for name, values in scores.items()} if both else {},
        _histogram(labels_P, scores[OURS]) if both else None,
        metric,
        found,
    )


def collect_examples(evaluation: Evaluation, drawn: int = 6, lost: int = 2, depth: int = 6) -> list[Example]:
    """Result lists from the whole catalogue: `drawn` queries at random, and the `lost` most lost against BM25F.

    The draw is seeded by the evaluation's seed, so that the examples are not picked by hand.
    """
    _, rows_Q, ours_Q = _per_query(evaluation, OURS)
    behind_Q = ours_Q - _per_query(evaluation, LEXICAL)[2]
    losers = [int(place) for place in np.argsort(behind_Q, kind="stable")[:lost] if behind_Q[place] < 0]
    rest = [place for place in range(len(rows_Q)) if place not in losers]
    random = np.random.default_rng(evaluation.seed).permutation(rest)[:drawn].astype(np.int64)
    chosen = [(rows_Q[place], "drawn at random") for place in random]
    chosen += [(rows_Q[place], "where BM25F is furthest ahead") for place in losers]
    rows = np.array([row for row, _ in chosen], dtype=np.int64)

    tops = {name: evaluation.top(name, rows, depth) for name in (OURS, LEXICAL)}
    found = np.unique(np.concatenate([top.ravel() for top in tops.values()]))
    tiles = _tiles(evaluation.market, found[found >= 0])
    verdicts = _verdicts(evaluation, rows)

    def results(name: str, place: int) -> list[Tile]:
        found = [int(product) for product in tops[name][place] if product >= 0]
        return [replace(tiles[product], verdict=verdicts.get((int(rows[place]), product))) for product in found]

    queries = evaluation.dataset.queries
    return [
        Example(
            queries["query"][int(row)], queries["country"][int(row)], why, results(OURS, place), results(LEXICAL, place)
        )
        for place, (row, why) in enumerate(chosen)
    ]


def collect_predictions(prediction: QueryPrediction, drawn: int = 6, depth: int = 6) -> list[PredictedProduct]:
    """Products with their predicted queries, drawn at random by the evaluation's seed."""
    random = np.random.default_rng(prediction.evaluation.seed).permutation(len(prediction.products_M))[:drawn]
    tiles = _tiles(prediction.evaluation.market, prediction.products_M[random])
    return [
        PredictedProduct(
            tiles[int(prediction.products_M[place])],
            [(q, p, normalize(q) in prediction.truths[place]) for q, p in prediction.probabilities[place][:depth]],
            sorted(prediction.truths[place]),
        )
        for place in random.tolist()
    ]


def _per_query(evaluation: Evaluation, name: str) -> tuple[str, IntArray, FloatArray]:
    dataset, system = evaluation.dataset, evaluation.systems[name]
    if dataset.relevance is not None:
        judged = dataset.relevance
        scores_P = system.score(judged.queries, judged.products)
        return "nDCG@10", judged.query_rows, ndcg(judged.groups, judged.grades, scores_P, 10)
    assert dataset.batch is not None  # an evaluation has one or the other
    pairs = dataset.engaged or dataset.batch
    top_QK = evaluation.top(name, pairs.query_rows, 100)
    recall_Q, _ = recall_and_precision(top_QK, pairs.groups, pairs.products, len(dataset.product_ids), 100)
    return "recall@100", pairs.query_rows, recall_Q


def _judged(evaluation: Evaluation, pairs: LabelledPairs | None, row: int) -> tuple[int, int]:
    if pairs is None:
        return 0, 0
    grades = pairs.grades[pairs.queries == row]
    threshold = evaluation.market.config.relevant_grade if evaluation.dataset.relevance else 1.0
    return len(grades), int((grades >= threshold).sum())


def _verdicts(evaluation: Evaluation, rows: IntArray) -> dict[tuple[int, int], bool]:
    """Whether a (query, product) is relevant to a rater or, where no rater saw it, was engaged."""
    verdicts: dict[tuple[int, int], bool] = {}
    dataset, relevant = evaluation.dataset, evaluation.market.config.relevant_grade
    for pairs, threshold in ((dataset.engaged, 1.0), (dataset.relevance, relevant)):
        if pairs is None:
            continue
        for pair in np.flatnonzero(np.isin(pairs.queries, rows)):
            key = (int(pairs.queries[pair]), int(pairs.products[pair]))
            verdicts[key] = bool(pairs.grades[pair] >= threshold)
    return verdicts


def _tiles(market: Market, rows: IntArray) -> dict[int, Tile]:
    """The products of these rows as tiles, by row."""
    products = market.arrow("products", COLUMNS).take(rows).to_pylist()
    return {int(row): product_tile(market, product) for row, product in zip(rows, products, strict=True)}


def product_tile(market: Market, product: dict[str, Any]) -> Tile:
    """A product's title, its price in words, and its first image, small, as a data URI."""
    price, currency = product["price"], product["currency"] or market.config.currency
    images = load_images(market.path, product["images"], limit=1)
    image = None
    if images:
        images[0].thumbnail((IMAGE_SIZE, IMAGE_SIZE))
        packed = io.BytesIO()
        images[0].save(packed, "JPEG", quality=80)
        image = "data:image/jpeg;base64," + base64.b64encode(packed.getvalue()).decode()
    return Tile(product["title"], "" if price is None else f"{price:,.2f} {currency}", image)


def _roc(labels_P: BoolArray, scores_P: FloatArray) -> list[tuple[float, float]]:
    order_P = np.argsort(-scores_P, kind="stable")
    ends_G = np.flatnonzero(np.append(np.diff(scores_P[order_P]) != 0, True))  # a tie is one slanted step
    true_G = np.cumsum(labels_P[order_P])[ends_G]
    false_G = ends_G + 1 - true_G
    kept = np.unique(np.linspace(0, len(ends_G) - 1, CURVE_POINTS).astype(int))
    points = zip(false_G[kept] / (~labels_P).sum(), true_G[kept] / labels_P.sum(), strict=True)
    return [(0.0, 0.0), *((float(x), float(y)) for x, y in points)]


def _histogram(labels_P: BoolArray, scores_P: FloatArray) -> tuple[list[float], list[float], list[float]]:
    edges = np.histogram_bin_edges(scores_P, 40)
    relevant, irrelevant = (np.histogram(scores_P[chosen], edges)[0] / chosen.sum() for chosen in (labels_P, ~labels_P))
    return edges.tolist(), relevant.tolist(), irrelevant.tolist()
