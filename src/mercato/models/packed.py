"""A BERT-like transformer over texts laid end to end: no padding, and of the last layer only what is pooled.

transformers pads a batch to its longest text, and computes last states that nobody reads. The weights stay in its
modules, which load, save and export them; here the same arithmetic is done in another order.

Shapes: B texts, L tokens of the longest (or of a group), T tokens of all; groups of M texts of one length L;
H hidden, A attention heads, E = H / A.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from transformers import BertModel, RobertaModel, XLMRobertaModel

from mercato.models.cpu import dropout, linear

Groups = list[tuple[int, int]]  # (M, L), in the order in which the texts lie


def can_pack(backbone: nn.Module) -> bool:
    """Whether this transformer is of the kind written down here: BERT's layers, places by embedding."""
    return isinstance(backbone, BertModel | RobertaModel | XLMRobertaModel) and not backbone.config.is_decoder


class Packing(NamedTuple):
    """How a batch of padded texts lies end to end: the shortest first."""

    order_B: Tensor
    present_BL: Tensor  # in that order
    groups: Groups

    @classmethod
    def of(cls, present_BL: Tensor) -> Self:
        """From the places (B, L) bool that are filled; a text of none is read as one token."""
        nothing_B = ~present_BL.any(1)
        first_L = torch.arange(present_BL.shape[1]) == 0
        present_BL = present_BL | (nothing_B.unsqueeze(1) & first_L)
        length_B = present_BL.sum(1)
        order_B = length_B.argsort(stable=True)
        groups = [(len(list(alike)), length) for length, alike in groupby(length_B[order_B].tolist())]
        return cls(order_B, present_BL[order_B], groups)

    def pack(self, padded_BLX: Tensor) -> Tensor:
        """(B, L, …) → (T, …)."""
        return padded_BLX[self.order_B][self.present_BL]

    def unpack(self, state_TH: Tensor) -> Tensor:
        """(T, H) → (B, L, H), zeros where nothing is."""
        padded_BLH = state_TH.new_zeros(*self.present_BL.shape, state_TH.shape[1])
        padded_BLH[self.present_BL] = state_TH
        return padded_BLH[self.order_B.argsort()]


def pooled(backbone: Any, tokens_BL: Tensor, pad_id: int, pooling: str) -> Tensor:
    """(B, L) int64, padded at the end → (B, H): the last layer's first state ("cls") or its mean over tokens ("mean").

    The same as `backbone(tokens, mask).last_hidden_state`, pooled, but for rounding and the draws of dropout.
    """
    packing = Packing.of(tokens_BL != pad_id)
    return _read(backbone.encoder.layer, _embed(backbone, tokens_BL, packing), packing, pooling)


def lower(backbone: Any, tokens_BL: Tensor, pad_id: int, layers: int) -> Tensor:
    """The states that the first `layers` layers leave (0: the embeddings): (B, L) int64 → (B, L, H)."""
    packing = Packing.of(tokens_BL != pad_id)
    return packing.unpack(_run(backbone.encoder.layer[:layers], _embed(backbone, tokens_BL, packing), packing))


def through(layers: Any, state_BSH: Tensor, present_BS: Tensor) -> Tensor:
    """Some layers over the states that are present: (B, S, H), (B, S) bool → (B, S, H), zeros where nothing is."""
    packing = Packing.of(present_BS)
    return packing.unpack(_run(layers, packing.pack(state_BSH), packing))


def first(layers: Any, state_BSH: Tensor, present_BS: Tensor) -> Tensor:
    """As `through`, of the last layer the first state alone, whose position must be present: (B, H)."""
    packing = Packing.of(present_BS)
    return _read(layers, packing.pack(state_BSH), packing, "cls")


def upper(backbone: Any, state_BSH: Tensor, present_BS: Tensor, weight_BS: Tensor, layers: int, pooling: str) -> Tensor:
    """All but the first `layers` layers over the states that are present, pooled: (B, S, H), (B, S) bool → (B, H).

    A mean is one by `weight_BS`, which adds up to 1.
    """
    packing = Packing.of(present_BS)
    weight_T1 = packing.pack(weight_BS).unsqueeze(1)
    return _read(backbone.encoder.layer[layers:], packing.pack(state_BSH), packing, pooling, weight_T1)


def _run(layers: Any, state_TH: Tensor, packing: Packing) -> Tensor:
    """Every state after some layers."""
    for layer in layers:
        state_TH = _feed_forward(layer, _attend(layer.attention, state_TH, packing.groups))
    return state_TH


def _read(layers: Any, state_TH: Tensor, packing: Packing, pooling: str, weight_T1: Tensor | None = None) -> Tensor:
    *others, last = layers
    state_TH = _run(others, state_TH, packing)
    if pooling == "cls":
        state_BH = _feed_forward(last, _attend_first(last.attention, state_TH, packing.groups))
    else:
        state_TH = _feed_forward(last, _attend(last.attention, state_TH, packing.groups))
        if weight_T1 is None:
            means = [state_MLH.mean(1) for state_MLH in _by_length(state_TH, packing.groups)]
        else:
            means = [state_MLH.sum(1) for state_MLH in _by_length(state_TH * weight_T1, packing.groups)]
        state_BH = torch.cat(means)
    return state_BH[packing.order_B.argsort()]


def _embed(backbone: Any, tokens_BL: Tensor, packing: Packing) -> Tensor:
    own = backbone.embeddings
    place_BL = torch.arange(tokens_BL.shape[1]).expand_as(tokens_BL)
    token_T, place_T = packing.pack(tokens_BL), place_BL[packing.present_BL]
    if not isinstance(backbone, BertModel):
        place_T = place_T + own.padding_idx + 1  # RoBERTa's places begin behind that of the padding
    state_TH = own.word_embeddings(token_T) + own.position_embeddings(place_T) + own.token_type_embeddings.weight[0]
    return dropout(own.LayerNorm(state_TH), own.dropout)


def _attend(attention: Any, state_TH: Tensor, groups: Groups) -> Tensor:
    """Every token looks at its text: (T, H)."""
    own = attention.self
    parts = (_by_length(linear(state_TH, part), groups) for part in (own.query, own.key, own.value))
    mixed = [_mix(own, *part).flatten(0, 1) for part in zip(*parts, strict=True)]
    return _add(attention.output, torch.cat(mixed), state_TH)


def _attend_first(attention: Any, state_TH: Tensor, groups: Groups) -> Tensor:
    """The first token of each text looks at its text: (B, H)."""
    own = attention.self
    first_BH = torch.cat([state_MLH[:, 0] for state_MLH in _by_length(state_TH, groups)])
    queries = torch.split(linear(first_BH, own.query).unsqueeze(1), [texts for texts, _ in groups])
    keys, values = (_by_length(linear(state_TH, part), groups) for part in (own.key, own.value))
    mixed = [_mix(own, *part).squeeze(1) for part in zip(queries, keys, values, strict=True)]
    return _add(attention.output, torch.cat(mixed), first_BH)


def _mix(own: Any, *parts: Tensor) -> Tensor:
    """Queries (M, 1 or L, H), keys and values (M, L, H) → the values as each query weighs them, like the queries."""
    query_MALE, key_MALE, value_MALE = (
        torch.unflatten(part, 2, (own.num_attention_heads, own.attention_head_size)).transpose(1, 2) for part in parts
    )
    logits_MALL: Tensor = query_MALE @ key_MALE.transpose(2, 3) * own.attention_head_size**-0.5
    weight_MALL = dropout(torch.softmax(logits_MALL, -1), own.dropout)
    return (weight_MALL @ value_MALE).transpose(1, 2).flatten(2)


def _feed_forward(layer: Any, state_TH: Tensor) -> Tensor:
    inner = layer.intermediate
    return _add(layer.output, inner.intermediate_act_fn(linear(state_TH, inner.dense)), state_TH)


def _add(output: Any, inner_TX: Tensor, state_TH: Tensor) -> Tensor:
    result: Tensor = output.LayerNorm(dropout(linear(inner_TX, output.dense), output.dropout) + state_TH)
    return result


def _by_length(state_TH: Tensor, groups: Groups) -> list[Tensor]:
    """A view (M, L, H) of each group."""
    parts = torch.split(state_TH, [texts * length for texts, length in groups])
    return [part.view(texts, length, -1) for part, (texts, length) in zip(parts, groups, strict=True)]
