from __future__ import annotations

import numpy as np
import pytest
from catalogues import DIMENSION, vectors
from hypothesis import given
from hypothesis import strategies as st

from mercato.retrieval.expression import Expression
from mercato.retrieval.index import IndexRecord
from mercato.text.words import words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("75192", ["75192"]),
        ("iphone 13", ["iphone", "13"]),
        ('TV 24"', ["tv", "24"]),
        ("XR-5521/b_2", ["xr", "5521", "b", "2"]),
        ("沙发红色", ["沙发", "发红", "红色"]),
        ("红", ["红"]),
        ("24寸显示器", ["24", "寸显", "显示", "示器"]),
        ("Camión ROJO, niño", ["camion", "rojo", "nino"]),
        ("Caf\u00e9 Cafe\u0301", ["cafe", "cafe"]),
        ("Straße", ["strasse"]),
        ("１３ｃｍ", ["13cm"]),
        ("İstanbul", ["istanbul"]),
        ("소파 빨강", ["소파", "빨강"]),
        ("がか", ["がか"]),
        ("हिन्दी किताब", ["हिन्दी", "किताब"]),
        ("🙂 !! ＿", []),
    ],
)
def test_words_of_any_script_and_numbers(text, expected):
    assert words(text) == expected


@given(st.text(max_size=60))
def test_words_of_anything_are_words_of_themselves(text):
    assert all(word and not word.isspace() and words(word) for word in words(text))


@pytest.mark.parametrize(
    ("title", "query"),
    [
        ("Lego 75192 falcon", "75192"),
        ("Calendar 2023", "2023"),
        ("Sony XR-5521 radio", "5521"),
        ('Monitor 24" curved', '24"'),
        ("红色沙发", "沙发红色"),
        ("Mueble años 50", "anos"),
    ],
)
def test_the_index_finds_them(empty, title, query):
    given = vectors(np.random.default_rng(0), 2)
    assert given.shape[1] == DIMENSION
    empty.upsert([IndexRecord("p1", given[0], title=title), IndexRecord("p2", given[1], title="something else")])
    assert [hit.product_id for hit in empty.search(Expression(text=query), 5)] == ["p1"]
    empty.delete(["p1", "p2"])
