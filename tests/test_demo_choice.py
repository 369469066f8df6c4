"""Which of the demo's two models is served."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from mercato.demo import choose, serving_command
from mercato.evaluation.results import Counts, Figure, Metrics

T = TypeVar("T")
Compared = tuple[float, float, float, float]


NAMES = {"engagement": "roc_auc_exposure_matched", "relevance": "roc_auc_per_query"}
POOLED = {"engagement": "roc_auc", "relevance": "roc_auc"}


def figures(engagement: Compared, relevance: Compared, names: dict[str, str] = NAMES) -> Metrics:
    """What `evaluate` says of `new` with `old` beside it: both figures, and the interval of new − old.

    With `names` of more than the pooled metric the pooled one says the contrary.
    """
    given = {"engagement": engagement, "relevance": relevance}
    both = {part: {"roc_auc": _reversed(found), names[part]: found} for part, found in given.items()}

    def of(place: Callable[[Compared], T]) -> dict[str, dict[str, T]]:
        return {part: {name: place(found) for name, found in named.items()} for part, named in both.items()}

    return Metrics(
        ours=of(lambda found: Figure(found[0], None)),
        baselines={"old": of(lambda found: Figure(found[1], None))},
        differences={"old": of(lambda found: found[2:])},
        n=Counts(products=0, queries=0, resamples=0, seed=0, parts={}),
    )


def _reversed(compared: Compared) -> Compared:
    new, old, low, high = compared
    return old, new, -high, -low


@pytest.mark.parametrize(
    ("metrics", "chosen"),
    [
        (figures((0.92, 0.90, 0.01, 0.03), (0.91, 0.90, 0.005, 0.015)), "new"),
        (figures((0.92, 0.90, 0.01, 0.03), (0.89, 0.90, -0.03, 0.01)), "new"),  # by chance
        (figures((0.92, 0.90, 0.01, 0.03), (0.85, 0.90, -0.06, -0.04)), "old"),
        (figures((0.90, 0.92, -0.03, -0.01), (0.89, 0.90, -0.03, 0.01)), "old"),
        (figures((0.90, 0.92, -0.03, -0.01), (0.91, 0.90, -0.01, 0.03)), "old"),  # by chance
        (figures((0.90, 0.92, -0.03, -0.01), (0.95, 0.90, 0.04, 0.06)), "new"),
    ],
)
def test_the_one_ahead_on_engagement_unless_it_is_behind_on_relevance_by_more_than_chance(metrics, chosen):
    assert choose(metrics, "new", "old")[0] == chosen


def test_it_says_why_with_figures_and_intervals():
    ahead = figures((0.92, 0.90, 0.01, 0.03), (0.89, 0.9, -0.03, 0.01))
    assert choose(ahead, "new", "old")[1] == (
        "It is ahead of old on engagement, and not behind on relevance by more than chance:"
        " engagement ROC AUC, exposure matched .920 against .900 (+.020, 95 % interval +.010 to +.030),"
        " relevance ROC AUC, per query .890 against .900 (−.010, 95 % interval −.030 to +.010)."
    )
    narrowly = figures((0.92, 0.91, -0.01, 0.03), (0.91, 0.9, -0.01, 0.03))
    assert "though no more than chance would have it" in choose(narrowly, "new", "old")[1]
    forbidden = figures((0.90, 0.92, -0.03, -0.01), (0.95, 0.9, 0.04, 0.06))
    assert choose(forbidden, "new", "old")[1] == (
        "old is ahead of new on engagement, but behind on relevance by more than chance:"
        " engagement ROC AUC, exposure matched .920 against .900 (+.020, 95 % interval +.010 to +.030),"
        " relevance ROC AUC, per query .900 against .950 (−.050, 95 % interval −.060 to −.040)."
    )


def test_where_exposure_cannot_be_matched_the_pooled_figures_choose():
    chosen, why = choose(figures((0.92, 0.90, 0.01, 0.03), (0.91, 0.9, 0.0, 0.02), POOLED), "new", "old")
    assert chosen == "new"
    assert "engagement ROC AUC .920 against .900" in why and "relevance ROC AUC .910" in why


def test_the_command_that_serves_it_again_survives_a_shell():
    told = serving_command(Path("my demo/runs/new"), Path("my demo/market"), Path("my demo/index"))
    wanted = ["mercato", "serve", "my demo/runs/new", "--market", "my demo/market", "--index", "my demo/index"]
    assert shlex.split(told) == wanted
