"""Masking: which words of a text, and which patches of an image, a model must tell from the rest.

Shapes: B texts or products, L tokens, S patches, W the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from mercato.errors import MercatoError

MASKS = ("<mask>", "[MASK]")  # what tokenizers call it
MASKED, RANDOM = 0.8, 0.1  # of the chosen tokens: the rest stays as it is (Devlin et al. 2019, §3.1)


@dataclass(frozen=True, eq=False)
class Words:
    """Tells where in a row of token ids words are."""

    begins_W: NDArray[np.bool_]  # whether a token begins a word
    words_W: NDArray[np.bool_]  # whether it is part of a word at all, and not <s> and the like

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Self:
        """From a tokenizer's vocabulary, which tells words in SentencePiece's, WordPiece's or byte-level BPE's way."""
        pieces = [tokenizer.id_to_token(i) or "" for i in range(tokenizer.get_vocab_size())]
        special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
        special |= {"<pad>", "<s>", "</s>", "<unk>", *MASKS}
        counts = {mark: sum(piece.startswith(mark) for piece in pieces) for mark in ("▁", "Ġ", "##")}
        mark = max(counts, key=lambda mark: counts[mark])  # the others may occur in a text
        if not counts[mark]:
            begins = [True] * len(pieces)
        else:
            begins = [piece.startswith(mark) != (mark == "##") for piece in pieces]
        words = np.array([piece not in special for piece in pieces])
        return cls(np.array(begins) & words, words)

    def numbers(self, tokens_BL: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which word of its text a token is part of, from 1, and 0 where it is part of none: (B, L)."""
        part_BL = self.words_W[tokens_BL]
        after_BL = np.zeros_like(part_BL)  # a word may also begin where the one before it is no part of one
        after_BL[:, 1:] = part_BL[:, :-1]
        first_BL = part_BL & (self.begins_W[tokens_BL] | ~after_BL)
        word_BL: NDArray[np.int64] = np.where(part_BL, np.cumsum(first_BL, axis=1), 0)
        return word_BL


@dataclass(frozen=True, eq=False)
class WordMask:
    """Masks whole words of token ids (BERT's "whole word masking"): of a word all tokens are chosen or none."""

    words: Words
    mask_id: int

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Self:
        """From a tokenizer.

        Raises:
            MercatoError: it has no token for what is masked.
        """
        known = tokenizer.get_vocab(with_added_tokens=True)
        mask = next((known[name] for name in MASKS if name in known), None)
        if mask is None:
            raise MercatoError(f"pretraining.mlm: the tokenizer has none of {', '.join(MASKS)}; set its weight to 0")
        return cls(Words.of(tokenizer), mask)

    def apply(
        self, tokens_BL: NDArray[np.int64], share: float, generator: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Mask a share of each text's words.

        Of n words share · n are chosen, rounded up or down by chance so that it is so in the mean. Of their tokens 80 %
        become the mask, 10 % any other token and 10 % stay.

        Returns:
            The tokens as the model reads them, (B, L), and which are to be told, (B, L).
        """
        word_BL = self.words.numbers(tokens_BL)
        chosen_BN = _some(word_BL.max(1, initial=0), share, generator)
        chosen_BL = (word_BL > 0) & np.take_along_axis(chosen_BN, np.maximum(word_BL - 1, 0), axis=1)
        draw_BL = generator.random(tokens_BL.shape)
        random_BL = generator.choice(np.flatnonzero(self.words.words_W), tokens_BL.shape)
        read_BL = np.where(draw_BL < MASKED, self.mask_id, np.where(draw_BL < MASKED + RANDOM, random_BL, tokens_BL))
        return np.where(chosen_BL, read_BL, tokens_BL), chosen_BL


def mask_patches(present_BS: NDArray[np.bool_], share: float, generator: np.random.Generator) -> NDArray[np.bool_]:
    """Which of each product's patches are masked: `share` of those that are there, as `WordMask.apply` rounds it."""
    count_B = present_BS.sum(1)
    chosen_BN = _some(count_B, share, generator)
    place_BS = np.maximum(np.cumsum(present_BS, axis=1) - 1, 0)
    masked_BS: NDArray[np.bool_] = present_BS & np.take_along_axis(chosen_BN, place_BS, axis=1)
    return masked_BS


def _some(count_B: NDArray[np.int64], share: float, generator: np.random.Generator) -> NDArray[np.bool_]:
    """Of the first `count_B` of N places in a row, a share: (B, N) bool, N at least 1."""
    places = max(1, int(count_B.max(initial=0)))
    wanted_B = np.floor(share * count_B + generator.random(len(count_B)))
    key_BN = generator.random((len(count_B), places))
    key_BN[np.arange(places) >= count_B[:, None]] = np.inf
    rank_BN = key_BN.argsort(1).argsort(1)
    chosen_BN: NDArray[np.bool_] = rank_BN < wanted_B[:, None]
    return chosen_BN
