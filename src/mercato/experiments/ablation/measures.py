"""The figures of one trained run of a study: `measures.json`, with the bootstrap replicates beside it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mercato.errors import MercatoError
from mercato.evaluation.metrics.arrays import FloatArray
from mercato.evaluation.results import ABSENT, ByMetric, PartCounts, Result

MEASURES, REPLICATES = "measures.json", "replicates.npz"


@dataclass(frozen=True, kw_only=True)
class Epoch(Result):
    """One point of a learning curve; epoch 0 is before the first."""

    stage: int
    epoch: int
    loss: float | None
    roc_auc: float | None  # of validation


@dataclass(frozen=True, kw_only=True)
class Training(Result):
    """What training took and reached."""

    seconds: float  # of the epochs
    epochs: int
    validation_roc_auc: float | None
    curve: list[Epoch]


@dataclass(frozen=True, kw_only=True)
class Measures(Result):
    """What `measures.json` holds."""

    figures: ByMetric[float]
    n: dict[str, PartCounts]
    training: Training
    mercato: str | None = field(default=None, metadata=ABSENT)  # the version that measured
    measured: str | None = field(default=None, metadata=ABSENT)  # the day, UTC

    @classmethod
    def read(cls, run: Path) -> Measures:
        """The measures of a run.

        Raises:
            MercatoError: there are none, or they cannot be read.
        """
        try:
            return cls.from_dict(json.loads((run / MEASURES).read_text()))
        except (OSError, ValueError) as error:
            raise MercatoError(f"{run / MEASURES} cannot be read: delete it to measure anew ({error})") from None


def read_replicates(run: Path, metric: str) -> FloatArray:
    """The bootstrap replicates (R,) of a metric, named as in a study: "relevance.roc_auc"."""
    with np.load(run / REPLICATES) as replicates:
        found: FloatArray = replicates[metric]
    return found
