"""Readers of source files: CSV, TSV, JSON, JSON lines and Parquet into columns, no value interpreted yet."""

from __future__ import annotations

import io
import json
from array import array
from bisect import bisect_right
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import orjson
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from mercato.data.delimited import Delimited, Quote
from mercato.errors import MercatoError

Values: TypeAlias = (
    pa.ChunkedArray | list[Any]
)  # a column: Arrow where the file has types, Python objects where it is JSON

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LINES = 4096  # decoded at a time
_BEGINNING = 400  # bytes of a row that is set aside, more than any message shows


class Broken(NamedTuple):
    """A row that could not be read at all: its number in the file, why, and what stands there."""

    row: int
    why: str
    value: Any


class Aside(NamedTuple):
    """A value that reading had to set aside, of a row that can be read without it."""

    row: int
    field: str
    why: str
    value: Any


@dataclass
class Places:
    """Where each row of a file begins: its line, from 1, and its byte, from 0."""

    lines: array[int] = field(default_factory=lambda: array("q"))
    offsets: array[int] = field(default_factory=lambda: array("q"))

    def add(self, line: int, offset: int) -> None:
        """The place of the next row."""
        self.lines.append(line)
        self.offsets.append(offset)

    def of(self, row: int) -> tuple[int, int]:
        """Line and byte of a row."""
        return self.lines[row], self.offsets[row]


@dataclass
class Source:
    """A file's rows as columns.

    Attributes:
        path: the file.
        columns: by name, all `rows` long.
        numbers: the number in the file of each row of `columns`, from 0.
        broken: the rows that are not among `columns`, as they could not be read.
        places: by the number of a row, of files that have lines.
        aside: values that are not among `columns`, though their rows are.
    """

    path: Path
    columns: dict[str, Values]
    numbers: list[int] | range
    broken: list[Broken] = field(default_factory=list)
    places: Places | None = None
    aside: list[Aside] = field(default_factory=list)

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
        return replace(self, columns=columns, numbers=[self.numbers[row] for row in rows])

    def records(self) -> list[dict[str, Any]]:
        """The rows as dictionaries without their nulls."""
        columns = {name: self.objects(name) or [] for name in self.columns}
        return [
            {name: values[row] for name, values in columns.items() if values[row] is not None}
            for row in range(len(self.numbers))
        ]


def read_source(path: Path, quote: Quote | None = None, escape: bool = False) -> Source:
    """Read a .csv, .tsv, .json, .jsonl, .ndjson or .parquet file; `quote` and `escape` are for CSV and TSV.

    Raises:
        MercatoError: the file is missing, of another kind, or broken as a whole; the message names it. Single records
            that are broken (a CSV row of another width, a line that is not JSON) are listed in `Source.broken`.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in (kinds := (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet")):
        raise MercatoError(f"{path}: cannot tell its format; use one of {', '.join(kinds)}")
    if not path.is_file():
        raise MercatoError(f"{path}: no such file")
    try:
        if kind == ".parquet":
            return _read_parquet(path)
        if kind in (".csv", ".tsv"):
            return _read_delimited(path, b"\t" if kind == ".tsv" else b",", quote, escape)
        return _read_json(path)
    except (pa.ArrowException, OSError) as error:
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


def _read_delimited(path: Path, delimiter: bytes, quote: Quote | None, escape: bool) -> Source:
    content = path.read_bytes()
    mark = len(_BYTE_ORDER_MARK) if content.startswith(_BYTE_ORDER_MARK) else 0
    text = Delimited(content[mark:], delimiter, quote, escape)
    _refuse_other_encodings(path, text, mark)
    try:
        header, first = text.header()
    except MercatoError as error:
        raise MercatoError(f"{path}: {error}") from None
    if not header:
        raise MercatoError(f"{path}: is empty; its first line must name the columns")
    if twice := sorted({name for name in header if header.count(name) > 1}):
        raise MercatoError(f"{path}: names a column twice: {', '.join(twice)}")
    places, broken, numbers, readable, longest = Places(), [], [], io.BytesIO(), 0
    for number, row in enumerate(text.rows(len(header), first)):
        places.add(row.first + 1, text.starts[row.first] + mark)
        if row.why is None:
            numbers.append(number)
            longest = max(longest, readable.write(text.plain(row)))
        else:
            broken.append(Broken(number, row.why, _beginning(text.line(row.first))))
    columns = _arrow_columns(readable.getbuffer(), header, delimiter, quote, longest)
    if len(columns[header[0]]) != len(numbers):
        raise MercatoError(f"{path}: cannot be read: its {len(numbers)} rows are others to Arrow")
    return Source(path, columns, numbers, broken, places)


def _arrow_columns(
    content: memoryview, header: list[str], delimiter: bytes, quote: Quote | None, longest: int
) -> dict[str, Values]:
    """Rows, each of them right, as columns of text."""
    if not content:
        return {name: pa.chunked_array([pa.nulls(0, pa.string())]) for name in header}
    table = pyarrow.csv.read_csv(
        pa.BufferReader(content),
        read_options=pyarrow.csv.ReadOptions(column_names=header, block_size=max(1 << 20, 2 * longest)),
        parse_options=pyarrow.csv.ParseOptions(
            delimiter=delimiter.decode(), quote_char=False if quote == "" else '"', newlines_in_values=quote != ""
        ),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types={name: pa.string() for name in header}, null_values=[""], strings_can_be_null=True
        ),
    )
    return dict(zip(table.column_names, table.columns, strict=True))


def _refuse_other_encodings(path: Path, text: Delimited, mark: int) -> None:
    for first in range(0, len(text.starts) - 1, _LINES):
        start, end = text.starts[first], text.starts[min(first + _LINES, len(text.starts) - 1)]
        try:
            text.content[start:end].decode()
        except UnicodeDecodeError as error:
            at = start + error.start
            where = f"line {bisect_right(text.starts, at)}, byte {mark + at}"
            raise MercatoError(f"{path}: {where}: is not UTF-8: save the file in it") from None


def _beginning(line: bytes) -> str:
    return line[:_BEGINNING].decode("utf-8", "replace")


def _read_parquet(path: Path) -> Source:
    table = pq.ParquetFile(path).read()
    return Source(path, dict(zip(table.column_names, table.columns, strict=True)), range(table.num_rows))


def _read_json(path: Path) -> Source:
    content = path.read_bytes()
    mark = len(_BYTE_ORDER_MARK) if content.startswith(_BYTE_ORDER_MARK) else 0
    if content[mark:].lstrip().startswith(b"["):
        try:
            records = _parse(content[mark:])
        except ValueError as error:
            raise MercatoError(f"{path}: not valid JSON: {error}") from None
        return _columns(path, list(enumerate(records)), [], None)
    objects, broken, places, offset = [], [], Places(), mark
    for line_number, line in enumerate(content[mark:].splitlines(keepends=True), 1):
        if line.strip():
            places.add(line_number, offset)
            try:
                objects.append((len(places.lines) - 1, _parse(line)))
            except ValueError as error:
                why = f"is not valid JSON: {getattr(error, 'msg', error)}"
                broken.append(Broken(len(places.lines) - 1, why, _beginning(line.strip())))
        offset += len(line)
    return _columns(path, objects, broken, places)


def _columns(path: Path, records: list[tuple[int, Any]], broken: list[Broken], places: Places | None) -> Source:
    broken += [Broken(n, "is not a JSON object", record) for n, record in records if not isinstance(record, dict)]
    records = [(number, record) for number, record in records if isinstance(record, dict)]
    names = dict.fromkeys(name for _, record in records for name in record)
    columns: dict[str, Values] = {name: [record.get(name) for _, record in records] for name in names}
    broken.sort(key=lambda one: one.row)
    return Source(path, columns, [number for number, _ in records], broken, places)


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
