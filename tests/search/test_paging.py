from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mercato.errors import MercatoError
from mercato.search.paging import CursorSigner, Position, digest

SIGNER = CursorSigner(b"k" * 32)
HERE = Position(False, 0.25, "product-7", 24, "q1")
SEARCH = digest({"query": "sofa"})

positions = st.builds(
    Position,
    exact=st.booleans(),
    score=st.floats(allow_nan=False, allow_infinity=False),
    product_id=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40),
    shown=st.integers(0, 10_000),
    query_id=st.text("0123456789abcdef", max_size=24),
)


@given(positions)
def test_a_cursor_comes_back_as_it_was(position):
    cursor = SIGNER.encode(position, SEARCH)
    assert SIGNER.decode(cursor, SEARCH) == position
    assert cursor.isascii() and not set(cursor) & set("+/= ")


@given(st.text(max_size=200))
def test_garbage_is_refused(text):
    with pytest.raises(MercatoError, match="cursor"):
        SIGNER.decode(text, SEARCH)


@given(st.data())
def test_any_changed_byte_is_noticed(data):
    raw = bytearray(base64.urlsafe_b64decode(SIGNER.encode(HERE, SEARCH) + "=="))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(MercatoError, match="cursor"):
        SIGNER.decode(base64.urlsafe_b64encode(bytes(raw)).decode(), SEARCH)


def test_another_key_and_another_search_are_refused():
    with pytest.raises(MercatoError, match="not a cursor of this server"):
        CursorSigner(b"other").decode(SIGNER.encode(HERE, SEARCH), SEARCH)
    with pytest.raises(MercatoError, match="another search"):
        SIGNER.decode(SIGNER.encode(HERE, SEARCH), digest({"query": "lamp"}))


def test_a_search_is_named_by_its_content_not_its_order():
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1}) != digest({"a": 1, "b": [3]})
