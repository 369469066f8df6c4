"""The choice: constraints, the frontier, and the cheapest option that is as good as any."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import numpy as np

from mercato.evaluation.metrics.arrays import FloatArray
from mercato.evaluation.metrics.bootstrap import Estimate
from mercato.evaluation.metrics.simultaneous import simultaneous_intervals
from mercato.experiments.tuning.measuring import Measured
from mercato.search.policy import Effort, RetrievalPolicy

LOSS = 0.01  # of a quality, that a cheaper setting may surely not exceed
COST = "cpu_ms"
SHOWN = ("ndcg@10", "engaged_shown")  # what a first page is for
FOUND = ("recall", "engaged")  # what later pages are for
GOOD = ("precision", "recall")  # beside the cost, the axes of the frontier


class Estimated(Protocol):
    """What is chosen from: something with figures, each with its bootstrap replicates."""

    @property
    def estimates(self) -> Mapping[str, Estimate]:
        """By name, among them `COST`."""
        ...


Option = TypeVar("Option", bound=Estimated)


@dataclass(frozen=True)
class Constraints:
    """What a first page must keep to; None: anything will do."""

    p99_ms: float | None = None
    precision: float | None = None

    def broken(self, measured: Measured) -> list[str]:
        """Which of them a setting breaks, as sentences."""
        return [text for text, excess in self._checked(measured) if excess > 0]

    @property
    def without_times(self) -> Constraints:
        """What later pages must keep to."""
        return replace(self, p99_ms=None)

    def kept_by(self, p99_ms: float, precision: float | None) -> bool:
        """Whether a first page as it is served keeps to them: how long it takes, how precise what it shows is."""
        precise = self.precision is None or (precision is not None and precision >= self.precision)
        return precise and (self.p99_ms is None or p99_ms <= self.p99_ms)

    def distance(self, measured: Measured) -> float:
        """By how much a setting breaks them, each as a share of its bound."""
        return sum(max(0.0, excess) for _, excess in self._checked(measured))

    def _checked(self, measured: Measured) -> Iterator[tuple[str, float]]:
        if self.p99_ms is not None:
            p99 = measured.quantile_ms(0.99)
            yield f"p99 {p99:.1f} ms > {self.p99_ms:g} ms", p99 / self.p99_ms - 1
        if self.precision is not None:
            precision = measured.value("precision")
            told = "nothing judged was retrieved" if precision is None else f"precision {precision:.3f}"
            yield f"{told} < {self.precision:g}", self.precision - (precision or 0.0)


def nearest_to(constraints: Constraints, measured: Sequence[Measured]) -> Measured:
    """The setting that breaks the constraints least."""
    return min(measured, key=constraints.distance)


def cheapest_as_good(options: Sequence[Option], qualities: Sequence[str], standing: Option | None = None) -> Option:
    """The option of the least processor time that surely loses at most `LOSS` of each quality to the best of them.

    The best has the highest mean of those qualities that are defined; where none is, nothing tells and the standing
    one, or the first, stays. So it does unless another is surely cheaper. "Surely" is by 95 % intervals of paired
    differences, over other golden queries, that hold for all options together.
    """
    defined = [name for name in qualities if all(name in each.estimates for each in options)]
    if not defined:
        return standing or options[0]
    best = max(options, key=lambda each: sum(each.estimates[name].value for name in defined))
    lost = {
        (place, name): best.estimates[name] - each.estimates[name]
        for place, each in enumerate(options)
        for name in defined
    }
    most = simultaneous_intervals([lost])
    as_good = [
        each
        for place, each in enumerate(options)
        if each is best or all((interval := most[place, name]) and interval[1] <= LOSS for name in defined)
    ]
    if standing is not None and any(each is standing for each in as_good):
        saved = {place: standing.estimates[COST] - each.estimates[COST] for place, each in enumerate(as_good)}
        if not any(interval and interval[0] > 0 for interval in simultaneous_intervals([saved]).values()):
            return standing
    return min(as_good, key=_cost)


def choose_first(options: Sequence[Measured], constraints: Constraints, standing: Measured) -> Measured:
    """What a first page is to be searched with: as good as any that meets the constraints; where none does, the
    nearest.
    """
    allowed = [each for each in options if not constraints.broken(each)]
    return cheapest_as_good(allowed, SHOWN, standing) if allowed else nearest_to(constraints, options)


def choose_later(options: Sequence[Measured], constraints: Constraints, first: Measured) -> Measured:
    """What later pages are to be searched with, which few ask for: they need not be as quick, but as precise."""
    precise = [each for each in options if not constraints.without_times.broken(each)]
    return cheapest_as_good(precise, FOUND, first)


def page_policy(first: Effort, later: Effort) -> tuple[Effort, ...]:
    """A page policy: the first page, the second, and all after it, which go as deep as a search goes at all."""
    both = (first, later)
    deeper = _bringing(
        replace(
            later,
            ef_search=max(each.ef_search for each in both),
            min_cosine=_looser(first.min_cosine, later.min_cosine),
        ),
        max(each.candidates for each in both),
        max(each.of_words for each in both),
    )
    deepest = max(RetrievalPolicy().pages[-1].candidates, deeper.candidates, deeper.of_words)
    return first, deeper, _bringing(deeper, deepest, deepest)


def frontier(measured: Sequence[Measured]) -> list[Measured]:
    """The settings that no other one beats: as cheap, as precise and of as much recall, and better in one of these.

    Where a quality is undefined it counts as none. Shapes: S settings, G axes, more being better.
    """
    points_SG = np.array([[-_cost(each), *(each.value(name) or 0.0 for name in GOOD)] for each in measured])
    return [each for each, point_G in zip(measured, points_SG, strict=True) if not _is_beaten(point_G, points_SG)]


def _is_beaten(point_G: FloatArray, points_SG: FloatArray) -> bool:
    return bool(((points_SG >= point_G).all(axis=1) & (points_SG > point_G).any(axis=1)).any())


def _cost(option: Estimated) -> float:
    return option.estimates[COST].value


def _bringing(effort: Effort, candidates: int, of_words: int) -> Effort:
    """The effort with so many candidates, of which the words bring so many."""
    return replace(effort, candidates=candidates, text_candidates=None if of_words == candidates else of_words)


def _looser(first: float | None, later: float | None) -> float | None:
    return None if first is None or later is None else min(first, later)
