"""Crops of titles that stand as queries."""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mercato.config.pretraining import InverseCloze
from mercato.training.data.crops import Cropper, Crops
from mercato.training.data.masking import Words

PIECES = ["<pad>", "<s>", "</s>", "<unk>", "▁red", "▁so", "fa", "▁lamp", "s", "▁big"]
PAD, START, END, UNKNOWN, RED, SO, FA, LAMP, S, BIG = range(len(PIECES))
WORDS = Words(
    begins_W=np.array([piece.startswith("▁") for piece in PIECES]),
    words_W=np.array([not piece.startswith("<") for piece in PIECES]),
)


def crops_of(
    titles: list[list[int]],
    *,
    descriptions: list[list[int]] | None = None,
    rows: list[int] | None = None,
    products: list[int] | None = None,
    words: int = 3,
    kept: float = 0.0,
    longest: int = 99,
    photos: list[bool] | None = None,
    named: list[list[int]] | None = None,
    seed: int = 0,
) -> tuple[Crops, dict[str, NDArray[np.int64]]]:
    texts = {"title": padded(titles)} | ({} if descriptions is None else {"description": padded(descriptions)})
    features: dict[str, NDArray[Any]] = {**texts}
    if photos is not None:
        features["patch_mask"] = np.array(photos)[:, None]
    whole = texts if named is None else {"title": padded(named)}
    cropper = Cropper(InverseCloze(words=words, kept=kept), WORDS, list(texts), PAD, longest)
    rows_C = np.arange(len(titles)) if rows is None else np.array(rows, np.int64)
    product_M = np.arange(len(titles)) if products is None else np.array(products)
    return cropper.crops(features, whole, product_M, rows_C, np.random.default_rng(seed)), texts


def padded(texts: list[list[int]]) -> NDArray[np.int64]:
    rows = np.zeros((len(texts), max(map(len, texts))), np.int64)
    for row, text in zip(rows, texts, strict=True):
        row[: len(text)] = text
    return rows


def read(tokens: NDArray[np.int64]) -> list[int]:
    return [int(token) for token in tokens if token != PAD]


@given(
    texts=st.lists(st.lists(st.sampled_from([RED, SO, FA, LAMP, S, BIG, UNKNOWN]), max_size=9), min_size=1, max_size=6),
    seed=st.integers(0, 99),
)
def test_a_crop_is_some_whole_words_in_sequence(texts: list[list[int]], seed: int) -> None:
    titles = [[START, *text, END] for text in texts]
    crops, features = crops_of(titles, seed=seed)
    numbers = WORDS.numbers(features["title"])
    assert crops.product_C.tolist() == np.flatnonzero(numbers.any(1)).tolist()
    for tokens, row in zip(crops.tokens_CL.numpy(), crops.product_C.tolist(), strict=True):
        words = [
            [int(token) for token in features["title"][row][numbers[row] == number]]
            for number in range(1, int(numbers[row].max()) + 1)
        ]
        spans = [list(chain(*words[i : i + n])) for n in (1, 2, 3) for i in range(len(words) - n + 1)]
        around = [token for token in texts[row] if token == UNKNOWN]
        assert [token for token in read(tokens)[1:-1] if token != UNKNOWN] in spans
        assert read(tokens)[0] == START
        assert read(tokens)[-1] == END
        assert read(tokens).count(UNKNOWN) <= len(around)


def test_every_length_and_place_is_drawn() -> None:
    crops, _ = crops_of([[RED, SO, FA, LAMP]] * 400, words=2)
    found = {tuple(read(tokens)) for tokens in crops.tokens_CL.numpy()}
    assert found == {(RED,), (SO, FA), (LAMP,), (RED, SO, FA), (SO, FA, LAMP)}


def test_an_item_loses_the_words_wherever_it_says_them_and_no_gap_tells_where() -> None:
    crops, _ = crops_of([[START, RED, END]], descriptions=[[START, BIG, RED, LAMP, RED, END]])
    assert crops.tokens_CL.tolist() == [[START, RED, END]]
    assert crops.product["title"].tolist() == [[START, END]]
    assert crops.product["description"].tolist() == [[START, BIG, LAMP, END]]


def test_what_would_have_nothing_left_keeps_its_words() -> None:
    titles = [[START, RED, END], [START, RED, END], [START, UNKNOWN, RED, END]]
    crops, features = crops_of(titles, photos=[False, True, False])
    assert crops.product["title"].tolist() == [[*features["title"][0]], [START, END, PAD, PAD], [*features["title"][2]]]
    crops, _ = crops_of(titles[:2], descriptions=[[BIG], [RED]])
    assert crops.product["title"].tolist() == [[START, END, PAD], titles[1]], "another text is something"
    assert crops.product["description"].tolist() == [[BIG], [RED]]


def test_a_crop_is_no_longer_than_a_query() -> None:
    crops, _ = crops_of([[START, SO, FA, FA, FA, FA, LAMP, END]] * 200, longest=5)
    found = {tuple(read(tokens)) for tokens in crops.tokens_CL.numpy()}
    assert found == {(START, SO, FA, FA, END), (START, LAMP, END)}
    padded_up, _ = crops_of([[START, SO, FA, FA, END], [START, *[SO] * 20, END]], rows=[0], longest=5)
    assert padded_up.tokens_CL.tolist() == [[START, SO, FA, FA, END]]
    lost = {tuple(read(tokens)) for tokens in crops.product["title"].numpy()}
    assert lost == {(START, LAMP, END), (START, SO, FA, FA, FA, FA, END)}, "what is cut off is not asked for"


@pytest.mark.parametrize(("kept", "whole"), [(0.0, 0), (0.5, 500), (1.0, 1000)])
def test_a_share_of_the_items_keeps_them(kept: float, whole: int) -> None:
    crops, _ = crops_of([[RED, LAMP]] * 1000, words=1, kept=kept)
    same = sum(len(read(tokens)) == 2 for tokens in crops.product["title"].numpy())
    assert same == pytest.approx(whole, abs=65)  # four standard errors
    if kept in (0.0, 1.0):
        assert same == whole


def test_who_has_the_crop_s_words_is_no_mismatch_of_it() -> None:
    titles = [[RED, LAMP], [BIG, LAMP], [SO, FA], [LAMP, BIG, RED]]
    crops, _ = crops_of(titles, rows=[0], words=2, seed=3)
    said = set(read(crops.tokens_CL.numpy()[0]))
    assert crops.holds_CM.tolist() == [[said <= set(title) for title in titles]]
    of_lamp = crops_of([[LAMP], *titles], rows=[0])[0]
    assert of_lamp.holds_CM.tolist() == [[True, True, True, False, True]]


def test_a_text_as_long_as_any_holds_a_crop_that_is_padded() -> None:
    for seed in range(9):
        crops, _ = crops_of([[LAMP], [BIG, RED], [RED, LAMP]], rows=[0, 1], words=2, seed=seed)
        assert crops.holds_CM[0].tolist() == [True, False, True], seed


def test_words_in_the_description_count() -> None:
    crops, _ = crops_of([[LAMP], [RED], [BIG]], descriptions=[[RED], [LAMP], [RED]], rows=[0])
    assert crops.holds_CM.tolist() == [[True, True, False]]


def test_what_is_dropped_here_counts_too() -> None:
    """A shirt whose title is withheld is blue all the same."""
    crops, _ = crops_of([[RED, LAMP], [], [BIG]], named=[[RED, LAMP], [LAMP, RED], [BIG]], rows=[0])
    assert crops.holds_CM.tolist() == [[True, True, False]]


def test_a_product_that_is_seen_in_two_ways_is_no_mismatch_of_itself() -> None:
    crops, _ = crops_of([[RED], [LAMP], [BIG]], rows=[0], products=[7, 7, 8])
    assert crops.holds_CM.tolist() == [[True, True, False]]


def test_without_products_there_are_no_crops() -> None:
    crops, _ = crops_of([[RED, LAMP]], rows=[])
    assert crops.tokens_CL.shape[0] == 0
    assert crops.holds_CM.shape == (0, 1)
