"""Any table at all, imported, checked, read and mined: a clear error or a problem, never a crash or half a market."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mercato.data.checking import Problem, check
from mercato.data.importing import import_market
from mercato.data.market import Market, MarketConfig, write_market_toml
from mercato.data.mining import mine
from mercato.data.schema import IMPORTED, REQUIRED, TABLES
from mercato.errors import MercatoError
from tests.support.chaos import times

pytestmark = pytest.mark.chaos

wild = settings(max_examples=times(80, 1_000), suppress_health_check=[HealthCheck.function_scoped_fixture])

TEXT = st.sampled_from(
    ["", " ", "1", "lamp", "../../etc/passwd", "/etc/passwd", "NaN", "US", "a\0b", "\u202e", "{}", "[1]", "x" * 300]
)
VALUES: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.string(): TEXT,
    pa.large_string(): TEXT,
    pa.dictionary(pa.int8(), pa.string()): TEXT,
    pa.binary(): st.binary(max_size=4),
    pa.bool_(): st.booleans(),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.uint64(): st.integers(0, 2**64 - 1),
    pa.float64(): st.floats(),
    pa.float32(): st.floats(width=32),
    pa.decimal128(9, 2): st.decimals(-9, 9, places=2),
    pa.date32(): st.dates(),
    pa.time64("us"): st.times(),
    pa.timestamp("s"): st.integers(-(2**52), 2**52),
    pa.timestamp("ns", "UTC"): st.integers(-(2**62), 2**62),
    pa.duration("s"): st.integers(-9, 9),
    pa.null(): st.none(),
    pa.list_(pa.string()): st.lists(TEXT, max_size=2),
    pa.list_(pa.float32()): st.lists(st.none() | st.floats(width=32), max_size=3),
    pa.list_(pa.float64()): st.lists(st.floats(), max_size=3),
    pa.list_(pa.list_(pa.float32())): st.lists(st.lists(st.none() | st.floats(width=32), max_size=2), max_size=2),
    pa.struct([("bytes", pa.binary()), ("path", pa.string())]): st.fixed_dictionaries(
        {"bytes": st.none() | st.binary(max_size=3), "path": st.none() | TEXT}
    ),
    pa.list_(pa.struct([("path", pa.string()), ("bytes", pa.binary())])): st.lists(
        st.none() | st.fixed_dictionaries({"bytes": st.none() | st.binary(max_size=3), "path": st.none() | TEXT}),
        max_size=2,
    ),
    pa.map_(pa.string(), pa.string()): st.dictionaries(TEXT, st.none() | TEXT, max_size=2).map(
        lambda m: list(m.items())
    ),
    pa.struct([("a", pa.int64())]): st.fixed_dictionaries({"a": st.none() | st.integers(0, 9)}),
}

TIMES = st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1)).map(lambda moment: moment.replace(tzinfo=UTC))
PHOTOS = VALUES[pa.list_(pa.struct([("path", pa.string()), ("bytes", pa.binary())]))]


@st.composite
def tables(draw: st.DrawFn, name: str) -> pa.Table:
    """A table with some columns of a schema, of right or wrong types, and perhaps a stranger's."""
    rows = draw(st.integers(0, 5))
    optional = draw(st.lists(st.sampled_from([*TABLES[name].names, "colour"]), max_size=4))
    columns: dict[str, pa.Array] = {}
    for column in dict.fromkeys([*(REQUIRED[name] if draw(st.integers(0, 9)) else ()), *optional]):
        proper = column in TABLES[name].names and draw(st.booleans())
        kind = TABLES[name].field(column).type if proper else draw(st.sampled_from(list(VALUES)))
        strategy = VALUES.get(kind, PHOTOS if pa.types.is_list(kind) else TIMES)
        values = draw(st.lists(st.none() | strategy, min_size=rows, max_size=rows))
        columns[column] = pa.array(values, kind)
    return pa.table(columns)


@wild
@given(data=st.data(), name=st.sampled_from(IMPORTED))
def test_any_table_is_imported_or_refused_whole(tmp_path: Path, data: st.DataObject, name: str) -> None:
    work = tmp_path / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    pq.write_table(pa.table({"product_id": ["1"], "title": ["lamp"]}), work / "good.parquet")
    pq.write_table(data.draw(tables(name)), work / "wild.parquet")
    files = {"products": [work / "good.parquet"]}
    files.setdefault(name, []).insert(0, work / "wild.parquet")
    try:
        report = import_market(work / "market", **files)
    except MercatoError as error:
        assert "wild.parquet" in str(error)
        assert sorted(path.name for path in work.iterdir()) == ["good.parquet", "wild.parquet"]
        return
    lost = sum(not loss.row_kept for loss in report.losses) + report.repeated_in_file + report.repeated_across_files
    assert sum(report.read.values()) == sum(report.kept.values()) + lost
    for table in report.kept:
        assert Market.open(work / "market").arrow(table).num_rows == report.kept[table]
    imported = {(p.column, p.why.split(":")[0]) for p in check(work / "market") if p.severity == "error"}
    assert {column for column, _ in imported} <= {"images", "image_embeddings", "product_id", "action_name", None}


@wild
@given(data=st.data())
def test_any_market_is_checked_read_and_mined_without_a_crash(tmp_path: Path, data: st.DataObject) -> None:
    folder = tmp_path / "market"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    write_market_toml(folder, MarketConfig())
    for name in data.draw(st.lists(st.sampled_from(list(TABLES)), unique=True, max_size=3)):
        pq.write_table(data.draw(tables(name)), folder / f"{name}.parquet")
    problems = check(folder)
    assert all(isinstance(problem, Problem) and str(problem) for problem in problems)
    market = Market.open(folder)
    for name in TABLES:
        try:
            market.arrow(name)
        except MercatoError as error:
            reported = {problem.column for problem in problems if problem.table == name} | {None}
            assert not market.has(name) or any(f"column {column}" in str(error) for column in reported)
    try:
        mine(market)
    except MercatoError:
        assert not (folder / "pairs.parquet").exists() or market.has("pairs")


@wild
@given(content=st.binary(max_size=80), suffix=st.sampled_from(["csv", "tsv", "json", "jsonl", "parquet"]))
def test_any_bytes_are_a_table_or_a_clear_error(tmp_path: Path, content: bytes, suffix: str) -> None:
    file = tmp_path / f"wild.{suffix}"
    file.write_bytes((b"product_id,title\n" if suffix == "csv" else b"") + content)
    shutil.rmtree(tmp_path / "market", ignore_errors=True)
    try:
        import_market(tmp_path / "market", [file])
    except MercatoError:
        assert [path.name for path in tmp_path.iterdir() if not path.name.startswith("wild")] == []
