"""Prices as shops, people and exports write them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mercato.data.coercion import coerce
from mercato.data.importing import import_market
from mercato.data.prices import DecimalMark, price_currency

COMMAS, POINTS = ["19,99 €"], ["19.99"]  # what else stands in the column


def read(text: str, *others: str, decimal: DecimalMark | None = None) -> float | None:
    found, _ = coerce("price", pa.float64(), [text, *others, "no price"], decimal=decimal)
    price: float | None = found[0].as_py()
    return price


@pytest.mark.parametrize(
    ("text", "price", "currency"),
    [
        ("15.00 USD", 15.0, "USD"),
        ("eur 12.50", 12.5, "EUR"),
        ("$12.50 CAD", 12.5, "CAD"),
        ("CHF 49.90", 49.9, "CHF"),
        ("19,99 €", 19.99, "EUR"),
        ("1.299,00 €", 1299.0, "EUR"),
        ("1\u202f299,00 €", 1299.0, "EUR"),
        ("1 299 299,00 €", 1299299.0, "EUR"),
        ("1'299.50", 1299.5, None),
        ("R$ 1.299,90", 1299.9, "BRL"),
        ("49,00 zł", 49.0, "PLN"),
        ("￥1,980", 1980.0, None),
        ("JPY 1.980", 1980.0, "JPY"),
        ("$5", 5.0, None),
        ("US$ 1,000.50", 1000.5, None),
        ("kr 5", 5.0, None),
        ("5,-- €", 5.0, "EUR"),
        (".5", 0.5, None),
        ("1e3", 1000.0, None),
        ("-3", -3.0, None),
        ("1,299", 1299.0, None),
        ("1.299.000", 1299000.0, None),
        ("1.299,000", 1299.0, None),
        ("0.999", 0.999, None),
        ("1234.567 USD", 1234.567, "USD"),
        ("10.00 - 25.00", 10.0, None),
        ("10,00 € – 25,00 €", 10.0, "EUR"),
        ("12.69||151.5", 12.69, None),
    ],
)
def test_a_price_is_what_was_meant(text: str, price: float, currency: str | None) -> None:
    assert read(text) == price
    assert price_currency(text) == currency


@pytest.mark.parametrize(
    "text",
    [
        "Free",
        "1,2,3",
        "12.34.56",
        "1.29,9.9",
        "5 pcs",
        "5 apples",
        "€",
        "12 34",
        "1,23.4,5",
        "",
        "9" * 61,
        "1" + " " * 99,
    ],
)
def test_what_is_no_price_is_none(text: str) -> None:
    assert read(text) is None
    assert price_currency(text) is None


def test_thousands_or_decimals_is_told_by_the_others() -> None:
    assert read("1.299 €", *COMMAS) == 1299
    assert read("1,299", *COMMAS) == 1.299
    assert read("1,299", *POINTS) == 1299
    assert read("1.299 €", *POINTS) == 1.299
    assert read("1.299", "5") == 1.299, "a number and nothing else is a number"


def test_where_nothing_tells_it_is_set_aside_with_what_to_say() -> None:
    for others in ([], [*COMMAS, *POINTS]):
        found, bad = coerce("price", pa.float64(), ["1.299 €", *others])
        assert found[0].as_py() is None
        assert bad[0].row == 0 and 'say decimal = "." or "," in the map' in bad[0].why
    assert read("1,299", *COMMAS, *POINTS) is None
    assert read("1.299 €", decimal=",") == 1299
    assert read("1.299 €", *COMMAS, decimal=".") == 1.299


@given(
    cents=st.integers(0, 10**9),
    style=st.sampled_from([(",", "."), (".", ","), ("\u00a0", ","), ("'", "."), ("", ".")]),
    money=st.sampled_from(["{} €", "€{}", "EUR {}", "{} kr", "{}"]),
)
def test_what_is_written_out_in_cents_is_read_back(cents: int, style: tuple[str, str], money: str) -> None:
    thousands, mark = style
    text = f"{cents // 100:,}".replace(",", thousands) + f"{mark}{cents % 100:02}"
    assert read(money.format(text)) == pytest.approx(cents / 100, rel=1e-12)


@given(text=st.text(max_size=70), others=st.lists(st.text(max_size=9), max_size=3))
def test_any_text_is_a_price_or_set_aside(text: str, others: list[str]) -> None:
    found, bad = coerce("price", pa.float64(), [text, *others])
    assert len(found) == 1 + len(others)
    assert all(one.why for one in bad)


def test_an_import_takes_the_currency_from_the_price(tmp_path: Path) -> None:
    file, plan = tmp_path / "products.csv", tmp_path / "map.toml"
    file.write_text('product_id,title,price,currency\na,Lamp,"1.299 €",\nb,Rug,"19,99 EUR",USD\nc,Bed,5,\n')
    plan.write_text('[products]\nconstant = { currency = "CHF" }\ndecimal = ","\n')
    import_market(tmp_path / "market", [file], mapping=plan)
    rows = pq.read_table(tmp_path / "market" / "products.parquet").to_pylist()
    assert [(row["price"], row["currency"]) for row in rows] == [(1299, "EUR"), (19.99, "USD"), (5, "CHF")]
