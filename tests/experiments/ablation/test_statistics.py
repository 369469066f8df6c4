"""Against values computed by hand and by SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from mercato.experiments.ablation.statistics import (
    Difference,
    Residual,
    difference,
    holm,
    seed_half_width,
    student,
    tail,
)


@pytest.mark.parametrize("degrees", [*range(1, 16), 29, 100])
def test_student_is_scipys(degrees: int) -> None:
    assert student(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), abs=1e-4)


def test_the_interval_of_a_mean_by_hand() -> None:
    # values .80 .82 .84: s = .02, t(2) = 4.30265, h = 4.30265 · .02 / √3
    assert seed_half_width(np.array([0.80, 0.82, 0.84])) == pytest.approx(0.0496827, abs=1e-6)
    assert seed_half_width(np.array([0.80])) is None


def test_a_difference_covers_seeds_and_queries() -> None:
    ours, theirs = np.array([0.80, 0.82, 0.84]), np.array([0.79, 0.80, 0.81])  # differences .01 .02 .03: s_d = .01
    rows = np.array([-0.02, 0.0, 0.02])  # the mean difference's replicates spread by .02
    ours_SR = ours[:, None] + rows[None, :]
    theirs_SR = np.repeat(theirs[:, None], 3, axis=1)
    found = difference(ours, theirs, ours_SR, theirs_SR)
    assert found.value == pytest.approx(0.02)
    assert found.seeds == pytest.approx(4.30265 * 0.01 / 3**0.5, abs=1e-6)
    assert found.queries == pytest.approx(1.959964 * 0.02, abs=1e-6)
    assert found.half_width == pytest.approx(np.hypot(0.0248414, 0.0391993), abs=1e-6)
    assert found.interval == pytest.approx((0.02 - found.half_width, 0.02 + found.half_width))


def test_what_both_rows_share_is_no_doubt() -> None:
    """A hard set of queries, or a lucky seed, moves both alike and leaves the difference sure."""
    generator = np.random.default_rng(0)
    seeds, queries = generator.normal(0, 0.1, 3), generator.normal(0, 0.1, 50)
    theirs = 0.5 + seeds
    found = difference(
        theirs + 0.01, theirs, (theirs + 0.01)[:, None] + queries[None, :], theirs[:, None] + queries[None, :]
    )
    assert found.value == pytest.approx(0.01)
    assert found.half_width == pytest.approx(0, abs=1e-9)


def test_one_seed_knows_of_queries_only() -> None:
    replicates = np.array([[0.1, 0.3, np.nan]])  # undefined in a resample: left out
    found = difference(np.array([0.6]), np.array([0.4]), replicates, np.zeros((1, 3)))
    assert found.seeds is None
    assert found.half_width == found.queries == pytest.approx(1.959964 * 0.2 / 2**0.5, abs=1e-6)


def test_a_step_that_is_nothing_is_seldom_found_to_be_something() -> None:
    """Coverage: where seeds and queries are both at random, the interval holds 0 about 95 times in a hundred."""
    generator, held = np.random.default_rng(1), 0
    for _ in range(300):
        per_query_SQ = generator.normal(0, 1, (2, 3, 60)) + generator.normal(0, 0.3, (2, 3, 1))
        weights_RQ = generator.multinomial(60, np.full(60, 1 / 60), 200) / 60
        ours, theirs = per_query_SQ
        low, high = difference(ours.mean(1), theirs.mean(1), ours @ weights_RQ.T, theirs @ weights_RQ.T).interval
        held += low <= 0 <= high
    assert 0.93 <= held / 300 <= 1


@pytest.mark.parametrize("degrees", [1, 2, 3, 16, 200])
@pytest.mark.parametrize("statistic", [0.0, 0.3, 2.0, 5.0, 30.0])
def test_tails_are_scipys(statistic: float, degrees: int) -> None:
    assert tail(statistic, degrees) == pytest.approx(2 * stats.t.sf(statistic, degrees), rel=1e-3)
    assert tail(statistic, None) == pytest.approx(2 * stats.norm.sf(statistic))


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.04, 0.001, 0.9, 0.0]) == pytest.approx([0.08, 0.003, 0.9, 0.0])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_residual_is_that_of_rows_and_seeds() -> None:
    rows, seeds = np.array([[0.1], [0.5], [0.3], [0.4]]), np.array([[0.0, 0.02, -0.01]])
    noise = np.random.default_rng(0).normal(0, 0.01, (4, 3))
    found = Residual.of(rows + seeds + noise)
    columns = [np.tile(np.eye(4)[row], (3, 1)) for row in range(4)]  # least squares on indicators of both
    design = np.hstack([np.vstack(columns), np.tile(np.eye(3), (4, 1))])
    squares = float(((noise.ravel() - design @ np.linalg.pinv(design) @ noise.ravel()) ** 2).sum())
    assert (found.degrees, found.seeds) == (6, 3)
    assert found.deviation == pytest.approx((squares / 6) ** 0.5)
    assert Residual.of(np.array([[0.1], [0.2]])) == Residual(0.0, 1, None)


def test_a_steps_p_is_of_seeds_and_queries() -> None:
    values_WZ = np.array([[0.80, 0.82, 0.84], [0.79, 0.80, 0.81]])
    residual = Residual.of(values_WZ)
    step = Difference(value=0.02, seeds=None, queries=0.0)
    assert step.p(residual) == pytest.approx(stats.ttest_rel(*values_WZ).pvalue, rel=1e-3)  # two rows: the paired test
    assert Difference(0.02, None, 1.959964 * 0.01).p(Residual(0.0, 1, None)) == pytest.approx(2 * stats.norm.sf(2.0))
    assert Difference(0.02, None, 1.959964 * 0.01).p(residual) > step.p(residual)
    assert Difference(0.0, None, 0.0).p(Residual(0.0, 1, None)) == 1
    assert Difference(0.1, None, 0.0).p(Residual(0.0, 1, None)) == 0
