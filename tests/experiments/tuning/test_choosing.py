"""What is chosen: the frontier, the constraints, the cheapest that is as good as any, the page policy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mercato.evaluation.metrics.bootstrap import resample
from mercato.experiments.tuning.choosing import (
    Constraints,
    cheapest_as_good,
    choose_first,
    choose_later,
    frontier,
    page_policy,
)
from mercato.experiments.tuning.measuring import Measured
from mercato.experiments.tuning.settings import Setting
from mercato.search.policy import Effort

WEIGHTS = resample(20, 0, 200)
AXES = ("cpu_ms", "precision", "recall")


def measured(candidates=100, **figures):
    """A setting with figures by query, or one for all queries."""
    values = {name: np.broadcast_to(np.asarray(value, float), 20) for name, value in figures.items()}
    return Measured(Setting(Effort(ef_search=64, candidates=candidates), "both"), values, WEIGHTS)


points = st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=12)


@given(points)
def test_on_the_frontier_is_what_nothing_beats_and_everything_else_is_beaten_by_it(rows):
    settings = [measured(n + 1, cpu_ms=c, precision=p / 4, recall=r / 4) for n, (c, p, r) in enumerate(rows)]
    best = frontier(settings)

    def beats(one, other):
        (c, p, r), (d, q, s) = ([each.value(name) for name in AXES] for each in (one, other))
        return c <= d and p >= q and r >= s and (c, p, r) != (d, q, s)

    assert best
    for each in settings:
        assert (each in best) == (not any(beats(other, each) for other in settings))
        assert each in best or any(beats(other, each) for other in best)


def test_the_cheapest_of_those_that_surely_lose_no_more_than_the_bound():
    noise = np.random.default_rng(0).normal(0, 0.2, 20)
    base = 0.8 + noise / 10
    best = measured(4, cpu_ms=9, **{"ndcg@10": base})
    as_good = measured(3, cpu_ms=5, **{"ndcg@10": base - 0.005})
    unsure = measured(2, cpu_ms=2, **{"ndcg@10": base - 0.005 + noise})
    worse = measured(1, cpu_ms=1, **{"ndcg@10": base - 0.02})
    assert cheapest_as_good([best, as_good, unsure, worse], ["ndcg@10"]) is as_good
    assert cheapest_as_good([best, worse], ["ndcg@10"]) is best


def test_what_stands_stays_unless_another_is_surely_cheaper():
    noise = np.random.default_rng(1).normal(0, 1, 20)
    standing = measured(1, cpu_ms=5 + noise, **{"ndcg@10": 0.8})
    hardly = measured(2, cpu_ms=4.9 - noise, **{"ndcg@10": 0.8})
    surely = measured(3, cpu_ms=4.9 + noise, **{"ndcg@10": 0.8})
    worse = measured(4, cpu_ms=4.8 + noise, **{"ndcg@10": 0.7})
    better = measured(5, cpu_ms=9, **{"ndcg@10": 0.9})
    assert cheapest_as_good([standing, hardly, worse], ["ndcg@10"], standing) is standing
    assert cheapest_as_good([standing, hardly, worse], ["ndcg@10"]) is hardly
    assert cheapest_as_good([standing, surely], ["ndcg@10"], standing) is surely
    assert cheapest_as_good([standing, better], ["ndcg@10"], standing) is better


def test_every_quality_counts_and_one_that_is_not_known_does_not():
    both = measured(2, cpu_ms=5, **{"ndcg@10": 0.8, "engaged_shown": 0.8})
    one = measured(1, cpu_ms=1, **{"ndcg@10": 0.8, "engaged_shown": 0.5})
    assert cheapest_as_good([both, one], ["ndcg@10", "engaged_shown"]) is both
    assert cheapest_as_good([both, one], ["ndcg@10"]) is one
    unknown = [measured(n, cpu_ms=n, **{"ndcg@10": 0.8, "engaged_shown": np.nan}) for n in (1, 2)]
    assert cheapest_as_good(unknown, ["ndcg@10", "engaged_shown"]) is unknown[0]
    assert cheapest_as_good(unknown, ["engaged_shown"]) is unknown[0]


def setting(candidates, p99, precision, quality, recall, cpu):
    return measured(
        candidates, wall_ms=p99, cpu_ms=cpu, precision=precision, recall=recall, **{"ndcg@10": quality}
    )  # fmt: skip


SETTINGS = [
    setting(50, p99=4, precision=0.6, quality=0.70, recall=0.5, cpu=2),
    setting(100, p99=6, precision=0.5, quality=0.80, recall=0.7, cpu=3),
    setting(300, p99=9, precision=0.4, quality=0.85, recall=0.9, cpu=5),
    setting(1000, p99=20, precision=0.2, quality=0.90, recall=1.0, cpu=9),
]


@pytest.mark.parametrize(
    ("constraints", "first", "later"),
    [
        (Constraints(), 1000, 1000),
        (Constraints(p99_ms=10), 300, 1000),
        (Constraints(p99_ms=7), 100, 1000),
        (Constraints(precision=0.4), 300, 300),
        (Constraints(p99_ms=7, precision=0.3), 100, 300),
    ],
)
def test_the_first_page_meets_the_constraints_and_later_ones_are_as_precise(constraints, first, later):
    """Later pages may take their time."""
    one = choose_first(SETTINGS, constraints, SETTINGS[0])
    other = choose_later(SETTINGS, constraints, one)
    assert [each.setting.effort.candidates for each in (one, other)] == [first, later]
    assert not constraints.broken(one) and not constraints.without_times.broken(other)


def test_constraints_that_no_setting_meets_are_named_with_the_nearest():
    impossible = Constraints(p99_ms=5, precision=0.65)
    nearest = choose_first(SETTINGS, impossible, SETTINGS[2])
    assert nearest is SETTINGS[0] and impossible.broken(nearest) == ["precision 0.600 < 0.65"]
    assert impossible.broken(SETTINGS[1]) == ["p99 6.0 ms > 5 ms", "precision 0.500 < 0.65"]


def test_where_nothing_judged_is_retrieved_no_precision_is_kept():
    nothing = setting(1, p99=1, precision=np.nan, quality=0, recall=0, cpu=1)
    assert Constraints(precision=0.1).broken(nothing) == ["nothing judged was retrieved < 0.1"]
    assert not Constraints(p99_ms=2).broken(nothing)


def test_later_pages_are_never_shallower_than_the_first():
    first = Effort(ef_search=256, candidates=200, text_candidates=300, min_cosine=0.2)
    later = Effort(ef_search=64, candidates=100, text_candidates=50, min_cosine=0.4)
    one, second, rest = page_policy(first, later)
    assert one == first
    assert second == Effort(ef_search=256, candidates=200, text_candidates=300, min_cosine=0.2)
    assert rest == Effort(ef_search=256, candidates=1000, text_candidates=None, min_cosine=0.2)
    few = Effort(ef_search=64, candidates=200)  # of the words as many
    wordy = page_policy(Effort(ef_search=64, candidates=100, text_candidates=300), few)
    assert [each.of_words for each in wordy] == [300, 300, 1000] and wordy[1].candidates == 200
    assert page_policy(few, replace(few, text_candidates=3000))[2].of_words == 3000
    loose = Effort(ef_search=300, candidates=2000)
    assert page_policy(first, loose)[1:] == (loose, loose)


@pytest.mark.parametrize(
    ("precision", "kept"),
    [(0.5, True), (0.49, False), (None, False)],
    ids=["kept", "broken", "nothing judged is shown"],
)
def test_a_first_page_is_held_to_the_precision_of_what_it_shows(precision, kept):
    assert Constraints(precision=0.5).kept_by(1.0, precision) is kept
    assert Constraints(precision=0.5, p99_ms=2.0).kept_by(3.0, precision) is False
    assert Constraints().kept_by(3.0, precision)


def test_where_no_quality_is_known_what_stands_stays():
    usual, cheap = measured(100, cpu_ms=3.0), measured(50, cpu_ms=1.0)
    assert cheapest_as_good([cheap, usual], ["ndcg@10"], usual) is usual


def test_a_precision_of_0_is_kept_by_all():
    assert Constraints(precision=0).broken(measured(cpu_ms=1.0, wall_ms=1.0, precision=0.0)) == []
