"""Stage 1 of a market without a log: logistic regression on judgments, served as ONNX.

Most judged queries have few judged products, many a single one, so that the order within lists, which the trees learn,
says next to nothing. Whether a product is what its query asks for does, from query to query: a judgment is a row here,
and a query weighs one, however many of its products were judged. What is read is what query and product have in
common: of either alone (the query's length, the fields that a listing lacks) judgments tell rather what was chosen to
be judged. The cosine is hardly penalised: few judgments leave its order as it is.

Shapes: P rows of lists, H products, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from scipy.optimize import minimize
from scipy.special import expit

from mercato.ranking.dataset import RankingSet
from mercato.ranking.features import MONOTONE, NAMES

PENALTY = 30.0  # on half the squared weights, beside the summed loss of the queries (docs/real-data.md);
PENALTY_OF_COSINE = 1.0  # hardly any
LENGTHS = {"title_words", "title_unasked", "description_words"}
READ = {name for name in NAMES[: NAMES.index("query_words")] if name not in LENGTHS}
FARTHEST = 5.0  # deviations from the mean: what lies beyond counts as this far

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Linear:
    """The log odds of being what was asked for: a weight for each feature's deviations from its mean, all (F,)."""

    means_F: Floats
    deviations_F: Floats
    weights_F: Floats
    bias: float

    def parts(self, features_HF: Floats) -> Floats:
        """What each feature adds to each score, 0 where it is unknown: (H, F)."""
        return _standard(features_HF, self.means_F, self.deviations_F) * self.weights_F

    def predict(self, features_HF: Floats) -> Floats:
        """The scores, (H,)."""
        scores_H: Floats = self.parts(features_HF).sum(axis=1) + self.bias
        return scores_H

    def to_onnx(self) -> bytes:
        """As ONNX: `features` float32 (H, F) → `variable` float32 (H, 1), like the trees."""
        constants = {
            "means": self.means_F, "deviations": self.deviations_F, "weights": self.weights_F[:, None],
            "bias": np.array([self.bias]), "zero": np.zeros((), np.float32), "least": np.float32(-FARTHEST),
            "most": np.float32(FARTHEST),
        }  # fmt: skip
        steps = [
            ("Sub", ["features", "means"], "centred"),
            ("Div", ["centred", "deviations"], "scaled"),
            ("IsNaN", ["scaled"], "unknown"),
            ("Where", ["unknown", "zero", "scaled"], "known"),
            ("Clip", ["known", "least", "most"], "near"),
            ("MatMul", ["near", "weights"], "product"),
            ("Add", ["product", "bias"], "variable"),
        ]
        graph = helper.make_graph(
            [helper.make_node(kind, inputs, [output]) for kind, inputs, output in steps],
            "ranker",
            [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, len(self.means_F)])],
            [helper.make_tensor_value_info("variable", TensorProto.FLOAT, [None, 1])],
            [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
        onnx.checker.check_model(model)
        kept: bytes = model.SerializeToString()
        return kept


def fit(learned: RankingSet, gains: Sequence[float]) -> Linear:
    """Learn what judged products are worth as a share of the most, by cross-entropy with an L2 penalty.

    Args:
        learned: judged lists, whose grades are numbers of levels.
        gains: what each level is worth, ascending; not all alike.

    Returns:
        A model whose weights have the sign that sense demands (`MONOTONE`), and are 0 but for `READ`.
    """
    known_F = np.isfinite(learned.features_PF).any(axis=0)
    means_F, deviations_F = np.zeros(len(NAMES), np.float32), np.ones(len(NAMES), np.float32)
    means_F[known_F] = np.nanmean(learned.features_PF[:, known_F], axis=0, dtype=np.float64)
    deviations_F[known_F] = np.nanstd(learned.features_PF[:, known_F], axis=0, dtype=np.float64)
    deviations_F[deviations_F < 1e-6] = 1.0  # what is always alike tells nothing
    rows_PF = _standard(learned.features_PF, means_F, deviations_F).astype(np.float64)
    worth_P = (np.asarray(gains)[learned.grades_P.astype(np.int64)] - gains[0]) / (gains[-1] - gains[0])
    weight_P = 1.0 / learned.sizes[learned.lists_P]
    penalty_F = np.array([PENALTY_OF_COSINE if name == "cosine" else PENALTY for name in NAMES])

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        logits_P = rows_PF @ weights[:-1] + weights[-1]
        own = weight_P @ (np.logaddexp(0.0, logits_P) - worth_P * logits_P) + penalty_F @ weights[:-1] ** 2 / 2
        wrong_P = weight_P * (expit(logits_P) - worth_P)
        return float(own), np.append(rows_PF.T @ wrong_P + penalty_F * weights[:-1], wrong_P.sum())

    signs = {1: (0, None), -1: (None, 0), 0: (None, None)}
    bounds: list[Any] = [signs[MONOTONE.get(name, 0)] if name in READ else (0, 0) for name in NAMES]
    found = minimize(loss, np.zeros(len(NAMES) + 1), jac=True, method="L-BFGS-B", bounds=[*bounds, (None, None)]).x
    return Linear(means_F, deviations_F, found[:-1].astype(np.float32), float(found[-1]))


def _standard(features_HF: Floats, means_F: Floats, deviations_F: Floats) -> Floats:
    scaled_HF = (features_HF - means_F) / deviations_F
    near_HF: Floats = np.where(np.isnan(scaled_HF), np.float32(0), scaled_HF).clip(-FARTHEST, FARTHEST)
    return near_HF
