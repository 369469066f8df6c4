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
    holds_CM: Tensor  # bool: a product's text has all words of the crop, and so is no mismatch of it

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
    """Crops the first of the text features, the title, and takes the words out of all of them."""

    stage: InverseCloze
    words: Words
    text: Sequence[str]
    pad_id: int

    def crops(
        self,
        features: Mapping[str, NDArray[Any]],
        product_M: NDArray[np.int64],
        rows_C: NDArray[np.int64],
        generator: np.random.Generator,
    ) -> Crops:
        """Crops of some of the M products, which may be there twice; who has no word in the title is left out."""
        title_CL = features[self.text[0]][rows_C]
        word_CL = self.words.numbers(title_CL)
        some_C = word_CL.any(1)
        rows_C, title_CL, word_CL = rows_C[some_C], title_CL[some_C], word_CL[some_C]
        count_C = word_CL.max(1, initial=0)
        length_C = generator.integers(1, np.minimum(count_C, self.stage.words), endpoint=True)
        first_C = generator.integers(1, count_C - length_C + 1, endpoint=True)
        within_CL = (word_CL >= first_C[:, None]) & (word_CL < (first_C + length_C)[:, None])
        crop_CL = self._together(title_CL, within_CL)
        holds_CM = self._held(features)[crop_CL].all(1) | (product_M[rows_C, None] == product_M)
        lost_CL = np.where(generator.random(len(rows_C)) >= self.stage.kept, crop_CL.T, self.pad_id).T
        product = {name: values[rows_C] for name, values in features.items()}
        for name in self.text:
            said_CL = (product[name][:, :, None] == lost_CL[:, None, :]).any(2)
            product[name] = np.where(said_CL, self.pad_id, product[name])
        # What a tokenizer puts before and after a text belongs to a query too.
        around_CL = (np.cumsum(word_CL, 1) == 0) | (np.cumsum(word_CL[:, ::-1], 1)[:, ::-1] == 0)
        return Crops(
            tokens_CL=torch.from_numpy(self._together(title_CL, within_CL | around_CL)),
            product_C=torch.from_numpy(rows_C),
            product=tensors(product),
            holds_CM=torch.from_numpy(holds_CM),
        )

    def _together(self, tokens_CL: NDArray[np.int64], chosen_CL: NDArray[np.bool_]) -> NDArray[np.int64]:
        """The chosen tokens of each row in their order, padded to the longest."""
        chosen_CL = chosen_CL & (tokens_CL != self.pad_id)
        longest = max(1, int(chosen_CL.sum(1).max(initial=0)))
        order_CL = np.argsort(~chosen_CL, axis=1, kind="stable")[:, :longest]
        chosen_CL = np.take_along_axis(chosen_CL, order_CL, 1)
        return np.where(chosen_CL, np.take_along_axis(tokens_CL, order_CL, 1), self.pad_id)

    def _held(self, features: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
        """Which products have a token in any text, (W, M); all have padding."""
        held_WM = np.zeros((len(self.words.words_W), len(features[self.text[0]])), bool)
        for name in self.text:
            tokens_ML = features[name]
            held_WM[tokens_ML, np.arange(len(tokens_ML))[:, None]] = True
        held_WM[self.pad_id] = True
        return held_WM
