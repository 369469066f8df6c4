"""The window in a ranker's order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mercato.ranking.ranker import Scored
from mercato.retrieval.protocol import Hits
from mercato.search.placing import Placing
from mercato.search.policy import Effort
from mercato.search.window import Window


class Named:
    def product_ids(self, rows):
        return [f"p{row}" for row in rows]


def window(*exact):
    none = np.zeros(len(exact))
    columns = {"cosine_H": none, "bm25_H": none, "by_ann_H": none > 0, "by_text_H": none > 0}
    hits = Hits(Named(), np.arange(len(exact)), **columns, exact_H=np.array(exact, bool))
    return Window(hits, Effort(ef_search=1, candidates=len(exact)), whole=True)


def test_exact_hits_are_first_whatever_their_score():
    ordered = window(0, 1, 0, 1).ordered(Scored({"trees": np.array([4, 2, 3, 1], np.float32)}))
    assert ordered.hits.product_ids == ["p1", "p3", "p0", "p2"]
    assert ordered.scores_H.tolist() == [2, 1, 4, 3]


def test_each_stage_says_where_it_put_a_hit():
    """Among the candidates, from 1, and it stands where the last one put it; equal scores keep the order before."""
    ordered = window(0, 0, 0).ordered(
        Scored({"trees": np.array([1, 1, 2], np.float32), "dlrm": np.array([5, 9, 7], np.float32)})
    )
    assert ordered.hits.product_ids == ["p1", "p2", "p0"] and ordered.ranked_by == "dlrm"
    assert [ordered.ranking(place) for place in range(3)] == [
        (9, {"retrieval": 2, "trees": 3, "dlrm": 1}),
        (7, {"retrieval": 3, "trees": 1, "dlrm": 2}),
        (5, {"retrieval": 1, "trees": 2, "dlrm": 3}),
    ]


def test_what_nothing_ranked_is_in_retrieval_s_order():
    plain = window(0, 0)
    assert plain.ranked_by is None and plain.ranking(0) == (None, None)


def test_an_exact_hit_is_drawn_for_no_place():
    """It stands first as it is, counts once for its seller, and the places that are given go to others."""
    placing = Placing(np.array([7, 7, 8, 9], np.uint64), 2, np.array([0, 3]), np.array([0, 0, 1, 0, 0, 0], bool))
    placed = replace(window(1, 0, 0, 0), placing=placing).placed(frozenset(), 1)
    assert [*placed] == [(0, None), (3, "exploration"), (1, None), (2, None)]
