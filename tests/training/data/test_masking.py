"""Masking by whole words and by patches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from mercato.errors import MercatoError
from mercato.features.tokenizer import train_tokenizer
from mercato.training.data.masking import WordMask, Words, mask_patches

PIECES = ["<pad>", "<s>", "</s>", "<unk>", "<mask>", "▁red", "▁so", "fa", "▁lamp", "s"]
MASK = PIECES.index("<mask>")
MASKS = WordMask(
    Words(
        begins_W=np.array([piece.startswith("▁") for piece in PIECES]),
        words_W=np.array([not piece.startswith("<") for piece in PIECES]),
    ),
    mask_id=MASK,
)
TEXT = [1, 5, 6, 7, 8, 9, 2, 0]  # <s> red so·fa lamp·s </s> <pad>
WORDS = [[1], [2, 3], [4, 5]]  # places of its words


def test_of_a_word_all_tokens_are_chosen_or_none() -> None:
    _, chosen_BL = MASKS.apply(np.array([TEXT] * 500), 0.5, np.random.default_rng(0))
    for word in WORDS:
        assert (chosen_BL[:, word].all(1) == chosen_BL[:, word].any(1)).all()
    assert not chosen_BL[:, [0, 6, 7]].any()


def test_the_share_is_that_of_the_words_in_the_mean() -> None:
    _, chosen_BL = MASKS.apply(np.array([TEXT] * 4000), 0.15, np.random.default_rng(0))
    words = np.mean([chosen_BL[:, word[0]] for word in WORDS])
    assert words == pytest.approx(0.15, abs=0.012)  # four standard errors


def test_of_what_is_chosen_most_is_masked_some_random_and_some_left() -> None:
    tokens_BL = np.array([TEXT] * 4000)
    read_BL, chosen_BL = MASKS.apply(tokens_BL, 0.5, np.random.default_rng(0))
    assert (read_BL == tokens_BL)[~chosen_BL].all()
    read, own = read_BL[chosen_BL], tokens_BL[chosen_BL]
    # A random word is the own one every fifth time, of five that there are.
    assert (read == MASK).mean() == pytest.approx(0.8, abs=0.02)
    assert (read == own).mean() == pytest.approx(0.1 + 0.1 / 5, abs=0.02)
    assert MASKS.words.words_W[read[read != MASK]].all()


@pytest.mark.parametrize(
    ("pieces", "begins"),
    [
        (["[MASK]", "[CLS]", "so", "##fa"], [False, False, True, False]),
        (["<mask>", "<s>", "Ġso", "fa"], [False, False, True, False]),
        (["<mask>", "<s>", "sofa", "lamp"], [False, False, True, True]),
        (["<mask>", "▁so", "fa", "▁", "##"], [False, True, False, True, False]),  # "##" that somebody wrote
    ],
)
def test_words_begin_where_the_tokenizer_says(pieces: list[str], begins: list[bool]) -> None:
    tokenizer = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token=pieces[0]))
    tokenizer.add_special_tokens([piece for piece in pieces if piece[0] in "[<"])
    assert Words.of(tokenizer).begins_W.tolist() == begins


def test_a_market_s_own_tokenizer_masks() -> None:
    tokenizer = train_tokenizer(["red sofa", "blue lamp", "green table"] * 4, 60, masks=True)
    mask = WordMask.of(tokenizer)
    assert mask.mask_id == tokenizer.token_to_id("<mask>")
    ids = np.array([tokenizer.encode("red sofa").ids])
    assert mask.words.words_W[ids].tolist() == [[False, *[True] * (ids.shape[1] - 2), False]]


def test_a_tokenizer_without_a_mask_is_refused() -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(MercatoError, match=r"pretraining\.mlm: the tokenizer has none of <mask>"):
        WordMask.of(tokenizer)


@given(
    lengths=st.lists(st.integers(0, 12), min_size=1, max_size=6), share=st.floats(0.05, 0.95), seed=st.integers(0, 99)
)
def test_of_n_patches_so_many_are_masked(lengths: list[int], share: float, seed: int) -> None:
    present_BS = np.arange(12) < np.array(lengths)[:, None]
    masked_BS = mask_patches(present_BS, share, np.random.default_rng(seed))
    assert not (masked_BS & ~present_BS).any()
    for count, masked in zip(lengths, masked_BS.sum(1), strict=True):
        assert np.floor(share * count) <= masked <= np.ceil(share * count)


def test_any_patch_may_be_masked() -> None:
    present_BS = np.ones((2000, 4), bool)
    share_S = mask_patches(present_BS, 0.5, np.random.default_rng(0)).mean(0)
    assert share_S == pytest.approx(0.5, abs=0.05)
