"""The features that both ranking stages read: one function, for whole lists at once, offline as online.

Of the person who searches nothing is known but the query, the country that it was encoded with and the place that it
was sent from. A feature depends on one query and one product, never on the other candidates: these are other products
when the ranker learns than when it serves.

Shapes: H products, Q words of the query, S sections, F features.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mercato.data.words import words
from mercato.errors import MercatoError
from mercato.ranking.lookup import Keys, mixed, query_key
from mercato.ranking.statistics import Statistics
from mercato.retrieval.protocol import Hits
from mercato.retrieval.signals import SECTIONS, SignalColumns, trigram_hashes, with_digit, word_hashes
from mercato.runs.query_head import QueryHead

Floats = NDArray[np.float64]
Columns = dict[str, NDArray[Any] | float]  # (H,), or one value for all

DAY = 86_400.0  # seconds
NEGATIONS = {"no", "not", "without", "sin", "sans", "ohne", "kein", "keine", "sem", "nao", "senza", "bez"}
PASSED_OVER = {  # between a negation and what it excludes
    "a", "an", "any", "the", "un", "una", "une", "el", "la", "le", "de", "ein", "eine", "einen", "o", "um", "uma",
}  # fmt: skip

RATES = ("coec", "steps", "shown")
_WITH_UNIT = re.compile(r"(\d+)([^\W\d_]+)")
_TITLE, _TRIGRAMS = SECTIONS.index("title"), SECTIONS.index("trigrams")
_READ = SECTIONS[:_TRIGRAMS]  # whose words a query's may be
K1, B = 1.2, 0.75  # of BM25, as the index's
VERSION = 5  # of what the features mean; a ranker of another one is refused
NAMES = (
    "cosine", "bm25", "head",
    *(f"coverage_{section}" for section in _READ), "coverage", "coverage_all",
    *(f"bm25_{section}" for section in _READ), "bigrams_title",
    "title_words", "title_unasked", "description_words", "trigram_similarity",
    "numbers_matched", "numbers_contradicted", "negated_matched",
    "query_words", "query_numbers", "query_searches", "query_entropy",
    "price_of_market", "price_of_category", "price_of_department", "price_of_query",
    "age_days", "distance_km", "seller_rating", "rating", "images", "missing",
    *(f"{what}_{rate}" for what in ("product", "seller", "category", "query_category") for rate in RATES),
    "query_category_share", "condition_coec", "condition_steps",
)  # fmt: skip

UNLOGGED = ("age_days", "distance_km")  # would lead from a list to the moment and the place of its search

IDS = ("product_id", "seller_id", "category", "department", "condition", "query")  # that stage 2 has vectors of

MONOTONE = {  # sense demands it: +1 more is better, -1 worse, everything else being equal
    "cosine": 1, "bm25": 1, "head": 1,
    "bm25_title": 1, "bm25_brand": 1, "bm25_category": 1, "bm25_attributes": 1,  # descriptions tell what it is not, too
    "numbers_contradicted": -1, "negated_matched": -1, "query_category_share": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """What a ranker knows of a search."""

    query: str
    as_of: datetime  # listings have their age then
    latitude: float | None = None
    longitude: float | None = None


def features(asked: Asked, hits: Hits, statistics: Statistics, head: QueryHead | None = None) -> NDArray[np.float32]:
    """The features of each hit of a search, in the order of `NAMES`, NaN where unknown: float32 (H, F).

    `head` is the classification head of the run whose vectors the index holds; None where it has none.
    """
    return features_of(asked, hits, hits.signals(), statistics, head)


def features_of(
    asked: Asked, hits: Hits, columns: SignalColumns, statistics: Statistics, head: QueryHead | None
) -> NDArray[np.float32]:
    """As `features`, of hits whose signals have been read."""
    found: Columns = {"cosine": hits.cosine_H, "bm25": hits.bm25_H, "head": _of_the_head(asked.query, hits, head)}
    found |= _of_words(asked.query, columns, statistics)
    found |= _of_the_log(asked.query, columns, statistics)
    found |= _of_the_listing(asked, columns)
    whole_HF = np.empty((len(hits), len(NAMES)), np.float32)
    for place, name in enumerate(NAMES):
        whole_HF[:, place] = found[name]
    return rounded(whole_HF)


def without(features_HF: NDArray[np.float32], names: Sequence[str]) -> NDArray[np.float32]:
    """The features with the named ones unknown in every row: float32 (H, F)."""
    unknown_F = np.isin(NAMES, names)
    return np.where(unknown_F, np.float32(np.nan), features_HF) if names else features_HF


def require_features(names: Sequence[str]) -> None:
    """Make sure that what a ranker shall do without is a feature.

    Raises:
        MercatoError: it is none.
    """
    for name in names:
        if name not in NAMES:
            raise MercatoError(f"recipe, ranking.without: there is no feature {name!r}; there are {', '.join(NAMES)}")


def ids_of(query: str, columns: SignalColumns) -> Keys:
    """The keys of each product and of the query, in the order of `IDS`, 0 where unknown: uint64 (H, T)."""
    named = [columns.key(name) for name in IDS[:-1]]
    return np.stack([*named, np.full(len(columns.keys_HK), query_key(query), np.uint64)], axis=1)


def rounded(features_HF: NDArray[np.float32]) -> NDArray[np.float32]:
    """To 17 bits, so that a threshold between two values is a float32 too and a tree means the same wherever it runs.

    What differs by less is noise: the order in which a sum was added up.
    """
    bits_HF = features_HF.view(np.uint32) + np.uint32(1 << 5)
    return (bits_HF & ~np.uint32((1 << 6) - 1)).view(np.float32)


def _of_the_head(query: str, hits: Hits, head: QueryHead | None) -> Floats | float:
    """The head's logit of the query, (H,)."""
    line = head.line(query) if head is not None else None
    if line is None:
        return np.nan
    vector, slope, level = line
    return slope * hits.cosines(vector) + level


def _of_words(query: str, columns: SignalColumns, statistics: Statistics) -> Columns:
    in_order = words(query)
    sought, excluded = _sought(in_order)
    told_Q = word_hashes(sought)
    products, sections = columns.lengths_HS.shape
    cell_W = np.repeat(np.arange(products * sections), columns.lengths_HS.reshape(-1))  # product by product
    section_W, place_W = cell_W % sections, _places(told_Q, columns.words_W)
    place_W[section_W == _TRIGRAMS] = -1

    tf_HSQ = _counted(cell_W, place_W, (products, sections, len(told_Q)))
    held_HSQ = tf_HSQ > 0
    anywhere_HQ: NDArray[np.bool_] = np.asarray(held_HSQ.any(axis=1))
    idf_Q = statistics.words.get(told_Q.astype(np.uint64))[:, 0].astype(np.float64)
    idf_Q[np.isnan(idf_Q)] = statistics.rarest
    weight_Q = idf_Q / max(1e-9, idf_Q.sum())
    number_Q = with_digit(told_Q)
    of_title_W = section_W == _TITLE
    read_W = section_W != _TRIGRAMS
    product_w, words_w = cell_W[read_W] // sections, columns.words_W[read_W]
    otherwise_HQ, otherwise_w = _spelt_otherwise(in_order, sought, product_w, words_w, products)
    numbers_HQ = anywhere_HQ | otherwise_HQ
    named_W = of_title_W & with_digit(columns.words_W) & (place_W < 0)
    named_W[read_W] &= ~otherwise_w
    names_other_H = np.bincount(cell_W[named_W] // sections, minlength=products) > 0
    bm25_HS = _bm25(tf_HSQ[:, :_TRIGRAMS], columns.lengths_HS[:, :_TRIGRAMS], statistics.mean_words_S, idf_Q)
    pairs_H = _pairs(cell_W[of_title_W] // sections, place_W[of_title_W], _neighbours(in_order, sought), products)
    trigrams_W = section_W == _TRIGRAMS
    return {
        **{f"coverage_{name}": held_HSQ[:, at] @ weight_Q for at, name in enumerate(_READ)},
        "coverage": anywhere_HQ @ weight_Q,
        "coverage_all": anywhere_HQ.all(axis=1) if sought else 0.0,
        **{f"bm25_{name}": bm25_HS[:, at] for at, name in enumerate(_READ)},
        "bigrams_title": pairs_H / max(1, len(sought) - 1),
        "title_words": columns.lengths_HS[:, _TITLE],
        "title_unasked": columns.lengths_HS[:, _TITLE] - held_HSQ[:, _TITLE].sum(axis=1),
        "description_words": columns.lengths_HS[:, SECTIONS.index("description")],
        "trigram_similarity": _overlap(
            trigram_hashes(in_order), cell_W[trigrams_W] // sections, columns.words_W[trigrams_W], products
        ),
        "numbers_matched": numbers_HQ[:, number_Q].mean(axis=1) if number_Q.any() else np.nan,
        "numbers_contradicted": (number_Q & ~numbers_HQ).any(axis=1) & names_other_H,
        "negated_matched": _held_all_the_same(excluded, product_w, words_w, products),
        "query_words": len(in_order),
        "query_numbers": number_Q.sum(),
    }


def _sought(in_order: list[str]) -> tuple[list[str], list[str]]:
    """What a query asks for and what it excludes ("sofa without a stain"), each word once.

    A negation at the beginning ("Sin City"), at the end or before a number ("Chanel No 5") is a word like any other.
    """
    sought: list[str] = []
    excluded: list[str] = []
    at = 0
    while at < len(in_order):
        after = at + 1
        while after < len(in_order) and in_order[after] in PASSED_OVER:
            after += 1
        negates = in_order[at] in NEGATIONS and at > 0 and after < len(in_order)
        if negates and not any(char.isdigit() for char in in_order[after]):
            excluded.append(in_order[after])
            at = after
        else:
            sought.append(in_order[at])
        at += 1
    return [word for word in dict.fromkeys(sought) if word not in excluded], [*dict.fromkeys(excluded)]


def _held_all_the_same(
    excluded: list[str], product_w: NDArray[np.int64], words_w: NDArray[np.uint32], products: int
) -> NDArray[np.bool_]:
    """Which products hold an excluded word, but for those that exclude it too ("without stain", "no visible stain")."""
    found_H = np.zeros(products, bool)
    if excluded:
        negation_w = np.isin(words_w, word_hashes(sorted(NEGATIONS)))
        negated_w = _shifted(negation_w, product_w, 1) | _shifted(negation_w, product_w, 2)
        found_H[product_w[np.isin(words_w, word_hashes(excluded)) & ~negated_w]] = True
    return found_H


def _spelt_otherwise(
    in_order: list[str], sought: list[str], product_w: NDArray[np.int64], words_w: NDArray[np.uint32], products: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which products hold a sought number with its unit apart ("128 gb" for "128gb") or joined to it, (H, Q).

    And which words are such numbers, (w,).
    """
    found_HQ, numbers_w = np.zeros((products, len(sought)), bool), np.zeros(len(words_w), bool)
    after = {word: following for word, following in pairwise(in_order) if following.isalpha()}
    for place, word in enumerate(sought):
        if joined := _WITH_UNIT.fullmatch(word):
            number, unit = word_hashes(joined.groups())
            at_w = (words_w == unit) & _shifted(words_w == number, product_w, 1)
            numbers_w[:-1] |= at_w[1:]  # the number is the word before its unit
        elif word.isdecimal() and word in after:
            at_w = words_w == word_hashes([word + after[word]])[0]
            numbers_w |= at_w
        else:
            continue
        found_HQ[product_w[at_w], place] = True
    return found_HQ, numbers_w


def _shifted(said_w: NDArray[np.bool_], product_w: NDArray[np.int64], by: int) -> NDArray[np.bool_]:
    """Whether it was said of the word so many before, of the same product."""
    found_w = np.zeros_like(said_w)
    found_w[by:] = said_w[:-by] & (product_w[:-by] == product_w[by:])
    return found_w


def _places(told_Q: NDArray[np.uint32], words_W: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Where each word stands among the told ones, -1 where it does not: (W,)."""
    if not len(told_Q):
        return np.full(len(words_W), -1)
    order_Q = np.argsort(told_Q)
    place_W = np.searchsorted(told_Q[order_Q], words_W).clip(max=len(told_Q) - 1)
    return np.where(told_Q[order_Q[place_W]] == words_W, order_Q[place_W], -1)


def _counted(cell_W: NDArray[np.int64], place_W: NDArray[np.int64], shape: tuple[int, int, int]) -> Floats:
    """How often each section of each product holds each told word, (H, S, Q)."""
    known = place_W >= 0
    cells = cell_W[known] * shape[2] + place_W[known]
    tf_HSQ: Floats = np.bincount(cells, minlength=math.prod(shape)).reshape(shape).astype(np.float64)
    return tf_HSQ


def _bm25(tf_HSQ: Floats, lengths_HS: NDArray[np.int64], mean_S: NDArray[np.float32], idf_Q: Floats) -> Floats:
    """Each section's own BM25 score, as if it were the whole text (Robertson & Zaragoza, FnTIR 2009, §3.5): (H, S)."""
    saturation_HS = K1 * (1 - B + B * lengths_HS / mean_S)
    score_HS: Floats = (tf_HSQ * (K1 + 1) / (tf_HSQ + saturation_HS[:, :, None])) @ idf_Q
    return score_HS


def _neighbours(in_order: list[str], sought: list[str]) -> NDArray[np.bool_]:
    """Which sought word stands right before which other in the query, (Q, Q) of the sought ones."""
    place_of = {word: place for place, word in enumerate(sought)}
    before_QQ = np.zeros((len(sought), len(sought)), bool)
    for word, after in pairwise(in_order):
        if word in place_of and after in place_of:
            before_QQ[place_of[word], place_of[after]] = True
    return before_QQ


def _pairs(
    product_W: NDArray[np.int64], place_W: NDArray[np.int64], before_QQ: NDArray[np.bool_], products: int
) -> NDArray[np.int64]:
    """How many of the query's pairs of neighbouring words are neighbours in each product's words, (H,)."""
    wanted = len(before_QQ)
    sought_W = (place_W >= 0) & (place_W < wanted)
    first = np.flatnonzero(sought_W[:-1] & sought_W[1:] & (product_W[:-1] == product_W[1:]))
    first = first[before_QQ[place_W[first], place_W[first + 1]]]
    pairs = np.unique((product_W[first] * wanted + place_W[first]) * wanted + place_W[first + 1])
    return np.bincount(pairs // max(1, wanted * wanted), minlength=products)


def _overlap(
    asked: NDArray[np.uint32], product_W: NDArray[np.int64], trigrams_W: NDArray[np.uint32], products: int
) -> Floats:
    """The Jaccard similarity of the query's trigrams and each product's, which are each there once: (H,)."""
    both_H = np.bincount(product_W[_places(asked, trigrams_W) >= 0], minlength=products)
    either_H = len(asked) + np.bincount(product_W, minlength=products) - both_H
    similarity_H: Floats = both_H / np.maximum(1, either_H)
    return similarity_H


def _of_the_log(query: str, columns: SignalColumns, statistics: Statistics) -> Columns:
    key = np.array([query_key(query)], np.uint64)
    searches, entropy = statistics.queries.get(key)[0]
    asked = mixed(np.broadcast_to(key, len(columns.keys_HK)), columns.key("category"))
    rates = {
        "product": statistics.products.get(columns.key("product_id")),
        "seller": statistics.sellers.get(columns.key("seller_id")),
        "category": statistics.categories.get(columns.key("category")),
        "query_category": statistics.query_categories.get(asked),
        "condition": statistics.conditions.get(columns.key("condition")),
    }
    price = _log(columns.number("price"))
    currency = statistics.currencies(columns)
    return {
        **{f"{what}_{rate}": r[:, at] for what, r in rates.items() for at, rate in enumerate(RATES)},
        "query_category_share": rates["query_category"][:, 3],
        "query_searches": searches,
        "query_entropy": entropy,
        "price_of_market": price - _log(statistics.market_prices.get(currency)[:, 0]),
        "price_of_category": price
        - _log(statistics.category_prices.get(mixed(columns.key("category"), currency))[:, 0]),
        "price_of_department": price
        - _log(statistics.department_prices.get(mixed(columns.key("department"), currency))[:, 0]),
        "price_of_query": price - _log(statistics.query_prices.get(mixed(key, currency))[:, 0]),
    }


def _of_the_listing(asked: Asked, columns: SignalColumns) -> Columns:
    age_H = (asked.as_of.timestamp() - columns.number("created").astype(np.float64)) / DAY
    here = asked.latitude is not None and asked.longitude is not None
    return {
        "age_days": np.maximum(age_H, 0),
        "distance_km": _distance_km(asked, columns) if here else np.nan,
        **{name: columns.number(name) for name in ("seller_rating", "rating", "images", "missing")},
    }


def _distance_km(asked: Asked, columns: SignalColumns) -> Floats:
    """Great-circle distance (haversine), (H,)."""
    assert asked.latitude is not None and asked.longitude is not None
    phi_H, lambda_H = (np.radians(columns.number(name).astype(np.float64)) for name in ("latitude", "longitude"))
    phi, lam = np.radians(asked.latitude), np.radians(asked.longitude)
    half_H = np.sin((phi_H - phi) / 2) ** 2 + np.cos(phi) * np.cos(phi_H) * np.sin((lambda_H - lam) / 2) ** 2
    distance_H: Floats = 2 * 6371.0088 * np.arcsin(np.sqrt(half_H.clip(0, 1)))
    return distance_H


def _log(price: NDArray[np.float32] | float) -> NDArray[np.float64]:
    logarithm: NDArray[np.float64] = np.log(np.maximum(np.asarray(price, np.float64), 0.01))
    return logarithm
