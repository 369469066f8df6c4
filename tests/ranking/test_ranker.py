"""The ranker as it serves, over models made by hand: who scores what, and what is done where one fails or is late."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mercato.config.ranking import DLRM, Ranking
from mercato.ranking.features import IDS, NAMES, Asked
from mercato.ranking.ranker import Ranker, buckets
from mercato.retrieval.expression import Expression
from mercato.retrieval.samples import QUERY
from tests.support.ranked_catalogue import NOW, counts_of, indexed

PRODUCTS = [{"product_id": f"p{n}", "title": "lamp", "price": 10.0 * 4**n, "seller_id": f"s{n}"} for n in range(6)]
PRICE = NAMES.index("price_of_market")


class Cheapest:
    """Trees that put the cheapest first."""

    def run(self, _, inputs):
        return (5 - inputs["features"][:, [PRICE]],)


class Dearest:
    """A network to which the dearest are the likeliest, and that remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def run(self, _, inputs):
        self.asked.append(inputs)
        first = 1 / (1 + np.exp(-inputs["features"][:, PRICE]))
        return (np.stack([first, first / 2], axis=1).astype(np.float32),)


class Nothing:
    def run(self, _, inputs):
        return (np.full((len(inputs["features"]), 2), np.nan, np.float32),)


class Clock:
    """Every look at it takes a while."""

    def __init__(self, milliseconds):
        self.now, self.step = 0.0, milliseconds / 1000

    def __call__(self):
        self.now += self.step
        return self.now


@pytest.fixture
def index():
    with indexed(PRODUCTS) as index:
        yield index


@pytest.fixture
def hits(index):
    return index.lookup(Expression(vector=QUERY, text="lamp"), [product["product_id"] for product in PRODUCTS])


@pytest.fixture
def ranker(index):
    """Of the four cheapest the network orders, the worth being 1 for the first step and 2 more for the second."""
    counted = counts_of(index)

    def made(trees, network, clock=lambda: 0.0):
        settings = Ranking(gains=(0, 1, 3), deadline_ms=100, dlrm=DLRM(best=4, buckets=64))
        return Ranker(counted, trees, network, np.diff(settings.gains), settings, clock=clock)

    return made


def order(hits, scores):
    return [hits.product_ids[place] for place in np.argsort(-scores, kind="stable")]


def test_the_network_orders_the_best_of_the_trees(ranker, hits):
    network = Dearest()
    ranked = ranker(Cheapest(), network).rank(Asked("lamp", NOW), hits).stages
    assert [*ranked] == ["trees", "dlrm"]
    assert order(hits, ranked["trees"]) == ["p0", "p1", "p2", "p3", "p4", "p5"]
    assert order(hits, ranked["dlrm"]) == ["p3", "p2", "p1", "p0", "p4", "p5"]
    (asked,) = network.asked
    assert asked["features"].shape == (4, len(NAMES) + 1) and asked["ids"].shape == (4, len(IDS))
    best = [hits.product_ids.index(f"p{n}") for n in range(4)]
    np.testing.assert_array_equal(asked["features"][:, -1], ranked["trees"][best])
    first = 1 / (1 + np.exp(-asked["features"][:, PRICE]))
    np.testing.assert_allclose(ranked["dlrm"][best], first + 2 * first / 2, rtol=1e-6)
    rest = [hits.product_ids.index(f"p{n}") for n in (4, 5)]
    assert ranked["dlrm"][rest[0]] == pytest.approx(ranked["dlrm"][best].min() - 1)
    assert ranked["dlrm"][rest[1]] < ranked["dlrm"][rest[0]]
    seller = buckets(hits.signals().key("seller_id"), 64)[best]
    np.testing.assert_array_equal(asked["ids"][:, IDS.index("seller_id")], seller)
    assert len({*asked["ids"][:, IDS.index("query")]}) == 1 and asked["ids"][0, IDS.index("category")] == 0


@pytest.mark.parametrize(
    ("milliseconds", "stages", "left_out"),
    [(10, ["trees", "dlrm"], None), (60, ["trees"], "late"), (120, [], "late")],
    ids=["in time", "late", "too late"],
)
def test_no_stage_begins_after_the_deadline(ranker, hits, milliseconds, stages, left_out):
    """The first look at the clock comes before the trees, the second before the network."""
    made = ranker(Cheapest(), Dearest(), Clock(milliseconds))
    scored = made.rank(Asked("lamp", NOW), hits, begun=0.0)
    assert [*scored.stages] == stages and scored.left_out == left_out
    assert [*made.rank(Asked("lamp", NOW), hits).stages] == ["trees", "dlrm"], "where there is none"


def test_a_stage_without_scores_is_left_out_with_what_follows(ranker, hits):
    asked = Asked("lamp", NOW)
    for first, network, stages in ((Cheapest(), Nothing(), ["trees"]), (Nothing(), Dearest(), [])):
        scored = ranker(first, network).rank(asked, hits)
        assert [*scored.stages] == stages and scored.left_out == "not finite"
    alone = ranker(Cheapest(), None).rank(asked, hits)
    assert [*alone.stages] == ["trees"] and alone.left_out is None


def test_both_stages_do_without_a_feature(ranker, hits):
    class Level:
        def run(self, _, inputs):
            self.asked = inputs["features"]
            return (np.zeros((len(self.asked), 1), np.float32),)

    level, network = Level(), Dearest()
    whole = ranker(level, network)
    without = replace(whole, settings=whole.settings.model_copy(update={"without": ("price_of_market",)}))
    for made, unknown in ((whole, False), (without, True)):
        made.rank(Asked("lamp", NOW), hits)
        for asked in (level.asked, network.asked[-1]["features"]):
            assert np.isnan(asked[:, PRICE]).all() == unknown
            assert not np.isnan(asked[:, NAMES.index("title_words")]).any()


def test_of_no_hits_there_are_no_scores(ranker, hits):
    ranked = ranker(Cheapest(), Dearest()).rank(Asked("lamp", NOW), hits.take(np.arange(0)))
    for scores in ranked.stages.values():
        assert scores.shape == (0,)
