"""First pages of a run on the tiny market, searched as a server searches, and what they are worth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from mercato.catalogue.indexing import index_market
from mercato.data.mining import SPLITS
from mercato.data.pairs import split_cutoff
from mercato.errors import MercatoError
from mercato.evaluation.dataset import EARLIER
from mercato.experiments.page_figures import COUNTS, MEASURES, HeldOut
from mercato.experiments.pages import FirstPages, first_pages
from mercato.experiments.replay import Replay
from mercato.retrieval.open import build_index
from mercato.search.policy import Effort, RetrievalPolicy
from tests.support.toys import make_market

SIZE = 5  # no country of the tiny market has fewer products


@pytest.fixture(scope="module")
def index(tiny_run, tiny_market, tmp_path_factory):
    url = str(tmp_path_factory.mktemp("replayed") / "index")
    index_market(tiny_run, tiny_market, url, as_of=split_cutoff(tiny_market, EARLIER["test"]))
    return url


@pytest.fixture(scope="module")
def replay(tiny_run, tiny_market, index):
    with Replay.of_run(tiny_run, tiny_market, index, split_cutoff(tiny_market, SPLITS)) as replay:
        yield replay


@pytest.fixture(scope="module")
def held(tiny_market):
    return HeldOut.of(tiny_market)


@pytest.fixture(scope="module")
def searched(replay, held):
    """The pages under a least cosine, beside the words."""

    def of(min_cosine, mode="hybrid"):
        policy = RetrievalPolicy(pages=(Effort(ef_search=64, candidates=40, min_cosine=min_cosine),))
        return first_pages(replay.searcher(policy), held.dataset, held.queries_Q, SIZE, mode)

    return of


def test_a_least_cosine_of_one_leaves_what_the_words_find(searched, held, tiny_market):
    """And it is all that they find: the same products as a search by words alone, in the order of the cosine."""
    words, both = searched(1.0), searched(-1.0)
    assert not words.by_vector_QK.any() and both.by_vector_QK.any()
    assert (words.products_QK < 0).any() and (both.products_QK >= 0).all()
    by_words = searched(None, "text")
    few_Q = (by_words.products_QK < 0).any(axis=1)
    assert few_Q.any()
    for words_K, text_K in zip(words.products_QK[few_Q], by_words.products_QK[few_Q], strict=True):
        assert sorted(words_K) == sorted(text_K)


def test_pages_hold_what_the_search_shows_within_the_country(searched, held, replay, tiny_market):
    pages = searched(-1.0)
    countries = tiny_market.frame("products", ["country"])["country"].to_list()
    asked = held.dataset.queries[held.queries_Q.tolist()]["country"].to_list()
    assert held.dataset.countries is not None and len({*countries}) > 1
    for country, products_K in zip(asked, pages.products_QK, strict=True):
        assert {countries[product] for product in products_K} == {country}
    assert {*pages.ranked_by_Q.tolist()} == {""}, "nothing ranked"


def pages_of(held, shown):
    """Pages of these products by query, as rows of the evaluation's tables."""
    products_QK = np.full((len(held.queries_Q), SIZE), -1)
    for query, products in shown.items():
        own = products[:SIZE]
        products_QK[np.searchsorted(held.queries_Q, query), : len(own)] = own
    return FirstPages(products_QK, np.zeros_like(products_QK, bool), np.full(len(products_QK), ""))


def by_query(pairs, key=lambda place: 0):
    shown: dict[int, list[int]] = {}
    for place in sorted(range(len(pairs.queries)), key=key):
        shown.setdefault(int(pairs.queries[place]), []).append(int(pairs.products[place]))
    return shown


def test_pages_of_what_was_engaged_with_have_all_of_it(held):
    whole = held.estimates(pages_of(held, by_query(held.engaged)))
    assert [*whole] == [*MEASURES]
    full = max(len(own) for own in by_query(held.engaged).values()) <= SIZE
    assert full and {whole[name].value for name in ("engaged", "engagements", "new pairs")} == {1}
    nothing = pages_of(held, {})
    assert {held.estimates(nothing)[name].value for name in MEASURES if name != "grade"} == {0}
    assert "grade" not in held.estimates(nothing)


def test_pages_in_the_order_of_depth_have_the_best_there_is(held):
    shown, depth_P = held.displayed, held.displayed.depth
    best = held.estimates(pages_of(held, by_query(shown, key=lambda place: -depth_P[place])))["depth nDCG"].value
    worst = held.estimates(pages_of(held, by_query(shown, key=lambda place: depth_P[place])))["depth nDCG"].value
    assert best == pytest.approx(1) and worst < 0.8


def test_an_engagement_counts_as_often_as_it_came_about(held, tiny_market):
    """The share of all of them; which of a query's is shown decides, and no other query's weight."""
    weights = tiny_market.frame("pairs").filter((pl.col("split") == "future") & (pl.col("label") == 1))["weight"]
    assert held.engagements_P.sum() == weights.sum() > len(weights)
    often = int(held.engagements_P.argmax())
    query, product = int(held.engaged.queries[often]), int(held.engaged.products[often])
    found = held.estimates(pages_of(held, {query: [product]}))
    assert found["engagements"].value == pytest.approx(held.engagements_P.max() / weights.sum())
    own = (held.engaged.queries == query).sum()
    assert found["engaged"].value == pytest.approx(1 / own / len(held.engaged.query_rows))


def test_the_unjudged_are_counted_and_passed_over(held):
    judged = held.dataset.relevance
    best = by_query(judged, key=lambda place: -judged.grades[place])
    strangers = {
        query: [product for product in range(len(held.dataset.product_ids)) if product not in own][:3] + own[:2]
        for query, own in best.items()
    }
    beside, alone = pages_of(held, strangers), pages_of(held, {query: own[:2] for query, own in best.items()})
    assert held.counts(alone)["unjudged"] == 0 and held.counts(beside)["unjudged"] == 3
    for measure in ("nDCG@10", "grade"):
        assert held.estimates(beside)[measure].value == held.estimates(alone)[measure].value > 0
    assert held.estimates(pages_of(held, best))["nDCG@10"].value > held.estimates(alone)["nDCG@10"].value, "a page ends"
    assert [*held.counts(alone)] == [*COUNTS]


def test_resamples_are_the_same_for_all_pages(held, searched):
    """So that two systems are compared in pairs."""
    pages = searched(-1.0)
    again = replace(pages, products_QK=pages.products_QK.copy())
    for ours, theirs in zip(held.estimates(pages).values(), held.estimates(again).values(), strict=True):
        assert (ours - theirs).interval == (0, 0)


def test_what_cannot_be_replayed_is_refused(tiny_run, tiny_market, tmp_path):
    build_index(tmp_path / "other", [], 16, "of another run")
    with (
        pytest.raises(MercatoError, match="was not made by"),
        Replay.of_run(tiny_run, tiny_market, str(tmp_path / "other"), split_cutoff(tiny_market, SPLITS)),
    ):
        pass
    with pytest.raises(MercatoError, match="no engaged pairs of future days"):
        HeldOut.of(make_market(tmp_path / "toy"))
