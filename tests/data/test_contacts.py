from __future__ import annotations

import pytest

from mercato.data.contacts import contacts_in


@pytest.mark.parametrize(
    ("query", "countries"),
    [
        ("ana maria +49 170 1234567", []),
        ("sofa 2125551234", ["us"]),
        ("(212) 555-1234", ["us"]),
        ("call 0170-1234567", ["us", "de"]),
        ("0612345678", ["fr"]),
        ("٠٦١٢٣٤٥٦٧٨", ["fr"]),
        ("bob.smith@example.com lamp", []),
    ],
)
def test_contact_data_is_found(query: str, countries: list[str]) -> None:
    assert contacts_in(query, countries)


@pytest.mark.parametrize(
    "query",
    [
        *("iphone 15 pro max 256", "rtx 3080 10gb 2023 320", "lego 75192 75105", "bmw 320d 2009 150000 km"),
        *("9780132350884", "4006381333931", "110/70-17 120/70-17", "shop @ home", "2020 2021 2022", "lamp"),
    ],
)
def test_models_sizes_and_bar_codes_are_none(query: str) -> None:
    assert not contacts_in(query, ["us", "de", "fr", "zz"])


def test_a_number_of_another_country_is_none() -> None:
    assert contacts_in("0612345678", ["fr"]) == ["0612345678"]
    assert contacts_in("0612345678", ["us"]) == contacts_in("0612345678") == []
