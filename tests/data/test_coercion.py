"""What exports write, and what it means."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mercato.data.coercion import MISSING, coerce, parse_time

TEN = datetime(2026, 11, 1, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("2026-11-01 10:00:00 UTC", TEN),
        ("2026-11-01 10:00:00.250000 UTC", TEN + timedelta(seconds=0.25)),
        ("2026-11-01 10:00 gmt", TEN),
        ("2026-11-01T10:00:00Z", TEN),
        ("2026-11-01 11:00:00 +0100", TEN),
        ("2026/11/01 10:00:00", TEN),
        ("2026/11/1 10:00:00", TEN),
        ("Sun, 01 Nov 2026 10:00:00 GMT", TEN),
        ("20261101T100000Z", TEN),
        ("20261101", TEN.replace(hour=0)),
        ("1793527200", TEN),
        ("1.7935272E+12", TEN),
        (20261101, TEN.replace(hour=0)),
        (20261101.0, TEN.replace(hour=0)),
        (20261101100000, TEN),
        (1793527200, TEN),
        (1793527200000, TEN),
        (1793527200000000, TEN),
        (99999999, datetime(1973, 3, 3, 9, 46, 39, tzinfo=UTC)),  # eight digits that are no date
        (20261101.5, datetime(1970, 8, 23, 12, 5, 1, 500000, tzinfo=UTC)),
    ],
)
def test_a_time_is_read_as_it_was_meant(written: object, read: datetime) -> None:
    assert parse_time(written) == read


@pytest.mark.parametrize("written", ["01/11/2026 10:00", "yesterday", "UTC", "", "2026-13-01 10:00:00 UTC", True, None])
def test_a_time_that_may_be_another_is_refused(written: object) -> None:
    with pytest.raises(ValueError, match="is not an ISO 8601 time or an epoch"):
        parse_time(written)


@given(moment=st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1)), hours=st.integers(-12, 14))
def test_what_is_written_out_is_read_back(moment: datetime, hours: int) -> None:
    zoned = moment.replace(tzinfo=timezone(timedelta(hours=hours)))
    assert parse_time(zoned.isoformat()) == zoned
    assert parse_time(f"{moment:%Y-%m-%d %H:%M:%S} UTC".zfill(23)) == moment.replace(microsecond=0, tzinfo=UTC)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("column", ["title", "brand"])
def test_what_says_that_there_is_nothing_is_nothing(column: str, whole: bool) -> None:
    written = [*MISSING, f" {MISSING[0]} ", "Lamp", "NA", "nothing"]
    values = pa.chunked_array([pa.array(written)]) if whole else written
    found, bad = coerce(column, pa.string(), values)
    assert found.to_pylist() == [None] * (len(MISSING) + 1) + ["Lamp", "NA", "nothing"]
    assert not bad


def test_a_price_that_is_not_there_is_no_wrong_price() -> None:
    found, bad = coerce("price", pa.float64(), ["NULL", "5", r"\N", "nan", "dear"])
    assert found.to_pylist() == [None, 5, None, None, None]
    assert [one.row for one in bad] == [4]


def test_what_people_type_is_a_query() -> None:
    found, _ = coerce("user_query", pa.string(), pa.chunked_array([["nan", "None", "null", "NULL", r"\N", "lamp"]]))
    assert found.to_pylist() == ["nan", "None", "null", None, None, "lamp"]


def test_a_map_says_what_is_missing() -> None:
    found, _ = coerce("brand", pa.string(), ["NULL", "-", "None"], missing=["-"])
    assert found.to_pylist() == ["NULL", None, "None"]
    found, _ = coerce("brand", pa.string(), ["NULL", "-"], missing=[])
    assert found.to_pylist() == ["NULL", "-"]


def test_dictionaries_and_large_strings_are_text_too() -> None:
    for kind in (pa.dictionary(pa.int32(), pa.string()), pa.large_string()):
        values = pa.chunked_array([pa.array(["NULL", "Lamp"]).cast(kind)])
        assert coerce("title", pa.string(), values)[0].to_pylist() == [None, "Lamp"]
