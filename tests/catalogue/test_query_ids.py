from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mercato.catalogue.query_ids import QuerySigner

NAME, BEGUN, DAY = "0123456789abcdef01234567", 1_700_000_000, timedelta(days=1)


def signer(key: bytes = b"k" * 32, later: float = 0.0) -> QuerySigner:
    return QuerySigner(key, lambda: BEGUN + later)


@given(st.text(max_size=40), st.text(max_size=40))
def test_a_query_id_says_what_was_searched_for(query: str, other: str) -> None:
    query_id = signer().sign(NAME, BEGUN, query)
    found = signer().read(query_id, DAY)
    assert found and found.begun == BEGUN and found.asked_for(query) and found.asked_for(f"  {query} ")
    assert found.asked_for(other) == (signer().sign(NAME, BEGUN, other) == query_id)
    assert query_id == signer().sign(NAME, BEGUN, query) and query_id.startswith(NAME) and len(query_id) == 53


@given(st.integers(0, 52), st.sampled_from("0123456789abcdefghijkl-_ABC"))
def test_a_query_id_that_was_changed_is_none(place: int, character: str) -> None:
    query_id = signer().sign(NAME, BEGUN, "lamp")
    changed = query_id[:place] + character + query_id[place + 1 :]
    assert (signer().read(changed, DAY) is None) == (changed != query_id)


@given(st.text() | st.none())
def test_what_somebody_made_up_is_none(text: str | None) -> None:
    assert signer().read(text, DAY) is None


@pytest.mark.parametrize(("later", "known"), [(-301, False), (-300, True), (0, True), (86_400, True), (86_401, False)])
def test_a_query_id_holds_for_its_lifetime(later: float, known: bool) -> None:
    query_id = signer().sign(NAME, BEGUN, "lamp")
    assert (signer(later=later).read(query_id, DAY) is not None) == known


def test_one_of_another_key_is_none() -> None:
    assert signer(b"other").read(signer().sign(NAME, BEGUN, "lamp"), DAY) is None
