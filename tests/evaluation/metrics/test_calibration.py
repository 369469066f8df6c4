"""The expected calibration error, by hand and where nothing is wrong."""

from __future__ import annotations

import numpy as np
import pytest

from mercato.evaluation.metrics.calibration import calibration_error


def test_it_is_what_the_bins_are_apart_by_weighed_by_their_rows() -> None:
    told = np.repeat([0.1, 0.8], [30, 10])
    happened = np.concatenate([np.arange(30) < 6, np.arange(10) < 5])
    assert calibration_error(told, happened) == pytest.approx(0.75 * (0.2 - 0.1) + 0.25 * (0.8 - 0.5))


def test_equal_chances_are_never_parted() -> None:
    """Whatever the order of their rows: half of what was told as a half came true."""
    happened = np.arange(1000) < 500
    assert calibration_error(np.full(1000, 0.5), happened) == 0


def test_true_chances_have_next_to_none_and_others_have_what_they_are_apart_by() -> None:
    random = np.random.default_rng(0)
    chances = random.beta(1, 9, 100_000)
    happened = random.random(100_000) < chances
    assert calibration_error(chances, happened) < 0.005
    assert calibration_error(chances + 0.1, happened) == pytest.approx(0.1, abs=0.005)
    assert np.isnan(calibration_error(chances[:0], happened[:0]))
