"""Readers of source files: CSV, TSV, JSON, JSON lines and Parquet into columns, no value interpreted yet."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import orjson
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from mercato.errors import MercatoError

Values: TypeAlias = (
    pa.ChunkedArray | list[Any]
)  # a column: Arrow where the file has types, Python objects where it is JSON

csv.field_size_limit(1 << 30)


@dataclass
class Source:
    """A file's rows as columns.

    Attributes:
        path: the file.
        columns: by name, all `rows` long.
        broken: (row, why) of records that could not be read at all; they are not among `columns`.
        numbers: the number in the file of each row of `columns`, from 0.
    """

    path: Path
    columns: dict[str, Values]
    numbers: list[int] | range
    broken: list[tuple[int, str]] = field(default_factory=list)

    def column(self, name: str) -> Values | None:
        """A column by its name or by a path into nested values ("offer.price", "photos.0"); None where absent."""
        if name in self.columns or "." not in name:
            return self.columns.get(name)
        head, *steps = name.split(".")
        if head not in self.columns:
            return None
        found = [_walk(value, steps) for value in self.objects(head) or ()]
        return found if any(value is not None for value in found) else None

    def objects(self, name: str) -> list[Any] | None:
        """`column` as Python objects; MercatoError, with file and column, where its type has none."""
        values = self.column(name)
        try:
            return None if values is None else python_values(values)
        except MercatoError as error:
            raise MercatoError(f"{self.path}, column {name}: {error}") from None

    def keep(self, rows: list[int]) -> Source:
        """The same source with these rows only, in this order."""
        columns = {
            name: values.take(pa.array(rows, pa.int64()))
            if isinstance(values, pa.ChunkedArray)
            else [values[row] for row in rows]
            for name, values in self.columns.items()
        }
        return Source(self.path, columns, [self.numbers[row] for row in rows], self.broken)

    def records(self) -> list[dict[str, Any]]:
        """The rows as dictionaries without their nulls."""
        columns = {name: self.objects(name) or [] for name in self.columns}
        return [
            {name: values[row] for name, values in columns.items() if values[row] is not None}
            for row in range(len(self.numbers))
        ]


def read_source(path: Path) -> Source:
    """Read a .csv, .tsv, .json, .jsonl, .ndjson or .parquet file.

    Raises:
        MercatoError: the file is missing, of another kind, or broken as a whole; the message names it. Single records
            that are broken (a CSV row of another width, a line that is not JSON) are listed in `Source.broken`.
    """
    path = Path(path)
    readers = {
        ".csv": _read_csv,
        ".tsv": _read_csv,
        ".json": _read_json,
        ".jsonl": _read_json,
        ".ndjson": _read_json,
        ".parquet": _read_parquet,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise MercatoError(f"{path}: cannot tell its format; use one of {', '.join(readers)}")
    if not path.is_file():
        raise MercatoError(f"{path}: no such file")
    try:
        return reader(path)
    except (pa.ArrowException, OSError, UnicodeDecodeError, csv.Error) as error:
        raise MercatoError(f"{path}: cannot be read: {error}") from None


def python_values(values: Values) -> list[Any]:
    """A column as Python objects; MercatoError where Arrow cannot express its values in Python."""
    if isinstance(values, list):
        return values
    try:
        if pa.types.is_timestamp(values.type):  # Python has no nanoseconds
            values = values.cast(pa.timestamp("us", values.type.tz), safe=False)
        result: list[Any] = values.to_pylist(maps_as_pydicts="lossy")
    except (pa.ArrowException, ValueError, OverflowError, TypeError, ImportError) as error:
        raise MercatoError(f"values of type {values.type} cannot be read: {error}") from None
    return result


def _read_csv(path: Path) -> Source:
    tab = path.suffix.lower() == ".tsv"
    with path.open(encoding="utf-8-sig", newline="") as file:
        header = next(csv.reader(file, delimiter="\t" if tab else ","), [])
        while file.read(1 << 20):  # all of it must be UTF-8: Arrow would lose a broken row of other bytes
            pass
    if not header:
        raise MercatoError(f"{path}: is empty; its first line must name the columns")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise MercatoError(f"{path}: names a column twice: {', '.join(twice)}")
    broken: list[tuple[int, str]] = []

    def set_aside(row: Any) -> str:
        broken.append((row.number - 2, f"has {row.actual_columns} fields, the header {row.expected_columns}"))
        return "skip"

    table = pyarrow.csv.read_csv(
        path,
        read_options=pyarrow.csv.ReadOptions(use_threads=False),  # only then are broken rows numbered
        parse_options=pyarrow.csv.ParseOptions(
            delimiter="\t" if tab else ",", newlines_in_values=True, invalid_row_handler=set_aside
        ),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types={name: pa.string() for name in header}, null_values=[""], strings_can_be_null=True
        ),
    )
    gone = {row for row, _ in broken}
    numbers = [row for row in range(table.num_rows + len(gone)) if row not in gone]
    return Source(path, dict(zip(table.column_names, table.columns, strict=True)), numbers, broken)


def _read_parquet(path: Path) -> Source:
    table = pq.ParquetFile(path).read()
    return Source(path, dict(zip(table.column_names, table.columns, strict=True)), range(table.num_rows))


def _read_json(path: Path) -> Source:
    content = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    if content.lstrip().startswith(b"["):
        try:
            records = _parse(content)
        except ValueError as error:
            raise MercatoError(f"{path}: not valid JSON: {error}") from None
        return _columns(path, list(enumerate(records)), [])
    records, broken = [], []
    for number, line in enumerate(line for line in content.splitlines() if line.strip()):
        try:
            records.append((number, _parse(line)))
        except ValueError as error:
            broken.append((number, f"is not valid JSON: {error}"))
    return _columns(path, records, broken)


def _columns(path: Path, records: list[tuple[int, Any]], broken: list[tuple[int, str]]) -> Source:
    broken = broken + [(number, "is not a JSON object") for number, record in records if not isinstance(record, dict)]
    records = [(number, record) for number, record in records if isinstance(record, dict)]
    names = dict.fromkeys(name for _, record in records for name in record)
    columns: dict[str, Values] = {name: [record.get(name) for _, record in records] for name in names}
    return Source(path, columns, [number for number, _ in records], sorted(broken))


def _parse(text: bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        try:
            return json.loads(text)  # the NaN and Infinity that Python itself writes
        except RecursionError:
            raise ValueError("it is nested too deeply") from None


def _walk(value: Any, steps: list[str]) -> Any:
    for step in steps:
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value
