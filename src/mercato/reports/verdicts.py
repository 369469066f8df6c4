"""Which baselines a model beats: the intervals that a report's colours rest on, and the sentence that says it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from mercato.evaluation.baselines.registry import BASELINES
from mercato.evaluation.metrics.registry import LOG_PARTS, PREDICTION_PARTS, directed
from mercato.evaluation.results import Figure, Metrics
from mercato.reports.headlines import HEADLINES

Verdict = Literal["better", "worse", "unsure"]


def label(system: str) -> str:
    """What people call a baseline; another model by its own name."""
    return BASELINES[system].label if system in BASELINES else system


def searching(metrics: Metrics) -> list[str]:
    """The baselines that search: other models first, then the lexical ones and chance."""
    found = [name for name, figures in metrics.baselines.items() if not {*figures} <= {*LOG_PARTS, *PREDICTION_PARTS}]
    return sorted(found, key=lambda name: name in BASELINES)


def scoring(metrics: Metrics) -> list[str]:
    """The baselines that only score what was shown: of the log and the price."""
    return [name for name, figures in metrics.baselines.items() if figures and {*figures} <= {*LOG_PARTS}]


def rivals(metrics: Metrics) -> list[str]:
    """What ours is to beat: all but chance."""
    return [name for name in (*searching(metrics), *scoring(metrics)) if name != "random"]


def compared(metrics: Metrics, system: str, part: str, metric: str) -> Figure | None:
    """Ours less a baseline, with the interval that holds together with all others; outside its family, with its own."""
    return metrics.simultaneous(system, part, metric) or metrics.difference(system, part, metric)


def verdict(difference: Figure) -> Verdict:
    """Whether a difference is more than chance."""
    low, high = difference.interval or (0.0, 0.0)
    return "better" if low > 0 else "worse" if high < 0 else "unsure"


def beaten(metrics: Metrics) -> str:
    """Which baselines the model is ahead of on the headline metrics, and where it is not; "" without baselines."""
    everywhere, nowhere, clauses = [], [], []
    for system in rivals(metrics):
        found: dict[Verdict, list[str]] = {"better": [], "worse": [], "unsure": []}
        for headline in HEADLINES:
            difference = compared(metrics, system, headline.part, headline.metric)
            if difference and directed(headline.part, headline.metric):
                found[verdict(difference)].append(headline.label)
        count = sum(map(len, found.values()))
        if count and len(found["better"]) == count:
            everywhere.append(label(system))
        elif count and len(found["unsure"]) == count:
            nowhere.append(label(system))
        elif count:
            clauses.append(_clause(label(system), found, count))
    if everywhere:
        clauses.insert(0, f"ahead of {_listed(everywhere)} on every headline metric that both have")
    if nowhere:
        clauses.append(f"not told apart from {_listed(nowhere)} on any headline metric")
    if not clauses:
        return ""
    own = [label(name) for name in scoring(metrics)]
    intervals = "By 95 % intervals that hold all together"
    intervals += f" (against {_listed(own)} by intervals of their own)" if own else ""
    return f"{intervals} the model is {'; '.join(clauses)}."


def _clause(name: str, found: dict[Verdict, list[str]], count: int) -> str:
    better, worse, unsure = found["better"], found["worse"], found["unsure"]
    said = f"ahead of {name} on {len(better)} of {count}" if better else f"not ahead of {name} on any of {count}"
    if better and len(better) < len(unsure):
        said += f" ({'; '.join(better)})".replace(";", " ·")
    if worse:
        said += f", behind on {_listed(worse)}"
    if unsure:
        named = _listed(unsure) if not better or len(unsure) <= len(better) else "the others"
        said += f", not told apart on {named}"
    return said


def _listed(names: Sequence[str]) -> str:
    """A, B and C; names that hold commas between dots."""
    if any("," in name for name in names):
        return " · ".join(names)
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
