from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mercato.data.checking import check
from mercato.data.id_forms import other_form
from mercato.data.mining import mine
from mercato.errors import MercatoError
from tests.data.test_mining import ONE_SESSION, event, market_of


@pytest.mark.parametrize(
    ("stranger", "known", "how"),
    [
        ("00123", "123", "leading zeros"),
        ("123", "00123", "leading zeros"),
        ("123.0", "123", "a decimal point"),
        ("123", "123.00", "a decimal point"),
        ("1.2E+05", "120000", "scientific notation"),
        ("120000", "1.2e5", "scientific notation"),
        ("1.23457E+11", "123456789012", "scientific notation"),  # as a spreadsheet shows it: the rest is gone
        ("123456789012", "1.23457E+11", "scientific notation"),
        ("0", "000", "leading zeros"),
    ],
)
def test_an_id_that_was_taken_for_a_number_is_known_again(stranger: str, known: str, how: str) -> None:
    other = other_form([stranger, "lamp"], ["chair", known])
    assert other is not None and other.ids == {stranger}
    assert f"({how}: {stranger!r} here, {known!r} there)" in str(other)


@pytest.mark.parametrize(
    ("stranger", "known"),
    [("124", "123"), ("123.5", "123"), ("a00123", "a123"), ("1.23457E+11", "123446789012"), ("12E5", "1234567")],
)
def test_other_ids_are_strangers(stranger: str, known: str) -> None:
    assert other_form([stranger], [known]) is None


def test_check_says_it_in_one_sentence_and_lists_only_other_strangers(tmp_path: Path) -> None:
    log = [event(n, "click", f"{n}.0") for n in range(1, 8)] + [event(9, "click", "gone")]
    market_of(tmp_path, log)
    pq.write_table(
        pa.table({"product_id": [str(n) for n in range(1, 8)], "title": ["lamp"] * 7}), tmp_path / "products.parquet"
    )
    told = [p for p in check(tmp_path) if p.table == "events" and p.column == "product_id"]
    assert [(p.row, p.severity) for p in told] == [(None, "error"), (7, "warning")]
    assert "7 rows have ids that the products table has in another form" in told[0].why
    assert "'1.0' here, '1' there" in told[0].why and "dtype=str" in told[0].why


def test_mine_says_it_where_it_drops_the_pairs(tmp_path: Path) -> None:
    market = market_of(tmp_path, [event(0, "impression", "007"), event(0, "impression", "8")], ONE_SESSION)
    for ids, found in (["7"], None), (["7", "8"], 1):
        pq.write_table(pa.table({"product_id": ids, "title": ["lamp"] * len(ids)}), tmp_path / "products.parquet")
        if found is None:
            with pytest.raises(MercatoError, match=r"of 2 pairs 2 .*'007' here, '7' there.*dtype=str"):
                mine(market)
        else:
            (lost,) = mine(market).funnel.steps[-1].lost
            assert lost.count == 1 and "'007' here, '7' there" in lost.do
