r"""BM25F, what a search engine has before it learns: weighted fields, stemmed words, forgiven spelling.

A word's occurrences in the fields of a product are weighed and normalised by the field's length, then saturated once
(Zaragoza et al., TREC 2004; Robertson & Zaragoza, FnTIR 2009, §3.6):

.. math:: x_{wd} = \sum_f \frac{v_f \, c_{wdf}}{1 - b_f + b_f \, l_{df} / \bar l_f} \qquad
          s(q, d) = \sum_{w \in q} \log\Big(1 + \frac{N - n_w + .5}{n_w + .5}\Big) \frac{x_{wd}}{k_1 + x_{wd}}

Shapes: N products, F fields, M products that have a word, P pairs.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from rapidfuzz.distance import OSA
from rapidfuzz.process import extract

from mercato.data.words import words
from mercato.evaluation.baselines.lexical import FIELDS, Lexical
from mercato.evaluation.dataset import LabelledPairs
from mercato.evaluation.metrics.arrays import FloatArray, IntArray
from mercato.evaluation.metrics.ndcg import ndcg
from mercato.evaluation.results import Tuning
from mercato.evaluation.stems import stem
from mercato.evaluation.texts import field_texts

K1 = 1.2  # weights scale it: it is not tuned beside them
WEIGHTS = {"title": 4.0, "description": 1.0, "brand": 2.0, "category": 2.0, "attributes": 2.0}
B = dict.fromkeys(FIELDS, 0.75)
TRIED_WEIGHTS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # not 0: who searches a field finds by it
TRIED_B = (0.0, 0.25, 0.5, 0.75, 1.0)
ROUNDS = 3  # over all weights and b at most
ONE_EDIT, TWO_EDITS = 4, 8  # letters of a word from which so many edits are forgiven, as engines do

Posting = tuple[IntArray, FloatArray]  # rows (M,), ascending; how often each field has the word (M, F)


class Words:
    """Which products have a word in which field, words being stems.

    A product's words are stemmed as its own language does (Snowball's; unstemmed where it has none for it). A query's
    language is unknown: in the products of each language its words are looked up under that language's stems, so that a
    product is met at most once. A word of a query that no product has, in no form, stands for those that are spelled
    most alike: one edit (insertion, deletion, substitution, swap of neighbours) from four letters on, two from eight,
    the first letter kept, none in what holds a digit.

    Args:
        products: rows with any of the columns of `FIELDS`, and `language`.
    """

    def __init__(self, products: pa.Table) -> None:
        self.fields = [field for field in FIELDS if field in products.column_names]
        languages = _languages(products)
        self.products, self._languages = products.num_rows, sorted(set(languages))
        lengths_NF = np.zeros((self.products, len(self.fields)))
        self._terms: dict[tuple[str, str], int] = {}  # (language, stem) → term
        spelled: dict[tuple[str, str], int] = {}  # (language, word) → term
        occurrences = array("q")
        for place, field in enumerate(self.fields):
            for row, text in enumerate(field_texts(products, field)):
                found, language = words(text), languages[row]
                lengths_NF[row, place] = len(found)
                for word in found:
                    term = spelled.get((language, word))
                    if term is None:
                        term = self._terms.setdefault((language, stem(language, word)), len(self._terms))
                        spelled[language, word] = term
                    occurrences.append((term * self.products + row) * len(self.fields) + place)
        mean_F = lengths_NF.sum(0) / np.maximum((lengths_NF > 0).sum(0), 1)  # over the products that fill a field in
        self.lengths_NF = lengths_NF / np.maximum(mean_F, 1)  # relative to it
        keys, self._counts = np.unique(np.frombuffer(occurrences, np.int64), return_counts=True)
        owners, self._fields = np.divmod(keys, max(len(self.fields), 1))
        terms, self._rows = np.divmod(owners, max(self.products, 1))
        self._starts = np.searchsorted(terms, np.arange(len(self._terms) + 1))
        self._spellings: dict[str, dict[str, list[int]]] = {}  # first letter → word → terms
        for (_, word), term in spelled.items():
            self._spellings.setdefault(word[0], {}).setdefault(word, []).append(term)

    def posting(self, word: str) -> Posting:
        """The products that have the word, or the words that it may be a slip of."""
        stems = ((language, stem(language, word)) for language in self._languages)
        terms = {self._terms[each] for each in stems if each in self._terms} or set(self._near(word))
        spans = [np.arange(self._starts[term], self._starts[term + 1]) for term in terms]
        found = np.concatenate([np.arange(0), *spans])
        rows_M, place = np.unique(self._rows[found], return_inverse=True)
        counts_MF = np.zeros((len(rows_M), len(self.fields)))
        np.add.at(counts_MF, (place, self._fields[found]), self._counts[found])
        return rows_M, counts_MF

    def _near(self, word: str) -> Iterator[int]:
        edits = (len(word) >= ONE_EDIT) + (len(word) >= TWO_EDITS)
        if not edits or any(map(str.isdigit, word)):
            return
        alike = self._spellings.get(word[0], {})
        found = extract(word, list(alike), scorer=OSA.distance, score_cutoff=edits, limit=None)
        for other, distance, _ in found:
            if distance == found[0][1]:
                yield from alike[other]


@dataclass(frozen=True, kw_only=True)
class FieldWeights:
    """What a field's words count, and how much its length takes off, by field."""

    weights: Mapping[str, float]
    b: Mapping[str, float]

    def sums(self, index: Words, rows_M: IntArray, counts_MF: FloatArray) -> FloatArray:
        """The weighted, normalised count x of a word in each product: (M,)."""
        weight_F, b_F = (np.array([each[field] for field in index.fields]) for each in (self.weights, self.b))
        scaled_MF = counts_MF / np.where(counts_MF > 0, 1 - b_F + b_F * index.lengths_NF[rows_M], 1)
        return np.asarray(scaled_MF @ weight_F)


DEFAULT = FieldWeights(weights=WEIGHTS, b=B)


class BM25F(Lexical):
    """BM25F over `FIELDS`, with the weights `DEFAULT` or those of `tuned`.

    Args:
        products: rows with `product_id` and any of the columns of `FIELDS`, and `language`.
    """

    def __init__(self, products: pa.Table, weights: FieldWeights = DEFAULT) -> None:
        super().__init__(products)
        self.index, self.weights = Words(products), weights
        self._scored: dict[str, tuple[IntArray, FloatArray]] = {}  # of the words that were asked for

    def all_scores(self, query: str) -> FloatArray:
        """Score every product, in the order of the table: float (N,), 0 where no word is shared."""
        scores_N = np.zeros(self.index.products)
        for word in words(query):
            if word not in self._scored:
                rows_M, counts_MF = self.index.posting(word)
                sums_M = self.weights.sums(self.index, rows_M, counts_MF)
                self._scored[word] = rows_M, _rarity(self.index, rows_M) * sums_M / (K1 + sums_M)
            rows_M, scored_M = self._scored[word]
            scores_N[rows_M] += scored_M
        return scores_N

    def tune(self, texts: Sequence[str], pairs: LabelledPairs) -> Tuning | None:
        """Take the weights and b of the best nDCG@10 on some pairs: field by field, as long as one gets better.

        Args:
            texts: the query of each row that the pairs name.
            pairs: judged or engaged, none of those that are to be measured.

        Returns:
            What was chosen, on what; None where the pairs have nothing to put first, or nothing to put after it, and
            nothing is changed.
        """
        order = np.lexsort([pairs.grades, pairs.groups])
        groups_P, grades_P = pairs.groups[order], pairs.grades[order]
        if not ((groups_P[1:] == groups_P[:-1]) & (grades_P[1:] > grades_P[:-1])).any():
            return None  # any order of a query's products is the best
        matches = _Matches.of(self.index, texts, pairs)
        best, value = self.weights, matches.ndcg(self.weights)
        if np.isnan(value):
            return None
        before = value
        for _ in range(ROUNDS):
            begun = value
            for kind, tried in (("weights", TRIED_WEIGHTS), ("b", TRIED_B)):
                for field in self.index.fields:
                    for number in tried:
                        given = {"weights": best.weights, "b": best.b}
                        other = FieldWeights(**given | {kind: {**given[kind], field: number}})
                        reached = matches.ndcg(other)
                        if reached > value + 1e-9:
                            best, value = other, reached
            if value == begun:
                break
        self.weights, self._scored = best, {}
        return Tuning(
            queries=len(pairs.query_rows),
            pairs=len(pairs.queries),
            split=pairs.split,
            untuned_ndcg=before,
            tuned_ndcg=value,
            weights={field: best.weights[field] for field in self.index.fields},
            b={field: best.b[field] for field in self.index.fields},
        )


@dataclass(frozen=True, kw_only=True)
class _Matches:
    """The words that pairs of a query and a product share: what scores with other weights need; T such words."""

    index: Words
    pairs: LabelledPairs
    pair_T: IntArray
    rarity_T: FloatArray
    counts_TF: FloatArray

    @classmethod
    def of(cls, index: Words, texts: Sequence[str], pairs: LabelledPairs) -> _Matches:
        found: list[tuple[IntArray, FloatArray, FloatArray]] = [
            (np.empty(0, np.int64), np.empty(0), np.empty((0, len(index.fields))))
        ]
        for query in pairs.query_rows:
            pairs_p = np.flatnonzero(pairs.queries == query)
            for word in words(texts[query]):
                rows_M, counts_MF = index.posting(word)
                place = np.searchsorted(rows_M, pairs.products[pairs_p])
                has = np.append(rows_M, -1)[place] == pairs.products[pairs_p]
                shared = place[has]
                found.append((pairs_p[has], np.full(len(shared), _rarity(index, rows_M)), counts_MF[shared]))
        pair_T, rarity_T, counts_TF = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return cls(index=index, pairs=pairs, pair_T=pair_T, rarity_T=rarity_T, counts_TF=counts_TF)

    def ndcg(self, weights: FieldWeights) -> float:
        """The mean nDCG@10 over queries; NaN where no query has anything to put first."""
        sums_T = weights.sums(self.index, self.pairs.products[self.pair_T], self.counts_TF)
        scores_P: FloatArray = np.bincount(
            self.pair_T, self.rarity_T * sums_T / (K1 + sums_T), len(self.pairs.queries)
        ).astype(np.float64)
        value_Q = ndcg(self.pairs.groups, self.pairs.grades, scores_P, 10)
        return float(np.nanmean(value_Q)) if not np.isnan(value_Q).all() else float("nan")


def _languages(products: pa.Table) -> list[str]:
    """Each product's language without its region; "" where it is unknown."""
    if "language" not in products.column_names:
        return [""] * products.num_rows
    return [(tag or "").lower().replace("_", "-").partition("-")[0] for tag in products["language"].to_pylist()]


def _rarity(index: Words, rows_M: IntArray) -> float:
    return float(np.log(1 + (index.products - len(rows_M) + 0.5) / (len(rows_M) + 0.5)))
