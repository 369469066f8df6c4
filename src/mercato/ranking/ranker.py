"""The ranker of a run as it serves: ONNX Runtime and the statistics it was trained with; no torch, no LightGBM."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from onnxruntime import InferenceSession, SessionOptions

from mercato.catalogue.indexing import run_fingerprint
from mercato.errors import MercatoError
from mercato.ranking.features import NAMES, Asked, features
from mercato.ranking.statistics import Statistics
from mercato.retrieval.protocol import Hits

FOLDER = "ranking"  # in the run's
CARD, TREES, STATISTICS = "ranking.json", "trees.onnx", "statistics.npz"


@dataclass(frozen=True, eq=False)
class Ranker:
    """Orders the hits of a search; safe to share between threads."""

    statistics: Statistics
    trees: InferenceSession

    @classmethod
    def of_run(cls, run: Path) -> Self | None:
        """The ranker that `mercato rank` left in a run, None where there is none.

        Raises:
            MercatoError: it was trained for other weights, or on features that this version does not compute.
        """
        folder = run / FOLDER
        if not (folder / CARD).is_file():
            return None
        card = json.loads((folder / CARD).read_text())
        if card["run"] != run_fingerprint(run):
            raise MercatoError(f"{folder} was trained for other weights of this run: `mercato rank {run}` again")
        if card["features"] != list(NAMES):
            raise MercatoError(
                f"{folder} was trained on other features than this version's: `mercato rank {run}` again"
            )
        return cls(Statistics.load(folder / STATISTICS), session((folder / TREES).read_bytes()))

    def scores(self, asked: Asked, hits: Hits) -> NDArray[np.float32]:
        """The score of each hit, higher is better: (H,)."""
        return predicted(self.trees, features(asked, hits, self.statistics))


def session(model: bytes) -> InferenceSession:
    """One that runs in the thread that calls it."""
    options = SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return InferenceSession(model, options, providers=["CPUExecutionProvider"])


def predicted(trees: InferenceSession, features_HF: NDArray[np.float32]) -> NDArray[np.float32]:
    """The trees' scores, (H,)."""
    if not len(features_HF):
        return np.zeros(0, np.float32)
    (scores_H1,) = trees.run(None, {"features": features_HF})
    scores_H: NDArray[np.float32] = scores_H1[:, 0]
    return scores_H
