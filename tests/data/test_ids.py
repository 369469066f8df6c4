"""One rule for ids: in a table, and wherever Python asks."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mercato.data.ids import LONGEST, checked
from mercato.data.rules import violations

ODD = "./ a\n\x00\x7f\x85\u2028\xa0\u3000"
WILD = st.text(st.sampled_from(ODD) | st.characters(exclude_categories=["Cs"]), max_size=12)


def wrong(text: str) -> bool:
    try:
        return checked(text) != text
    except ValueError:
        return True


@pytest.mark.parametrize(
    "text",
    ["p00", "a/images/0", "a/queries", "10 %", "größe-42", "a b", "x" * LONGEST, "...", "a/..b/.c", "?#&", "商品"],
)
def test_what_an_address_can_hold_is_an_id(text):
    assert checked(text) == text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a\nb", "control character"),
        ("a\x00", "control character"),
        ("a\x85", "control character"),
        ("a\u2028b", "line break"),
        ("a\n", "control character"),
        (" a", "white space"),
        ("a\u3000", "white space"),
        ("..", "between slashes"),
        ("a/./b", "between slashes"),
        ("../a", "between slashes"),
        ("x" * (LONGEST + 1), "longer than 256"),
    ],
)
def test_what_would_be_unreachable_is_none(text, why):
    with pytest.raises(ValueError, match=why):
        checked(text)


@given(WILD)
@example("é" * LONGEST)
@example("é" * (LONGEST + 1))
def test_tables_and_python_agree(text):
    column = pa.chunked_array([pa.array([text, None])])
    for table, name in (("products", "product_id"), ("events", "session_id")):
        reasons = [why for why, _ in violations(table, name, column) if why != "is empty"]
        assert bool(reasons) == wrong(text), (text, reasons)
