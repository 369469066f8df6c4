"""How much attention a tower pays to each of its channels, on the whole and by the length of the query (§3.7.1).

The weights are those of the attention fusion (Que2Search Eq. 1); they sum to 1 over the channels that a row has, and a
missing channel weighs 0. Shapes: R rows, N channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mercato.data.normalize import normalize
from mercato.evaluation.metrics.arrays import BoolArray, FloatArray
from mercato.evaluation.metrics.bootstrap import NORMAL_95

SHORT = 5  # characters: below them the paper's trigrams win


def mean_weights(
    names: Sequence[str], weights_RN: FloatArray, present_RN: BoolArray, lengths_RN: FloatArray
) -> dict[str, Any]:
    """By channel: `mean` weight over all rows, its 95 % `interval`, and the share of rows that have it (`present`).

    Over those rows alone: the mean weight (`mean_present`) and, of `lengths_RN`, the mean length of the channel's
    vector, which the weight multiplies (`vector_length`); None where no row has it.
    """
    found = {}
    for place, name in enumerate(names):
        own_R, has_R = weights_RN[:, place], present_RN[:, place]
        found[name] = mean_and_interval(own_R) | {
            "present": float(has_R.mean()),
            "mean_present": float(own_R[has_R].mean()) if has_R.any() else None,
            "vector_length": float(lengths_RN[has_R, place].mean()) if has_R.any() else None,
        }
    return found


def weights_by_length(names: Sequence[str], queries: Sequence[str], weights_RN: FloatArray) -> list[dict[str, Any]]:
    """By length in characters, ascending: `length`, the number of `queries`, and of every channel the mean weight.

    Characters are counted once the query is normalised, as trigrams and a tokenizer from scratch read it (a pretrained
    one reads the query as it is typed, but for white space); a mean is as in `mean_and_interval`.
    """
    lengths_R = query_lengths(queries)
    return [
        {
            "length": int(length),
            "queries": int((lengths_R == length).sum()),
            "weights": {
                name: mean_and_interval(weights_RN[lengths_R == length, place]) for place, name in enumerate(names)
            },
        }
        for length in np.unique(lengths_R)
    ]


def short_and_long(names: Sequence[str], queries: Sequence[str], weights_RN: FloatArray) -> dict[str, Any]:
    """Weights of queries under `SHORT` characters and of all others, each with `trigrams_less_text`: their difference.

    The claim is of Que2Search §3.7.1. A side without queries is absent, and so is the difference without its channels.
    """
    short_R = query_lengths(queries) < SHORT
    found = {}
    for side, rows_R in (("short", short_R), ("long", ~short_R)):
        if not rows_R.any():
            continue
        part: dict[str, Any] = {"queries": int(rows_R.sum())}
        part["weights"] = {name: mean_and_interval(weights_RN[rows_R, place]) for place, name in enumerate(names)}
        if {"trigrams", "text"} <= set(names):
            own, other = names.index("trigrams"), names.index("text")
            part["trigrams_less_text"] = mean_and_interval(weights_RN[rows_R, own] - weights_RN[rows_R, other])
        found[side] = part
    return found


def mean_and_interval(values_R: FloatArray) -> dict[str, Any]:
    """Mean ± 1.96 s/√R, the normal approximation; no interval (None) for fewer than two values."""
    mean = float(values_R.mean())
    if len(values_R) < 2:
        return {"mean": mean, "interval": None}
    margin = NORMAL_95 * float(values_R.std(ddof=1)) / len(values_R) ** 0.5
    return {"mean": mean, "interval": [mean - margin, mean + margin]}


def query_lengths(queries: Sequence[str]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Characters of each query once normalised: (R,)."""
    return np.array([len(normalize(query)) for query in queries], np.int64)
