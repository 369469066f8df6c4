"""The headline metrics, the weightiest first, and what people call a metric of a part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from mercato.evaluation.metrics.registry import METRICS

T = TypeVar("T")

PARTS = {  # what stands around the metric's own label
    "relevance": "relevance {}",
    "relevance_unseen": "relevance {}, queries new to the log",
    "engagement": "engagement {}",
    "lists": "displayed lists {}",
    "batch": "batch {}",
    "knn": "KNN {}",
    "unseen": "KNN {}, pairs new to the log",
    "cold": "KNN {}, products new to the log",
    "visual": "KNN {}, looks that no text names",
    "understanding": "{}",
    "understanding_new": "{}, new",
}


@dataclass(frozen=True)
class Headline:
    """A metric of a part, by its label: "relevance ROC AUC"."""

    part: str
    metric: str
    label: str

    @classmethod
    def of_metric(cls, part: str, metric: str) -> Headline:
        """Any metric of the registry, whether a headline or not."""
        return cls(part, metric, PARTS[part].format(metric_label(part, metric)))

    def of(self, figures: Mapping[str, Mapping[str, T]]) -> T | None:
        """What the figures hold for it; None for nothing."""
        return figures.get(self.part, {}).get(self.metric)


def metric_label(part: str, metric: str) -> str:
    """What people call a metric among those of its part: "ROC AUC"."""
    return next(each.label for each in METRICS[part] if each.name == metric)


def metric_meaning(part: str, metric: str) -> str:
    """What a metric says, in a sentence."""
    return next(each.meaning for each in METRICS[part] if each.name == metric)


_PLACES = sorted(
    (metric.headline, part, metric.name)
    for part, metrics in METRICS.items()
    for metric in metrics
    if metric.headline is not None
)
HEADLINES = tuple(Headline.of_metric(part, metric) for _, part, metric in _PLACES)
LEADING = {"relevance": 2, "engagement": 2, "lists": 1, "knn": 1}  # how many of a part stand at the top of a page


def leading(measured: Callable[[Headline], bool]) -> list[Headline]:
    """The weightiest headlines of each part, of those that were measured."""
    found = [headline for headline in HEADLINES if measured(headline)]
    return [each for part, most in LEADING.items() for each in [one for one in found if one.part == part][:most]]
