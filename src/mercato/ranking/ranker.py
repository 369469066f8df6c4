"""The ranker of a run as it serves: ONNX Runtime and the statistics it was trained with; no torch, no LightGBM.

Stage 1 scores every hit, stage 2 how far people would go with the best of them (Que2Search §6.5).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from onnxruntime import InferenceSession, SessionOptions

from mercato.catalogue.fingerprints import run_fingerprint
from mercato.config.ranking import Ranking
from mercato.errors import MercatoError
from mercato.manifest import check, reading
from mercato.ranking.features import NAMES, VERSION, Asked, features_of, ids_of, without
from mercato.ranking.statistics import Statistics
from mercato.retrieval.protocol import Hits
from mercato.runs.folder import load_query_head
from mercato.runs.query_head import QueryHead

FOLDER = "ranking"  # in the run's
CARD, STATISTICS = "ranking.json", "statistics.npz"
TREES, LINEAR, DLRM = "trees.onnx", "linear.onnx", "dlrm.onnx"
METRICS = "metrics.json"

Stage = Literal["trees", "linear", "dlrm"]
LeftOut = Literal["late", "not finite"]  # why a stage was left out, and what follows it
Scores = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Scored:
    """Hits as a ranker sees them: their scores by each stage, (H,), the last one's being what they are ordered by, and
    the features that these were made of, (H, F); without scores there are none.
    """

    stages: Mapping[Stage, Scores]
    features_HF: NDArray[np.float32] | None = None
    left_out: LeftOut | None = None  # None: no stage was


@dataclass(frozen=True, eq=False)
class Ranker:
    """Orders the hits of a search; safe to share between threads."""

    statistics: Statistics
    first: InferenceSession
    dlrm: InferenceSession | None  # None where the market has no log, or was too small for it
    worth_K: NDArray[np.float64]  # of each step along the chain, beyond the one before
    settings: Ranking
    head: QueryHead | None = None  # the run's
    features_version: str | None = None  # see `features_version`
    clock: Callable[[], float] = time.perf_counter
    stage: Literal["trees", "linear"] = "trees"  # the first: of lists, or of judgments

    @classmethod
    def of_run(cls, run: Path) -> Self | None:
        """The ranker that `mercato rank` left in a run, None where there is none.

        Raises:
            MercatoError: it was trained for other weights, on features that this version does not compute, or something
                of it is missing or broken.
        """
        folder = run / FOLDER
        if not (folder / CARD).is_file():
            return None
        mend = f"mend it, or `mercato rank {run} --market DIR --index URL` trains it anew"
        with reading(folder, mend):
            return cls._read(run, folder, mend)

    @classmethod
    def _read(cls, run: Path, folder: Path, mend: str) -> Self:
        card = json.loads((folder / CARD).read_text())
        if card["run"] != run_fingerprint(run):
            raise MercatoError(f"{folder} was trained for other weights of this run")
        if (card.get("version"), card["features"]) != (VERSION, list(NAMES)):
            raise MercatoError(f"{folder} was trained on other features than this version's")
        check(folder, mend)
        models = {name: (folder / name).read_bytes() for name in (TREES, LINEAR, DLRM) if (folder / name).is_file()}
        settings = Ranking.model_validate(card["settings"])
        statistics = Statistics.load(folder / STATISTICS)
        return cls.of(models, statistics, card["gains"], settings, load_query_head(run), features_version(card["run"]))

    @classmethod
    def of(
        cls,
        models: Mapping[str, bytes],
        statistics: Statistics,
        gains: Sequence[float],
        settings: Ranking,
        head: QueryHead | None,
        version: str,
    ) -> Self:
        """A ranker of the ONNX models `TREES` or `LINEAR` and, where there is one, `DLRM`."""
        stage: Literal["trees", "linear"] = "linear" if LINEAR in models else "trees"
        first = session(models[LINEAR if stage == "linear" else TREES])
        network = session(models[DLRM]) if DLRM in models else None
        return cls(statistics, first, network, np.diff(gains), settings, head, version, stage=stage)

    def rank(self, asked: Asked, hits: Hits, begun: float | None = None) -> Scored:
        """The scores of hits by each stage, higher is better.

        Stage 2 gives the best of stage 1 the worth that it expects of them; the rest follows in stage 1's order. A
        stage is left out, and what follows it, where there is no time for it or its scores are not finite.

        Args:
            asked: the search.
            hits: what it found.
            begun: when, by the clock; no stage begins later than the deadline after that. None: there is none.
        """
        if self._is_late(begun):
            return Scored({}, left_out="late")
        columns = hits.signals()
        whole_HF = features_of(asked, hits, columns, self.statistics, self.head)
        features_HF = without(whole_HF, self.settings.without)
        first_H = predicted(self.first, features_HF)
        if not np.isfinite(first_H).all():
            return Scored({}, left_out="not finite")
        first = Scored({self.stage: first_H}, whole_HF)
        if self.dlrm is None:
            return first
        if self._is_late(begun):
            return replace(first, left_out="late")
        order_H = np.argsort(-first_H, kind="stable")
        best, rest = order_H[: self.settings.dlrm.best], order_H[self.settings.dlrm.best :]
        ids_bT = ids_of(asked.query, columns.take(best))
        worth_b = self.worths(features_HF[best], first_H[best], ids_bT)
        if not np.isfinite(worth_b).all():
            return replace(first, left_out="not finite")
        scores_H = np.empty_like(first_H)
        scores_H[best] = worth_b
        if len(rest):
            scores_H[rest] = first_H[rest] - first_H[rest[0]] + worth_b.min() - 1
        return Scored({self.stage: first_H, "dlrm": scores_H}, whole_HF)

    def worths(self, features_HF: NDArray[np.float32], first_H: Scores, ids_HT: NDArray[np.uint64]) -> Scores:
        """The worth that stage 2 expects of each hit at the first place, (H,)."""
        return (self._chances(features_HF, first_H, ids_HT) @ self.worth_K).astype(np.float32)

    def told(self, asked: Asked, hits: Hits) -> NDArray[np.float32]:
        """The chances that stage 2 tells of each hit at the first place, of every step: (H, K)."""
        columns = hits.signals()
        features_HF = without(features_of(asked, hits, columns, self.statistics, self.head), self.settings.without)
        return self._chances(features_HF, predicted(self.first, features_HF), ids_of(asked.query, columns))

    def _chances(
        self, features_HF: NDArray[np.float32], first_H: Scores, ids_HT: NDArray[np.uint64]
    ) -> NDArray[np.float32]:
        assert self.dlrm is not None
        rows_HF = np.concatenate([features_HF, first_H[:, None]], axis=1)
        return chances(self.dlrm, rows_HF, buckets(ids_HT, self.settings.dlrm.buckets))

    def _is_late(self, begun: float | None) -> bool:
        return begun is not None and (self.clock() - begun) * 1000 > self.settings.deadline_ms


def features_version(fingerprint: str) -> str:
    """What the features of a run are logged as: those of another meaning or of other vectors are other features."""
    return f"{VERSION} {fingerprint}"


def session(model: bytes) -> InferenceSession:
    """One that runs in the thread that calls it."""
    options = SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return InferenceSession(model, options, providers=["CPUExecutionProvider"])


def predicted(first: InferenceSession, features_HF: NDArray[np.float32]) -> Scores:
    """The scores of stage 1, (H,)."""
    if not len(features_HF):
        return np.zeros(0, np.float32)
    (scores_H1,) = first.run(None, {"features": features_HF})
    scores_H: Scores = scores_H1[:, 0]
    return scores_H


def chances(dlrm: InferenceSession, rows_HF: NDArray[np.float32], ids_HT: NDArray[np.int64]) -> NDArray[np.float32]:
    """The chances of the steps of a product at the first place, (H, K)."""
    (chances_HK,) = dlrm.run(None, {"features": rows_HF, "ids": ids_HT})
    found_HK: NDArray[np.float32] = chances_HK
    return found_HK


def buckets(keys_HT: NDArray[np.uint64], count: int) -> NDArray[np.int64]:
    """The bucket of each key, 0 of the unknown one: (H, T)."""
    return np.where(keys_HT == 0, 0, 1 + keys_HT % np.uint64(count - 1)).astype(np.int64)
