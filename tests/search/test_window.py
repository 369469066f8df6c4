"""The window in a ranker's order, and what a stored product is held against."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from mercato.ranking.ranker import Scored
from mercato.retrieval import samples
from mercato.retrieval.expression import Filters, GeoRadius
from mercato.retrieval.protocol import Hits
from mercato.search.placing import Placing
from mercato.search.policy import Effort
from mercato.search.request import Location
from mercato.search.window import Window, distance_km, satisfies
from tests.support.stored import EMPTY


class Named:
    def product_ids(self, rows):
        return [f"p{row}" for row in rows]


def window(*exact):
    none = np.zeros(len(exact))
    columns = {"cosine_H": none, "bm25_H": none, "by_ann_H": none > 0, "by_text_H": none > 0}
    hits = Hits(Named(), np.arange(len(exact)), **columns, exact_H=np.array(exact, bool))
    return Window(hits, Effort(ef_search=1, candidates=len(exact)), whole=True)


def test_exact_hits_are_first_whatever_their_score():
    ordered = window(0, 1, 0, 1).ordered(Scored({"trees": np.array([4, 2, 3, 1], np.float32)}), logged=False)
    assert ordered.hits.product_ids == ["p1", "p3", "p0", "p2"]
    assert ordered.scores_H.tolist() == [2, 1, 4, 3]


def test_a_window_takes_memory_for_itself_its_hits_and_their_features():
    few, many = window(0), window(*[0] * 500)
    features_HF = np.zeros((500, 40), np.float32)
    assert few.memory > 3000 and many.memory - few.memory > 499 * 80
    assert replace(many, features_HF=features_HF).memory == many.memory + features_HF.nbytes


def test_each_stage_says_where_it_put_a_hit():
    """Among the candidates, from 1, and it stands where the last one put it; equal scores keep the order before."""
    scores = {"trees": np.array([1, 1, 2], np.float32), "dlrm": np.array([5, 9, 7], np.float32)}
    ordered = window(0, 0, 0).ordered(Scored(scores), logged=False)
    assert ordered.hits.product_ids == ["p1", "p2", "p0"] and ordered.ranked_by == "dlrm"
    assert [ordered.ranking(place) for place in range(3)] == [
        (9, {"retrieval": 2, "trees": 3, "dlrm": 1}),
        (7, {"retrieval": 3, "trees": 1, "dlrm": 2}),
        (5, {"retrieval": 1, "trees": 2, "dlrm": 3}),
    ]


def test_what_hits_were_ordered_by_goes_with_them_where_that_is_logged():
    ranked = Scored({"trees": np.array([1, 2], np.float32)}, np.array([[10], [20]], np.float32))
    ordered = window(0, 0).ordered(ranked, logged=True)
    assert [ordered.features(place).tolist() for place in range(2)] == [[20], [10]]
    assert window(0, 0).ordered(ranked, logged=False).features(0) is None


def test_what_nothing_ranked_is_in_retrieval_s_order():
    plain = window(0, 0)
    assert plain.ranked_by is None and plain.ranking(0) == (None, None)


def test_an_exact_hit_is_drawn_for_no_place():
    """It stands first as it is, counts once for its seller, and the places that are given go to others."""
    placing = Placing(np.array([7, 7, 8, 9], np.uint64), 2, np.array([0, 3]), np.array([0, 0, 1, 0, 0, 0], bool))
    placed = replace(window(1, 0, 0, 0), placing=placing).placed(frozenset(), 1, iter)
    assert [*placed] == [(0, None), (3, "exploration"), (1, None), (2, None)]


ASKED = ("category", "price", "condition", "country", "seller_id", "attributes", "latitude", "longitude")


def test_a_stored_product_meets_the_filters_that_its_record_in_the_index_meets():
    random, met = np.random.default_rng(0), Counter()
    records = [samples.drawn_record(random, number) for number in range(60)]
    for _ in range(150):
        filters = samples.drawn_filters(random)
        for record in records:
            stored = EMPTY | {name: getattr(record, name) for name in ASKED}
            assert satisfies(stored, filters) == samples.satisfies(record, filters), (record, filters)
            met[satisfies(stored, filters)] += 1
    assert min(met[True], met[False]) > 1000


@pytest.mark.parametrize(
    ("stored", "asked"),
    [
        ({"category": "Home>Lamps "}, {"category": "Home > Lamps"}),
        ({"country": " GB "}, {"country": "gb"}),
        ({"attributes": {"Colour": "RED", "size": None}}, {"attributes": {"coloUR": "red"}}),
        ({"price": 10.0}, {"price_min": 10.0, "price_max": 10.0}),
    ],
)
def test_it_is_read_as_the_index_reads_it(stored, asked):
    assert satisfies(EMPTY | stored, Filters(**asked))
    assert not satisfies(EMPTY, Filters(**asked))


def test_what_the_index_lets_through_at_the_edge_of_a_circle_is_not_lost_by_rounding():
    london = {"latitude": 51.5, "longitude": -0.1}
    away = distance_km(Location(**london), EMPTY | {"latitude": 48.9, "longitude": 2.4})
    assert away == 339.433  # of 339.43287
    for radius_km, near in ((away - 0.0005, True), (away - 0.002, False)):
        filters = Filters(near=GeoRadius(**london, radius_km=radius_km))
        assert satisfies(EMPTY | {"latitude": 48.9, "longitude": 2.4}, filters) == near


def test_the_other_end_of_the_earth_is_half_way_round():
    for latitude in range(-90, 91):
        stored = EMPTY | {"latitude": -latitude, "longitude": 20}
        assert distance_km(Location(latitude, -160), stored) == 20015.114
    assert distance_km(None, EMPTY | {"latitude": 1, "longitude": 2}) is None
    for half in ({"latitude": 1}, {"longitude": 1}):
        assert distance_km(Location(1, 2), EMPTY | half) is None
