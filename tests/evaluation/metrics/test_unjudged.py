from __future__ import annotations

import numpy as np

from mercato.evaluation.metrics.metric import RankedCatalogue, ScoredPairs
from mercato.evaluation.metrics.unjudged import mean_unjudged, unjudged_at_k

TOP = np.array([[4, 2, 9, 0], [1, -1, -1, -1], [5, 6, 7, 8]])
GROUPS, PRODUCTS = np.array([0, 0, 1, 2]), np.array([4, 0, 1, 4])


def test_what_no_rater_saw_for_this_query_is_counted_among_the_first():
    assert unjudged_at_k(TOP, GROUPS, PRODUCTS, 10, 3).tolist() == [2, 0, 3]
    assert unjudged_at_k(TOP, GROUPS, PRODUCTS, 10, 4).tolist() == [2, 0, 4]


def test_its_mean_is_over_queries_and_undefined_where_only_judged_products_are_ranked():
    pairs = ScoredPairs(groups_P=GROUPS, grades_P=np.ones(4), labels_P=np.ones(4, bool), scores_P=np.ones(4))
    assert np.isnan(mean_unjudged(3)(pairs)(np.ones((1, 3)))).all()
    ranked = RankedCatalogue(top_QK=TOP, groups_P=GROUPS, products_P=PRODUCTS, catalogue=10)
    whole = ScoredPairs(**{**vars(pairs), "found": ranked})
    assert mean_unjudged(3)(whole)(np.ones((1, 3))) == 5 / 3
    assert mean_unjudged(3)(whole)(np.array([[0.0, 1.0, 0.0]])) == 0
