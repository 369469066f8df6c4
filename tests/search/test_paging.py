from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mercato.errors import ExpiredError, MercatoError
from mercato.search.paging import CURSOR_SECONDS, Cursor, CursorSigner, digest, shown_as

SIGNER = CursorSigner(b"k" * 32)
HERE = Cursor("0123456789abcdef01234567", 1_700_000_000, 1, frozenset(map(shown_as, ("product-7", "product-8"))))
SEARCH = digest({"query": "sofa"})

cursors = st.builds(
    Cursor,
    query_id=st.text("0123456789abcdef", min_size=24, max_size=24),
    as_of=st.integers(0, 2**32 - 1),
    pages=st.integers(0, 1000),
    shown=st.frozensets(st.binary(min_size=8, max_size=8), max_size=40),
)


@given(cursors)
def test_a_cursor_comes_back_as_it_was(cursor):
    text = SIGNER.encode(cursor, SEARCH)
    assert SIGNER.decode(text, SEARCH) == cursor
    assert text.isascii() and not set(text) & set("+/= ")


def test_a_cursor_comes_back_whatever_letter_it_ends_with():
    for last in range(64):
        shown = frozenset((bytes(8), bytes([1] * 8), bytes([2] * 7 + [last])))  # of three no padding follows
        cursor = Cursor(HERE.query_id, HERE.as_of, 1, shown)
        assert SIGNER.decode(SIGNER.encode(cursor, SEARCH), SEARCH) == cursor


def test_a_cursor_of_the_deepest_page_is_as_long_as_a_request_allows():
    shown = Cursor(HERE.query_id, HERE.as_of, 42, frozenset()).and_shown(f"product-{number}" for number in range(1000))
    assert len(shown.shown) == 1000 and shown.pages == 43
    assert len(SIGNER.encode(shown, SEARCH)) <= 10_800


@given(st.text(max_size=200))
def test_garbage_is_refused(text):
    with pytest.raises(MercatoError, match="cursor"):
        SIGNER.decode(text, SEARCH)


@pytest.mark.parametrize("letter", [" ", "\n", "*"])
def test_a_letter_that_no_cursor_has_is_refused(letter):
    """Though base64 would read over it."""
    with pytest.raises(MercatoError, match="not a cursor of this server"):
        SIGNER.decode(SIGNER.encode(HERE, SEARCH) + letter * 4, SEARCH)


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


def test_a_cursor_expires():
    now = [1_000_000.0]
    signer = CursorSigner(b"k" * 32, clock=lambda: now[0])
    text = signer.encode(HERE, SEARCH)
    now[0] += CURSOR_SECONDS
    assert signer.decode(text, SEARCH) == HERE
    now[0] += 1
    with pytest.raises(ExpiredError, match="too old"):
        signer.decode(text, SEARCH)


def test_a_search_is_named_by_its_content_not_its_order():
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1}) != digest({"a": 1, "b": [3]})
