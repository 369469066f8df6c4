"""What is tuned: the levers of an effort, and the ranking stages behind it; and which of their values are tried."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from mercato.evaluation.metrics.arrays import FloatArray
from mercato.ranking.ranker import Ranker
from mercato.search.policy import Effort

Stages = Literal["none", "first", "both"]  # that order what was retrieved; none: the order of the cosine
Lever = Literal["min_cosine", "text_candidates", "candidates", "ef_search"]

CANDIDATES = (50, 100, 200, 300, 1000)
TEXT_CANDIDATES = (0, 25, 50, 300)
EF_SEARCH = (16, 64, 128, 192, 256, 512)
NEAR = (0.0, 0.25, 0.5, 0.7, 0.8, 0.9, 0.95)  # shares of the retrieved that a least cosine leaves out


@dataclass(frozen=True)
class Setting:
    """How a first page is searched."""

    effort: Effort
    stages: Stages

    def as_dict(self) -> dict[str, Any]:
        """Its levers by their names."""
        return asdict(self.effort) | {"stages": self.stages}


def stages_of(ranker: Ranker | None) -> dict[Stages, Ranker | None]:
    """A run's ranker with no stage, its first and both, as far as it has them; the last is what serves.

    They have no deadline and explore nothing: what they find must depend on neither what else the machine does nor a
    draw.
    """
    found: dict[Stages, Ranker | None] = {"none": None}
    if ranker is not None:
        ranker = replace(
            ranker, settings=ranker.settings.model_copy(update={"deadline_ms": math.inf, "exploration": None})
        )
        found["first"] = replace(ranker, dlrm=None)
        if ranker.dlrm is not None:
            found["both"] = ranker
    return found


def least_cosines(cosines_F: FloatArray, usual: float | None) -> list[float | None]:
    """Values of `min_cosine` that leave out ever more of what is found without one, and the run's usual one.

    Args:
        cosines_F: of all products found without a bound, (F,).
        usual: the run's own.
    """
    found = {round(float(np.quantile(cosines_F, share)), 3) for share in NEAR[1:]} if len(cosines_F) else set()
    return [None, *sorted(found | ({usual} if usual is not None else set()))]


def varied(effort: Effort, lever: Lever, values: Sequence[float | None]) -> list[Effort]:
    """The effort at each value of one lever."""
    changes: list[dict[str, Any]] = [{lever: value} for value in values]
    return [replace(effort, **change) for change in changes]
