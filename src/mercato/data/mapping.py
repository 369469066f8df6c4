"""The import map: a small TOML file that says which of a file's columns is which of a market's."""

from __future__ import annotations

import codecs
import hashlib
import tomllib
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal, Self

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from mercato.data.delimited import Quote
from mercato.data.market import MarketConfig
from mercato.data.normalize import normalize
from mercato.data.prices import DecimalMark
from mercato.data.reading import Format, Source
from mercato.data.schema import IMPORTED, TABLES
from mercato.errors import MercatoError

Scalar = bool | int | float | str


class Sample(BaseModel):
    """Keep the rows whose `by` value hashes into [from, to): whole queries, or whatever `by` is, always the same."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: str
    start: float = Field(0.0, alias="from", ge=0, le=1)
    stop: float = Field(1.0, alias="to", ge=0, le=1)

    def holds(self, value: Any) -> bool:
        """Whether a value is in the sample; spellings of one query fall together."""
        digest = hashlib.blake2b(normalize(str(value)).encode(), digest_size=8).digest()
        return self.start <= int.from_bytes(digest) / 2**64 < self.stop


class Section(BaseModel):
    """What the map says about one table, or about one of its files."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rename: dict[str, str] = {}  # our column = "theirs", or "path.into.theirs"
    constant: dict[str, Scalar] = {}  # our column = value, wherever the file has none
    scale: dict[str, float] = {}  # our column = factor (price = 0.01 where the file has cents)
    values: dict[str, dict[str, Scalar]] = {}  # our column = { theirs = ours }
    attributes: tuple[str, ...] = ()  # their columns to gather into the attributes map
    where: dict[str, Scalar | list[Scalar]] = {}  # their column = the value(s) of the rows to keep
    sample: Sample | None = None
    decimal: DecimalMark | None = None  # of prices; None: that of the column's other prices
    missing: tuple[str, ...] | None = None  # texts that say that there is no value; None: the usual ones
    quote: Quote | None = None  # of CSV and TSV: what encloses a field; None: '"', but not over what look like rows
    escape: Literal["\\"] | None = None  # of CSV and TSV: before a quote within quotes
    delimiter: Literal[",", ";", "\t", "|"] | None = None  # of CSV and TSV; None: as the header shows
    encoding: str | None = None  # of text; None: UTF-8, or UTF-16 and UTF-32 that say so
    records: str | None = None  # of JSON: the path to the list of records
    sheet: str | None = None  # of a spreadsheet; None: the first

    @field_validator("encoding")
    @classmethod
    def _is_known(cls, encoding: str | None) -> str | None:
        if encoding is not None:
            try:
                codecs.lookup(encoding)
            except LookupError:
                raise ValueError(
                    f"{encoding} is no encoding that Python knows: cp1252, latin-1, shift_jis, …"
                ) from None
        return encoding

    @property
    def written(self) -> Format:
        """How the files are written."""
        return Format(self.quote, self.escape is not None, self.delimiter, self.encoding, self.records, self.sheet)

    def over(self, base: Section) -> Section:
        """This section laid over a more general one."""
        merged: dict[str, Any] = {}
        for name in Section.model_fields:
            mine, theirs = getattr(self, name), getattr(base, name)
            given = mine or (name in ("missing", "quote") and mine is not None)  # none at all is an answer
            merged[name] = {**theirs, **mine} if isinstance(mine, dict) else mine if given else theirs
        return Section.model_construct(**merged)

    def source_of(self, column: str) -> str:
        """The file's name for one of our columns."""
        return self.rename.get(column, column)

    def select(self, source: Source) -> Source:
        """The rows of a source that `where` and `sample` let through."""
        rows = list(range(len(source.numbers)))
        for column, wanted in self.where.items():
            texts = {_plain(value) for value in (wanted if isinstance(wanted, list) else [wanted])}
            values = _column(source, column)
            rows = [row for row in rows if values[row] is not None and _plain(values[row]) in texts]
        if self.sample is not None:
            values = _column(source, self.source_of(self.sample.by))
            rows = [row for row in rows if values[row] is not None and self.sample.holds(values[row])]
        return source if len(rows) == len(source.numbers) else source.keep(rows)


@dataclass(frozen=True)
class ImportMap:
    """`market` settings, and for each table its sections: "*" for all its files, a file name or glob for some."""

    market: MarketConfig | None = None
    sections: dict[str, dict[str, Section]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a map.

        Raises:
            MercatoError: it is missing, is not TOML, or has a wrong field; the message names the field.
        """
        try:
            content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise MercatoError(f"{path}: cannot be read as TOML: {error}") from None
        try:
            market = MarketConfig.model_validate(content.pop("market")) if "market" in content else None
            sections = {table: _sections(table, content.pop(table)) for table in IMPORTED if table in content}
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise MercatoError(f"{path}: {problems}") from None
        except ValueError as error:
            raise MercatoError(f"{path}: {error}") from None
        if content:
            raise MercatoError(f"{path}: unknown section {', '.join(content)}; there are market, {', '.join(IMPORTED)}")
        return cls(market, sections)

    def section(self, table: str, file: Path) -> Section:
        """What the map says about one file of a table; a file's own section goes over the table's."""
        result = Section()
        for glob, section in self.sections.get(table, {}).items():
            if fnmatch(file.name, glob):
                result = section.over(result)
        return result

    def refuse_unused(self, table: str, files: list[Path]) -> None:
        """MercatoError where a section names a file that is not among those given (most likely a typo)."""
        for glob in self.sections.get(table, {}):
            if files and not any(fnmatch(file.name, glob) for file in files):
                given = ", ".join(file.name for file in files)
                raise MercatoError(f'the map has a section [{table}."{glob}"], but the {table} files are {given}')


class _Table(Section):
    """A table's section as written: its own fields, plus sub-sections by file name."""

    model_config = ConfigDict(frozen=True, extra="allow")

    @model_validator(mode="after")
    def _files_are_sections(self) -> Self:
        for name, value in (self.model_extra or {}).items():
            if not isinstance(value, dict):
                raise ValueError(f"unknown field {name}; there are {', '.join(Section.model_fields)}")
        return self


def _sections(table: str, content: Any) -> dict[str, Section]:
    whole = _Table.model_validate(content)
    sections = {"*": Section.model_construct(**{name: getattr(whole, name) for name in Section.model_fields})}
    sections |= {glob: Section.model_validate(part) for glob, part in (whole.model_extra or {}).items()}
    schema = TABLES[table]
    for section in sections.values():
        for name in {*section.rename, *section.constant, *section.scale, *section.values}:
            if name not in schema.names:
                raise ValueError(f"{table} has no column {name}; it has {', '.join(schema.names)}")
        for name in section.scale:
            if schema.field(name).type != pa.float64():
                raise ValueError(f"{table}.scale: {name} is not a number")
        for name in {*section.constant, *section.values}:
            if pa.types.is_nested(schema.field(name).type):
                raise ValueError(f"{table}: {name} is a list or a map and cannot have a constant or values")
    return sections


def _column(source: Source, name: str) -> list[Any]:
    values = source.objects(name)
    if values is None:
        raise missing_column(source, name)
    return values


def missing_column(source: Source, name: str) -> MercatoError:
    """The error for a column that the map names and the file lacks."""
    return MercatoError(f"the map names {name!r} of {source.path}; the file has {', '.join(source.columns)}")


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
