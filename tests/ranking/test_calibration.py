"""Stage 2's chances held against displayed lists written by hand."""

from __future__ import annotations

import numpy as np
import pytest

from mercato.evaluation.dataset import DisplayedLists, LabelledPairs
from mercato.ranking.calibration import Held, calibrated

CHANCES = np.array(
    [[0.8, 0.4], [0.6, 0.3], [0.2, 0.1], [np.inf, np.inf]]
)  # of each product; nothing is known of the last


def lists(*rows: tuple[int, int, int, int]) -> DisplayedLists:
    """Of (list, position, product, depth)."""
    number_P, positions_P, products_P, depths_P = np.array(rows).T
    unknown = np.full(len(rows), np.nan)
    counted = {"impressions": unknown, "depth": unknown}
    return DisplayedLists(
        shown=LabelledPairs(
            queries=number_P, products=products_P, grades=depths_P.astype(float), split="future", unknown=0, **counted
        ),
        lists_P=number_P,
        positions_P=positions_P,
        propensities_P=np.ones(len(rows)),
        propensities_K=np.ones(1),
    )


def test_what_stood_first_tells_of_the_way_and_what_came_so_far_of_each_step():
    shown = lists((0, 1, 0, 2), (0, 2, 1, 1), (0, 3, 2, 0), (1, 1, 1, 0), (1, 2, 2, 2), (2, 1, 3, 1))
    asked = []

    def chances(_queries, products):
        asked.extend(products)
        return CHANCES[products]

    click, message = calibrated(shown, chances, ["click", "message"])
    assert asked == [0, 1, 1, 2, 3], "what neither stood first nor was clicked tells nothing"
    assert click.first == click.given and click.step == "click"
    assert (click.first.rows, click.first.told, click.first.found) == (2, pytest.approx(0.7), 0.5)
    assert (message.first.rows, message.first.told, message.first.found) == (2, pytest.approx(0.35), 0.5)
    assert (message.given.rows, message.given.told, message.given.found) == (
        3,
        pytest.approx(0.5),
        pytest.approx(2 / 3),
    )
    assert click.first.ece == pytest.approx((abs(0.8 - 1) + 0.6) / 2)


def test_of_no_rows_there_is_none():
    (click, message) = calibrated(lists((0, 2, 0, 0)), lambda _, products: CHANCES[products], ["click", "message"])
    assert click.first is click.given is message.first is message.given is None
    assert Held.against(np.array([0.25]), np.array([True])) == Held(1, 0.25, 1.0, 0.75)
