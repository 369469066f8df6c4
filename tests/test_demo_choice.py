"""Which of the demo's two models is served."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from mercato.demo import choose, serving_command
from mercato.evaluation.results import Counts, Figure, Metrics

Compared = tuple[float, float, float, float]


def figures(engagement: Compared, relevance: Compared) -> Metrics:
    """What `evaluate` says of `new` with `old` beside it: ROC AUC of new and old, and the interval of new − old."""
    both = {"engagement": engagement, "relevance": relevance}
    return Metrics(
        ours={part: {"roc_auc": Figure(new, None)} for part, (new, *_) in both.items()},
        baselines={"old": {part: {"roc_auc": Figure(old, None)} for part, (_, old, *_) in both.items()}},
        differences={"old": {part: {"roc_auc": (low, high)} for part, (*_, low, high) in both.items()}},
        n=Counts(products=0, queries=0, resamples=0, seed=0, parts={}),
    )


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
        " engagement ROC AUC .920 against .900 (+.020, 95 % interval +.010 to +.030),"
        " relevance ROC AUC .890 against .900 (−.010, 95 % interval −.030 to +.010)."
    )
    narrowly = figures((0.92, 0.91, -0.01, 0.03), (0.91, 0.9, -0.01, 0.03))
    assert "though no more than chance would have it" in choose(narrowly, "new", "old")[1]
    forbidden = figures((0.90, 0.92, -0.03, -0.01), (0.95, 0.9, 0.04, 0.06))
    assert choose(forbidden, "new", "old")[1] == (
        "old is ahead of new on engagement, but behind on relevance by more than chance:"
        " engagement ROC AUC .920 against .900 (+.020, 95 % interval +.010 to +.030),"
        " relevance ROC AUC .900 against .950 (−.050, 95 % interval −.060 to −.040)."
    )


def test_the_command_that_serves_it_again_survives_a_shell():
    told = serving_command(Path("my demo/runs/new"), Path("my demo/market"), Path("my demo/index"))
    wanted = ["mercato", "serve", "my demo/runs/new", "--market", "my demo/market", "--index", "my demo/index"]
    assert shlex.split(told) == wanted
