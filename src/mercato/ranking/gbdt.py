"""Stage 1: gradient-boosted trees by LambdaMART (Burges, MSR-TR-2010-82; LightGBM's lambdarank), served as ONNX.

People click what stands higher, so LightGBM learns a factor for each position beside the trees, which serve without it
(its position-bias correction, after Hu et al., "Unbiased LambdaMART", WWW 2019).
"""

from __future__ import annotations

from collections.abc import Sequence

import lightgbm
import numpy as np
from numpy.typing import NDArray
from onnxmltools import convert_lightgbm
from onnxmltools.convert.common.data_types import FloatTensorType

from mercato.config.ranking import Trees
from mercato.errors import MercatoError
from mercato.ranking.dataset import RankingSet
from mercato.ranking.features import MONOTONE, NAMES


def fit(learned: RankingSet, gains: Sequence[float], trees: Trees, seed: int) -> lightgbm.Booster:
    """Learn the order of lists; `gains` are the values of grades up to 0, 1, …, and of the last all that are higher.

    Where all rows have one position, there is no bias to correct.
    """
    parameters = {
        "objective": "lambdarank",
        "label_gain": list(gains),
        "num_leaves": trees.leaves,
        "learning_rate": trees.learning_rate,
        "min_data_in_leaf": trees.least_rows,
        "lambdarank_position_bias_regularization": trees.position_regularization,
        "monotone_constraints": [MONOTONE.get(name, 0) for name in NAMES],
        "feature_fraction": 0.8,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }
    rows = lightgbm.Dataset(
        learned.features_PF,
        np.clip(learned.grades_P, 0, len(gains) - 1).astype(np.int32),
        group=learned.sizes,
        position=learned.positions_P,
        feature_name=list(NAMES),
    )
    booster = lightgbm.train(parameters, rows, trees.trees)
    if booster.num_trees() == 0 or all(tree["num_leaves"] < 2 for tree in booster.dump_model()["tree_info"]):
        raise MercatoError(
            f"{len(learned.grades_P):,} products of lists are too few to learn from, with at least {trees.least_rows}"
            " in a leaf (ranking.trees.least_rows)"
        )
    return booster


def out_of_fold(
    learned: RankingSet, gains: Sequence[float], trees: Trees, folds: int, seed: int
) -> NDArray[np.float32] | None:
    """The score of each row by trees that have not seen its query, (P,); None where there are too few queries."""
    fold_P = learned.folds(folds)
    scores_P = np.empty(len(fold_P), np.float32)
    for fold in np.unique(fold_P):
        held_P = fold_P == fold
        rest = learned.only(~held_P)
        if not rest.tells_apart:
            return None
        try:
            scores_P[held_P] = fit(rest, gains, trees, seed).predict(learned.features_PF[held_P])
        except MercatoError:  # too few rows
            return None
    return scores_P


def to_onnx(booster: lightgbm.Booster) -> bytes:
    """The trees as ONNX: `features` float32 (H, F) → `variable` float32 (H, 1)."""
    kept: bytes = convert_lightgbm(
        booster, "ranker", [("features", FloatTensorType([None, len(NAMES)]))], target_opset=15, zipmap=False
    ).SerializeToString()
    return kept
