"""Crops: a few words in sequence of a product's title, to stand as a query for it (inverse cloze task).

Shapes: C products that are cropped; M products of the batch; L tokens, W the vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mercato.config.pretraining import InverseCloze
from mercato.models.tower import Inputs, tensors
from mercato.training.data.masking import Words


@dataclass(frozen=True, kw_only=True)
class Crops:
    """What one step reads of them."""

    tokens_CL: Tensor  # int64, as a query's
    product_C: Tensor  # which of the M each is of
    product: Inputs  # of the C products, of some without the crop's words
    holds_CM: Tensor  # bool: a product's text has all tokens of the crop, and so is no mismatch of it

    def to(self, device: torch.device) -> Self:
        """The same on a device."""
        return type(self)(
            tokens_CL=self.tokens_CL.to(device),
            product_C=self.product_C.to(device),
            product={name: value.to(device) for name, value in self.product.items()},
            holds_CM=self.holds_CM.to(device),
        )


@dataclass(frozen=True)
class Cropper:
    """Crops the first of the text features, the title, and takes its tokens out of all of them."""

    stage: InverseCloze
    words: Words
    text: Sequence[str]
    pad_id: int
    longest: int  # tokens that a query has at most

    def crops(
        self,
        features: Mapping[str, NDArray[Any]],
        whole: Mapping[str, NDArray[np.int64]],
        product_M: NDArray[np.int64],
        rows_C: NDArray[np.int64],
        generator: np.random.Generator,
    ) -> Crops:
        """Crops of some of the M products; who has no word in the title is left out.

        Args:
            features: of the M products, as they are read here.
            whole: their text features with every field, also those that are dropped here.
            product_M: which product each is; one may be there twice.
            rows_C: which of the M are cropped.
            generator: draws the words, and who loses them.
        """
        title_CL = features[self.text[0]][rows_C]
        word_CL = self.words.numbers(title_CL)
        some_C = word_CL.any(1)
        rows_C, title_CL, word_CL = rows_C[some_C], title_CL[some_C], word_CL[some_C]
        count_C = word_CL.max(1, initial=0)
        length_C = generator.integers(1, np.minimum(count_C, self.stage.words), endpoint=True)
        first_C = generator.integers(1, count_C - length_C + 1, endpoint=True)
        within_CL = (word_CL >= first_C[:, None]) & (word_CL < (first_C + length_C)[:, None])
        # What a tokenizer puts before and after a text belongs to a query too.
        around_CL = (np.cumsum(word_CL, 1) == 0) | (np.cumsum(word_CL[:, ::-1], 1)[:, ::-1] == 0)
        around_CL &= title_CL != self.pad_id
        within_CL &= np.cumsum(within_CL, 1) <= self.longest - around_CL.sum(1, keepdims=True)
        crop_CL = self._together(title_CL, within_CL)
        lost_C = generator.random(len(rows_C)) >= self.stage.kept
        return Crops(
            tokens_CL=torch.from_numpy(self._together(title_CL, within_CL | around_CL)),
            product_C=torch.from_numpy(rows_C),
            product=tensors(self._without(crop_CL, {name: v[rows_C] for name, v in features.items()}, lost_C)),
            holds_CM=torch.from_numpy(self._held(whole)[crop_CL].all(1) | (product_M[rows_C, None] == product_M)),
        )

    def _without(
        self, crop_CL: NDArray[np.int64], product: dict[str, NDArray[Any]], lost_C: NDArray[np.bool_]
    ) -> dict[str, NDArray[Any]]:
        """Some of the products without the crops' tokens; what would have nothing left keeps them."""
        kept = {name: ~(product[name][:, :, None] == crop_CL[:, None, :]).any(2) for name in self.text}
        left_C = np.any([(self.words.words_W[product[name]] & kept[name]).any(1) for name in self.text], axis=0)
        if "patch_mask" in product:
            left_C |= product["patch_mask"].any(1)
        whole_C1 = ~(lost_C & left_C)[:, None]
        # Closed up: a gap would tell how many tokens are asked for, and where.
        return product | {name: self._together(product[name], kept[name] | whole_C1) for name in self.text}

    def _together(self, tokens_CL: NDArray[np.int64], chosen_CL: NDArray[np.bool_]) -> NDArray[np.int64]:
        """The chosen tokens of each row in their order, padded to the longest."""
        longest = max(1, int(chosen_CL.sum(1).max(initial=0)))
        order_CL = np.argsort(~chosen_CL, axis=1, kind="stable")[:, :longest]
        chosen_CL = np.take_along_axis(chosen_CL, order_CL, 1)
        return np.where(chosen_CL, np.take_along_axis(tokens_CL, order_CL, 1), self.pad_id)

    def _held(self, whole: Mapping[str, NDArray[np.int64]]) -> NDArray[np.bool_]:
        """Which products have a token in any text, (W, M); all have padding."""
        held_WM = np.zeros((len(self.words.words_W), len(whole[self.text[0]])), bool)
        for tokens_ML in whole.values():
            held_WM[tokens_ML, np.arange(len(tokens_ML))[:, None]] = True
        held_WM[self.pad_id] = True
        return held_WM
