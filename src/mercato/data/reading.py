"""Readers of source files: delimited text, JSON, spreadsheets, feeds and Parquet into columns, no value interpreted."""

from __future__ import annotations

import io
import re
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from mercato.data.delimited import Delimited, Quote
from mercato.data.feeds import read_feed
from mercato.data.json_records import Line, json_records
from mercato.data.opening import unpack, utf8
from mercato.data.sheets import read_sheet
from mercato.errors import MercatoError

Values: TypeAlias = (
    pa.ChunkedArray | list[Any]
)  # a column: Arrow where the file has types, Python objects where it is JSON

DELIMITERS = (",", ";", "\t", "|")

_SEP = re.compile(rb"sep=([,;|\t])\r?\n", re.IGNORECASE)
_HEADER = 1 << 16  # bytes in which a header ends
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

    def without_bytes(self) -> Places:
        """The same without bytes, of a text that has others in the file."""
        return Places(self.lines)

    def of(self, row: int) -> tuple[int, int | None]:
        """Line and byte of a row; no byte where the file has others than the text."""
        return self.lines[row], self.offsets[row] if self.offsets else None


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


class Format(NamedTuple):
    """What a map says of how its files are written; what it does not say (None) the file must.

    Attributes:
        quote, escape: see `Delimited`.
        delimiter: between the columns of a .csv, .tsv or .txt file.
        encoding: of its text.
        records: where in a .json file the list of records is.
        sheet: of a spreadsheet.
    """

    quote: Quote | None = None
    escape: bool = False
    delimiter: str | None = None
    encoding: str | None = None
    records: str | None = None
    sheet: str | None = None


_AS_IT_IS = Format()


def read_source(path: Path, written: Format = _AS_IT_IS) -> Source:
    """Read a file of one of `mercato.data.opening.KINDS`, packed or not.

    Raises:
        MercatoError: the file is missing, of another kind, or broken as a whole; the message names it. Single records
            that are broken (a CSV row of another width, a line that is not JSON) are listed in `Source.broken`.
    """
    path = Path(path)
    plain = path.suffix.lower() == ".parquet" and path.is_file()  # read from the disk: it may be large
    kind, content = (".parquet", b"") if plain else unpack(path)
    try:
        if kind == ".parquet":
            return _read_parquet(path, path if plain else pa.BufferReader(content))
        if kind in (".xlsx", ".xls", ".ods"):
            return _read_sheet(path, content, written.sheet)
        if kind == ".xml":
            return _columns(path, [Line(record) for record in read_feed(path, content)])
        text, begin = utf8(path, content, written.encoding)
        if kind in (".csv", ".tsv", ".txt"):
            return _read_delimited(path, text, begin, {".csv": ",", ".tsv": "\t"}.get(kind), written)
        return _read_json(path, text, begin, kind != ".json", written.records)
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


def _read_delimited(path: Path, content: bytes, begin: int | None, usual: str | None, written: Format) -> Source:
    """`begin`: where the text begins in the file, None where its bytes are others there; `usual`: the delimiter."""
    skipped, delimiter = _excels_delimiter(content)
    delimiter = written.delimiter or delimiter or _delimiter(path, content, usual)
    text = Delimited(content[skipped:], delimiter.encode(), written.quote, written.escape)
    _refuse_other_encodings(path, text, skipped + (begin or 0), bool(skipped))
    try:
        header, first = text.header()
    except MercatoError as error:
        raise MercatoError(f"{path}: {error}") from None
    if not header:
        raise MercatoError(f"{path}: is empty; its first line must name the columns")
    header = named_columns(header)
    places, broken, numbers, readable, longest = Places(), [], [], io.BytesIO(), 0
    for number, row in enumerate(text.rows(len(header), first)):
        places.add(row.first + 1 + bool(skipped), text.starts[row.first] + skipped + (begin or 0))
        if row.why is None:
            numbers.append(number)
            longest = max(longest, readable.write(text.plain(row)))
        else:
            broken.append(Broken(number, row.why, _beginning(text.line(row.first))))
    columns = _arrow_columns(readable.getbuffer(), header, delimiter, written.quote, longest)
    if len(columns[header[0]]) != len(numbers):
        raise MercatoError(f"{path}: cannot be read: its {len(numbers)} rows are others to Arrow")
    return Source(path, columns, numbers, broken, places if begin is not None else places.without_bytes())


def _excels_delimiter(content: bytes) -> tuple[int, str | None]:
    """How many bytes a first line "sep=;" has, which Excel writes and reads, and the delimiter that it names."""
    found = _SEP.match(content)
    return (found.end(), found[1].decode()) if found else (0, None)


def _delimiter(path: Path, content: bytes, usual: str | None) -> str:
    """The usual delimiter; where the header has none of these, the one other that it has."""
    header = next((line for line in content[:_HEADER].splitlines() if line.strip()), b"").decode("utf-8", "replace")
    if usual is not None and usual in header:
        return usual
    found = [delimiter for delimiter in DELIMITERS if delimiter in header]
    if len(found) > 1:
        known = " and ".join(map(repr, found))
        raise MercatoError(f"{path}: its header has {known}: say in the map which of them is the delimiter")
    return found[0] if found else usual or ","


def named_columns(header: Sequence[Any]) -> list[str]:
    """Names for all columns: blank ones by their place ("column 3"), repeated ones by a number ("name (2)")."""
    names: dict[str, None] = {}
    for place, given in enumerate(header, 1):
        name = fresh = str("" if given is None else given).strip() or f"column {place}"
        again = count(2)
        while fresh in names:
            fresh = f"{name} ({next(again)})"
        names[fresh] = None
    return [*names]


def _read_sheet(path: Path, content: bytes, sheet: str | None) -> Source:
    rows = read_sheet(path, content, sheet)
    if not rows:
        raise MercatoError(f"{path}: is empty; its first row must name the columns")
    header = named_columns(rows[0])
    rows = [row for row in rows[1:] if any(value is not None for value in row)]
    columns: dict[str, Values] = {name: [row[place] for row in rows] for place, name in enumerate(header)}
    return Source(path, columns, range(len(rows)))


def _arrow_columns(
    content: memoryview, header: list[str], delimiter: str, quote: Quote | None, longest: int
) -> dict[str, Values]:
    """Rows, each of them right, as columns of text."""
    if not content:
        return {name: pa.chunked_array([pa.nulls(0, pa.string())]) for name in header}
    table = pyarrow.csv.read_csv(
        pa.BufferReader(content),
        read_options=pyarrow.csv.ReadOptions(column_names=header, block_size=max(1 << 20, 2 * longest)),
        parse_options=pyarrow.csv.ParseOptions(
            delimiter=delimiter, quote_char=False if quote == "" else '"', newlines_in_values=quote != ""
        ),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types={name: pa.string() for name in header}, null_values=[""], strings_can_be_null=True
        ),
    )
    return dict(zip(table.column_names, table.columns, strict=True))


def _refuse_other_encodings(path: Path, text: Delimited, begin: int, lines: int) -> None:
    """`begin` bytes and so many `lines` of the file come before the text."""
    for first in range(0, len(text.starts) - 1, _LINES):
        start, end = text.starts[first], text.starts[min(first + _LINES, len(text.starts) - 1)]
        try:
            text.content[start:end].decode()
        except UnicodeDecodeError as error:
            at = start + error.start
            where = f"line {lines + bisect_right(text.starts, at)}, byte {begin + at}"
            said = 'save the file in it, or say in the map what it is: encoding = "cp1252" (Windows, western Europe)'
            raise MercatoError(f"{path}: {where}: is not UTF-8: {said}") from None


def _beginning(line: bytes) -> str:
    return line[:_BEGINNING].decode("utf-8", "replace")


def _read_parquet(path: Path, content: Path | pa.BufferReader) -> Source:
    table = pq.ParquetFile(content).read()
    return Source(path, dict(zip(table.column_names, table.columns, strict=True)), range(table.num_rows))


def _read_json(path: Path, content: bytes, begin: int | None, lines: bool, records: str | None) -> Source:
    try:
        found = json_records(content, lines, records)
    except MercatoError as error:
        raise MercatoError(f"{path}: {error}") from None
    return _columns(path, found, begin)


def _columns(path: Path, found: list[Line], begin: int | None = 0) -> Source:
    """Records as columns; `begin`: where the text begins in the file, None where its bytes are others there."""
    broken = []
    for number, record in enumerate(found):
        if record.why is not None:
            value = _beginning(record.value) if isinstance(record.value, bytes) else record.value
            broken.append(Broken(number, record.why, value))
        elif not isinstance(record.value, dict):
            broken.append(Broken(number, "is not a JSON object", record.value))
    gone = {one.row for one in broken}
    records = {number: record.value for number, record in enumerate(found) if number not in gone}
    names = dict.fromkeys(name for record in records.values() for name in record)
    columns: dict[str, Values] = {name: [record.get(name) for record in records.values()] for name in names}
    places = Places()
    for record in found:
        if record.line is not None and record.byte is not None:
            places.add(record.line, record.byte + (begin or 0))
    if begin is None:
        places = places.without_bytes()
    return Source(path, columns, [*records], broken, places if len(places.lines) else None)


def _walk(value: Any, steps: list[str]) -> Any:
    for step in steps:
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value
