from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mercato.data.words import words


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
