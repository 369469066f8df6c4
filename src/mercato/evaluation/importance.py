"""What each channel of a tower is worth, by feature ablation within the tower while the other is held (§3.7.2).

Captum's `FeatureAblation` flips switches, one a channel: a channel that is off is replaced, and the cosine with the
other tower's unchanged vector moves. Channels are encoded once.
Letters: docs/notation.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from captum.attr import FeatureAblation
from torch import Tensor

from mercato.evaluation.encoded import EncodedTower
from mercato.evaluation.metrics.arrays import BoolArray, FloatArray, IntArray
from mercato.evaluation.metrics.bootstrap import Estimate, Interval, resample
from mercato.evaluation.metrics.roc_auc import pooled_auc
from mercato.evaluation.metrics.simultaneous import simultaneous_intervals
from mercato.evaluation.results import Result
from mercato.models.channels import Channels
from mercato.progress import track

Replacement = Literal["missing", "other"]
"""`missing`: a vector of zeros, as in the paper. Attention weights stay as they are: the channel's summand is gone,
and nothing is shared anew among the rest, as it is where a seller leaves the field out. A fusion without weights reads
zeros: the MLP at the channel's place, the fusion transformer at each of the channel's positions, which remain to be
attended to and counted in the mean, marked as the channel's.
`other`: the channel of another row drawn at random, a query or product of the test split; the tower fuses anew."""

BATCH = 2048
RESAMPLES = 300


@dataclass(frozen=True)
class Ablation(Result):
    """What a group of channels is worth under one replacement; the last three are None without pairs of both kinds."""

    change: float  # the mean absolute change of the cosine
    share: float | None  # that change as a part of all groups'; None where nothing changes
    roc_auc: float | None  # of the cosines so changed
    roc_auc_change: float | None  # by which that differs
    interval: Interval | None  # of the change, 95 %, together with those of all groups and replacements


Importance = dict[str, dict[Replacement, Ablation]]  # group → replacement → …


def ablated_cosines(
    encoded: EncodedTower,
    rows_P: IntArray,
    opposite_PD: Tensor,
    groups: Mapping[str, Sequence[str]],
    replacement: Replacement,
    seed: int = 0,
) -> dict[str, FloatArray]:
    """The cosine of every pair with one group of channels replaced: by group, (P,).

    Args:
        encoded: the tower under study, with its rows.
        rows_P: the row of each pair.
        opposite_PD: the other tower's unit vector of each pair.
        groups: channels that are replaced together, each channel in one group.
        replacement: what takes their place.
        seed: of the draw of other rows; a row is never replaced by itself, and takes all of a group from one row.
    """
    place_of = {channel: place for place, channels in enumerate(groups.values()) for channel in channels}
    mask_1C = torch.tensor([[place_of[name] for name in encoded.names]])
    rows, other = torch.tensor(rows_P), torch.tensor(_others(rows_P, len(encoded.unit_ND), seed))
    ablation = FeatureAblation(_zeroed(encoded) if replacement == "missing" else _replaced(encoded))
    weights_NC = (
        torch.empty(len(encoded.unit_ND), 0) if encoded.weights_NC is None else torch.tensor(encoded.weights_NC)
    )
    found_PC = torch.empty(len(rows_P), len(encoded.names))
    for start in track(range(0, len(rows_P), BATCH), f"ablation of {len(groups)} parts ({replacement})"):
        part = slice(start, start + BATCH)
        own = _take(encoded.channels, rows[part])
        given: tuple[Tensor, ...]
        if replacement == "missing":
            given = (*own[:2], weights_NC[rows[part]])
        else:
            given = (*own[:2], *_take(encoded.channels, other[part])[:2])
        found_PC[part] = ablation.attribute(
            torch.ones(len(own.present_BS), len(encoded.names)),
            baselines=0.0,
            additional_forward_args=(*given, opposite_PD[part]),
            feature_mask=mask_1C,
        )
    whole_P = (encoded.unit_ND[rows] * opposite_PD).sum(1)
    first_of = {group: encoded.names.index(channels[0]) for group, channels in groups.items()}
    return {group: (whole_P - found_PC[:, place]).double().numpy() for group, place in first_of.items()}


def importance(
    encoded: EncodedTower,
    rows_P: IntArray,
    opposite_PD: Tensor,
    groups: Mapping[str, Sequence[str]],
    queries_P: IntArray,
    labels_P: BoolArray,
    units_Q: IntArray,
    seed: int = 0,
) -> Importance:
    """What every group is worth, for each replacement (Que2Search Table 2).

    Args:
        encoded: as in `ablated_cosines`, and so are `rows_P`, `opposite_PD`, `groups` and `seed`.
        queries_P: the query of each pair, 0 … Q - 1.
        labels_P: whether the pair is relevant.
        units_Q: what the intervals resample: the unit of each query.
    """
    whole_P = (encoded.unit_ND[torch.tensor(rows_P)] * opposite_PD).sum(1).double().numpy()
    ones_1Q = np.ones((1, len(units_Q)))
    weights_RQ = resample(units_Q, seed, RESAMPLES)
    both = bool(labels_P.any() and not labels_P.all())
    base = pooled_auc(queries_P, labels_P, whole_P)
    base_R = base(weights_RQ)
    found: Importance = {group: {} for group in groups}
    changed: dict[tuple[str, Replacement], Estimate] = {}
    replacements: tuple[Replacement, ...] = ("missing", "other")
    for replacement in replacements:
        cosines = ablated_cosines(encoded, rows_P, opposite_PD, groups, replacement, seed)
        changes = {group: float(np.abs(whole_P - own_P).mean()) for group, own_P in cosines.items()}
        total = sum(changes.values())
        for group, own_P in cosines.items():
            auc = pooled_auc(queries_P, labels_P, own_P)
            value = float(auc(ones_1Q)[0]) if both else None
            change = None if value is None else value - float(base(ones_1Q)[0])
            if change is not None:
                changed[group, replacement] = Estimate(change, auc(weights_RQ) - base_R)
            found[group][replacement] = Ablation(
                change=changes[group],
                share=changes[group] / total if total else None,
                roc_auc=value,
                roc_auc_change=change,
                interval=None,
            )
    for (group, replacement), span in simultaneous_intervals([changed]).items():
        found[group][replacement] = dataclasses.replace(found[group][replacement], interval=span)
    return found


def _zeroed(encoded: EncodedTower) -> Callable[..., Tensor]:
    """The cosine where channels that are not kept are zeros."""
    channel_S = encoded.channels.channel_S

    def cosine(kept_BC: Tensor, own_BSE: Tensor, present_BS: Tensor, weights_BC: Tensor, opposite_BD: Tensor) -> Tensor:
        vectors_BSE = own_BSE * kept_BC[:, channel_S].unsqueeze(-1)
        if weights_BC.shape[1]:
            unit_BD = F.normalize(
                (weights_BC.unsqueeze(-1) * vectors_BSE).sum(1), dim=-1
            )  # Eq. 1, a position a channel
        else:
            unit_BD = encoded.tower.fuse(Channels(vectors_BSE, present_BS, channel_S))[0]
        return (unit_BD * opposite_BD).sum(1)

    return cosine


def _replaced(encoded: EncodedTower) -> Callable[..., Tensor]:
    """The cosine where channels that are not kept are another row's."""
    channel_S = encoded.channels.channel_S

    def cosine(
        kept_BC: Tensor,
        own_BSE: Tensor,
        own_present_BS: Tensor,
        other_BSE: Tensor,
        other_present_BS: Tensor,
        opposite_BD: Tensor,
    ) -> Tensor:
        own_BS = kept_BC[:, channel_S] > 0.5
        vectors_BSE = torch.where(own_BS.unsqueeze(-1), own_BSE, other_BSE)
        mixed = Channels(vectors_BSE, torch.where(own_BS, own_present_BS, other_present_BS), channel_S)
        return (encoded.tower.fuse(mixed)[0] * opposite_BD).sum(1)

    return cosine


def _take(channels: Channels, rows_B: Tensor) -> Channels:
    return Channels(channels.vectors_BSE[rows_B], channels.present_BS[rows_B], channels.channel_S)


def _others(rows_P: IntArray, rows: int, seed: int) -> IntArray:
    """For each pair another row than its own, uniformly: (P,)."""
    steps_P = np.random.default_rng(seed).integers(1, max(rows, 2), size=len(rows_P))
    return (rows_P + steps_P) % rows
