"""How much attention a tower pays to each of its channels, on the whole and by the length of the query (§3.7.1).

The weights are those of the attention fusion (Que2Search Eq. 1); they sum to 1 over the channels that a row has, and a
missing channel weighs 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from mercato.data.normalize import normalize
from mercato.evaluation.metrics.arrays import BoolArray, FloatArray, IntArray
from mercato.evaluation.metrics.bootstrap import NORMAL_95, Interval
from mercato.evaluation.results import ABSENT, Result

SHORT = 5  # characters: below them the paper's trigrams win


@dataclass(frozen=True)
class Mean(Result):
    """A mean ± 1.96 standard errors, the normal approximation; no interval for fewer than two units."""

    mean: float
    interval: Interval | None

    @classmethod
    def of(cls, values_N: FloatArray, units_N: IntArray) -> Mean:
        """The mean of values (N,), those of one unit alike as they please: s/√n where each is a unit of its own."""
        mean = float(values_N.mean())
        apart_U = np.bincount(np.unique(units_N, return_inverse=True)[1], values_N - mean)
        if (count := len(apart_U)) < 2:
            return Mean(mean, None)
        margin = NORMAL_95 * float(np.sqrt(count / (count - 1) * (apart_U**2).sum())) / len(values_N)
        return Mean(mean, (mean - margin, mean + margin))


@dataclass(frozen=True)
class ChannelWeight(Result):
    """A channel's attention weight: over all rows, and over those alone that have the channel (None: none has it)."""

    mean: float
    interval: Interval | None
    present: float  # the share of rows that have it
    mean_present: float | None
    vector_length: float | None  # of the channel's vector, which the weight multiplies


@dataclass(frozen=True)
class LengthWeights(Result):
    """The channels' weights for queries of one length."""

    length: int  # characters
    queries: int
    weights: dict[str, Mean]


@dataclass(frozen=True)
class SideWeights(Result):
    """The channels' weights for short or for long queries, and how much more the trigrams weigh than the text."""

    queries: int
    weights: dict[str, Mean]
    trigrams_less_text: Mean | None = field(default=None, metadata=ABSENT)  # None without the two channels


def mean_weights(
    names: Sequence[str], weights_NC: FloatArray, present_NC: BoolArray, lengths_NC: FloatArray, units_N: IntArray
) -> dict[str, ChannelWeight]:
    """The weight of each channel over rows, each of a unit; `lengths_NC` are the lengths of the channels' vectors."""
    found = {}
    for place, name in enumerate(names):
        own_N, has_N = weights_NC[:, place], present_NC[:, place]
        over_all = Mean.of(own_N, units_N)
        found[name] = ChannelWeight(
            over_all.mean,
            over_all.interval,
            present=float(has_N.mean()),
            mean_present=float(own_N[has_N].mean()) if has_N.any() else None,
            vector_length=float(lengths_NC[has_N, place].mean()) if has_N.any() else None,
        )
    return found


def weights_by_length(
    names: Sequence[str], queries: Sequence[str], weights_NC: FloatArray, units_N: IntArray
) -> list[LengthWeights]:
    """The weights by length of the query, ascending; the queries of one unit are not independent.

    Characters are counted once the query is normalised, as trigrams and a tokenizer from scratch read it (a pretrained
    one reads the query as it is typed, but for white space).
    """
    lengths_N = query_lengths(queries)
    found = []
    for length in np.unique(lengths_N):
        own_N = lengths_N == length
        found.append(LengthWeights(int(length), int(own_N.sum()), _means(names, weights_NC[own_N], units_N[own_N])))
    return found


def short_and_long(
    names: Sequence[str], queries: Sequence[str], weights_NC: FloatArray, units_N: IntArray
) -> dict[str, SideWeights]:
    """Weights of queries under `SHORT` characters (`short`) and of all others (`long`); a side without any is absent.

    The claim is of Que2Search §3.7.1.
    """
    short_N = query_lengths(queries) < SHORT
    found = {}
    for side, rows_N in (("short", short_N), ("long", ~short_N)):
        if not rows_N.any():
            continue
        apart = None
        if {"trigrams", "text"} <= set(names):
            own, other = names.index("trigrams"), names.index("text")
            apart = Mean.of(weights_NC[rows_N, own] - weights_NC[rows_N, other], units_N[rows_N])
        found[side] = SideWeights(int(rows_N.sum()), _means(names, weights_NC[rows_N], units_N[rows_N]), apart)
    return found


def query_lengths(queries: Sequence[str]) -> IntArray:
    """Characters of each query once normalised: (N,)."""
    return np.array([len(normalize(query)) for query in queries], np.int64)


def _means(names: Sequence[str], weights_NC: FloatArray, units_N: IntArray) -> dict[str, Mean]:
    return {name: Mean.of(weights_NC[:, place], units_N) for place, name in enumerate(names)}
