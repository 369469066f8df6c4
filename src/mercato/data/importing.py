"""`mercato import`: a stranger's files → a market, whole or not at all, with every loss counted and written down."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Group
from rich.markup import escape
from rich.table import Table as RichTable

from mercato.data.coercion import MISSING, coerce, shorten, shorten_at
from mercato.data.images import inside
from mercato.data.mapping import ImportMap, Section, missing_column
from mercato.data.market import MarketConfig, atomic_market, write_market_toml
from mercato.data.prices import price_currency
from mercato.data.reading import Places, Source, Values, read_source
from mercato.data.rules import RECEIVED, violations
from mercato.data.schema import IMAGE, OF_SERVERS, REQUIRED, TABLES
from mercato.data.ubi import located_source, looks_like_ubi, stand_in
from mercato.errors import MercatoError
from mercato.progress import track

REJECTED = "rejected.jsonl"


class Loss(NamedTuple):
    """A loss: what of the source is not in the market, a value (the row is kept without it) or a whole row."""

    table: str
    file: str
    row: int  # in the source file, from 0
    line: int | None  # that it begins in, from 1, of files that have lines
    byte: int | None  # that it begins at, from 0
    field: str | None
    reason: str
    value: str | None
    row_kept: bool


@dataclass
class ImportReport:
    """The result of an import: rows read and kept a table, and each loss with its reason (as in `rejected.jsonl`)."""

    folder: Path
    read: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)  # by the map's `where` and `sample`
    kept: Counter[str] = field(default_factory=Counter)
    losses: list[Loss] = field(default_factory=list)
    read_as: dict[str, str] = field(default_factory=dict)  # events file → "UBI" or "flat columns"
    repeated_in_file: int = 0  # product rows whose id the same file had given before
    repeated_across_files: int = 0  # product rows whose id an earlier file had given
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """The report for `--json`."""
        return {
            "market": str(self.folder),
            "tables": {
                table: {
                    "read": self.read[table],
                    "left_out_by_map": self.left_out[table],
                    "kept": self.kept[table],
                    "rejected": sum(loss.table == table and not loss.row_kept for loss in self.losses),
                }
                for table in TABLES
                if table in self.read
            },
            "events_read_as": self.read_as,
            "repeated_products": {"in_one_file": self.repeated_in_file, "across_files": self.repeated_across_files},
            "losses": [
                {"table": table, "field": name, "reason": reason, "row_kept": kept, "count": count}
                for (table, name, reason, kept), count in self._tally()
            ],
            "seconds": round(self.seconds, 2),
        }

    def __rich__(self) -> Group:
        grid = RichTable("table", "read", "kept", "what was lost", title="what was read")
        for table in (name for name in TABLES if name in self.read):
            lost = [
                f"{count:,} {'values dropped' if kept else 'rows left out'}: {name or 'row'} {reason}"
                for (of, name, reason, kept), count in self._tally()
                if of == table
            ]
            if self.left_out[table]:
                lost.append(f"{self.left_out[table]:,} rows left out by the map")
            if table == "products" and self.repeated_in_file:
                lost.append(f"{self.repeated_in_file:,} rows repeat a product of the same file (the first is kept)")
            if table == "products" and self.repeated_across_files:
                lost.append(f"{self.repeated_across_files:,} rows repeat a product of an earlier file")
            grid.add_row(table, f"{self.read[table]:,}", f"{self.kept[table]:,}", escape("\n".join(lost)))
        said = [f"imported into {self.folder}"]
        said += [f"{file}: read as {how}" for file, how in self.read_as.items()]
        said += [f"{self.seconds:.1f} s" + (f"; every loss is in {REJECTED}" if self.losses else "")]
        return Group(grid, escape("\n".join(said)))  # no caption: it would be wrapped as narrow as the table

    def _tally(self) -> list[tuple[tuple[str, str | None, str, bool], int]]:
        return Counter((loss.table, loss.field, loss.reason, loss.row_kept) for loss in self.losses).most_common()


def import_market(
    folder: Path,
    products: list[Path],
    events: list[Path] | None = None,
    judgments: list[Path] | None = None,
    pairs: list[Path] | None = None,
    mapping: Path | None = None,
    name: str | None = None,
) -> ImportReport:
    """Read CSV, TSV, JSON, JSON lines, UBI or Parquet files into a market folder, whole or not at all.

    A bad optional value is dropped and its row kept; a row without a required value is left out; a product id seen
    before is left to its first row. All are counted in the report, and all but repeats written to `rejected.jsonl` in
    the market. Images given as paths (relative to their file) are copied into the market.

    Args:
        folder: the market to write. An existing market is replaced, unless it is served or holds what the API wrote;
            any other folder with content is refused.
        products, events, judgments, pairs: files of each table, in order.
        mapping: an import map (docs/data.md); without one, columns that bear schema names are taken.
        name: the market's name; by default the map's, else the folder's.

    Raises:
        MercatoError: a file or the map cannot be read, a required column is missing (names file and column), or no row
            of a file can be kept; or `folder` may not be replaced.
    """
    started = time.perf_counter()
    folder = Path(folder)
    sources = {"products": products, "events": events, "judgments": judgments, "pairs": pairs}
    files = {table: [Path(file) for file in given or ()] for table, given in sources.items()}
    plan = ImportMap() if mapping is None else ImportMap.read(mapping)
    _refuse_sources_inside(folder, [file for given in files.values() for file in given])
    report = ImportReport(folder)
    config = plan.market or MarketConfig(name=folder.resolve().name)
    if name is not None:
        config = config.model_copy(update={"name": name})
    for table, given in files.items():
        plan.refuse_unused(table, given)
    with atomic_market(folder) as fresh:
        jobs = [(table, number, file) for table, given in files.items() for number, file in enumerate(given)]
        parts: dict[str, list[pa.Table]] = {}
        for table, number, file in track(jobs, "import"):
            one = _File(table, file, fresh / "images" / str(number), plan.section(table, file), report)
            rows, losses = report.read[table], len(report.losses)
            parts.setdefault(table, []).append(one.read())
            if (rows := report.read[table] - rows) and not parts[table][-1].num_rows:
                _refuse_none(table, file, rows, report.losses[losses:])
        if not sum(part.num_rows for part in parts.get("products", [])):
            raise MercatoError("no product could be imported: the files have no rows")
        for table, tables in parts.items():
            whole = _first_of_each(tables, report) if table == "products" else pa.concat_tables(tables)
            report.kept[table] = whole.num_rows
            whole = whole.select(
                [n for n in whole.column_names if whole[n].null_count < len(whole) or n in REQUIRED[table]]
            )
            pq.write_table(whole, fresh / f"{table}.parquet", compression="zstd", row_group_size=8192)
            if plan.market is None and table == "products" and "currency" in whole.column_names:
                commonest = Counter(whole["currency"].drop_null().to_pylist()).most_common(1)[0][0]
                config = config.model_copy(update={"currency": commonest})
        if report.losses:
            with (fresh / REJECTED).open("w", encoding="utf-8") as out:
                out.writelines(json.dumps(loss._asdict(), ensure_ascii=False) + "\n" for loss in report.losses)
        write_market_toml(fresh, config)
    report.seconds = time.perf_counter() - started
    return report


@dataclass
class _File:
    """One source file on its way into one table."""

    table: str
    path: Path
    images: Path
    section: Section
    report: ImportReport
    places: Places | None = None

    def read(self) -> pa.Table:
        source = read_source(self.path, self.section.written)
        ubi = self.table == "events" and looks_like_ubi(source.columns)
        if self.table == "events":
            self.report.read_as[str(self.path)] = "UBI" if ubi else "flat columns"
        if ubi:
            source = located_source(source, self.section)
            self.section = self.section.model_copy(update={"rename": {}})
        self.places = source.places
        self.report.read[self.table] += len(source.numbers) + len(source.broken)
        for row, why, value in source.broken:
            self._lose(row, None, why, shorten(value), kept=False)
        chosen = self.section.select(source)
        self.report.left_out[self.table] += len(source.numbers) - len(chosen.numbers)
        schema = TABLES[self.table]
        dropped: dict[str, dict[int, tuple[str, str]]] = {}
        columns: dict[str, pa.ChunkedArray] = {}
        for column in schema:
            columns[column.name], dropped[column.name] = self._column(chosen, column)
        if ubi:
            who = [columns[name].to_pylist() for name in ("session_id", "client_id", "query_id")]
            sessions = [None if n in dropped["session_id"] else one for n, one in enumerate(stand_in(*who))]
            columns["session_id"] = pa.chunked_array([pa.array(sessions, pa.string())])
        keep = np.ones(len(chosen.numbers), bool)
        for name in REQUIRED[self.table]:
            missing = pc.is_null(columns[name]).combine_chunks().to_numpy(zero_copy_only=False)
            for row in np.flatnonzero(missing & keep).tolist():
                why, value = dropped[name].get(row, ("is missing", None))
                self._lose(chosen.numbers[row], name, why, value, kept=False)
                keep[row] = False
        for name, bad in dropped.items():
            for row, (why, value) in bad.items():
                if keep[row]:
                    self._lose(chosen.numbers[row], name, why, value, kept=True)
        kept = {number for number, kept in zip(chosen.numbers, keep, strict=True) if kept} if chosen.aside else ()
        for number, name, why, value in chosen.aside:
            if number in kept:
                self._lose(number, name, why, shorten(value), kept=True)
        whole = pa.table(columns, schema=schema)
        return whole if keep.all() else whole.filter(pa.array(keep))

    def _column(self, source: Source, column: pa.Field) -> tuple[pa.ChunkedArray, dict[int, tuple[str, str]]]:
        """One column of the schema, and the values that had to be dropped: row → (why, value)."""
        name = column.name
        try:
            result, bad = coerce(name, column.type, self._given(source, column), self._missing, self.section.decimal)
        except MercatoError as error:
            raise MercatoError(f"{self.path}, column {name}: {error}") from None
        dropped = {one.row: (one.why, one.value) for one in bad}
        if name == "currency" and (prices := source.objects(self.section.source_of("price"))) is not None:
            result = pc.coalesce(result, pa.array(map(price_currency, prices), pa.string()))
        if name in self.section.scale:
            result = pc.multiply(result, self.section.scale[name])
        if name == "images":
            result = self._copy_images(result, dropped)
        for why, wrong in violations(self.table, name, result):
            for row in wrong.tolist():
                dropped.setdefault(row, (why, shorten_at(result, row)))
        if dropped and name != "images":  # a product keeps its other images
            gone = np.zeros(len(result), bool)
            gone[list(dropped)] = True
            result = _without(result, gone)
        if name in self.section.constant:
            constant = self.section.constant[name]
            filler, wrong_constant = coerce(name, column.type, [constant])
            if wrong_constant or any(True for _ in violations(self.table, name, filler)):
                raise MercatoError(f"the map's constant {name} = {constant!r} cannot be a {self.table} {name}")
            result = pc.fill_null(result, filler[0])
        return result, dropped

    def _is_of_a_server(self, source: Source) -> bool:
        """Whether a log is one that a server wrote, with what it knows of the senders."""
        known = self.section.values.get("received", {})
        said = source.objects(self.section.source_of("received")) or ()
        return any(known.get(str(value), value) in RECEIVED for value in said)

    @property
    def _missing(self) -> Sequence[str]:
        return MISSING if self.section.missing is None else self.section.missing

    def _given(self, source: Source, column: pa.Field) -> Values:
        """What the file has for one of our columns, all nulls where it has none."""
        name = column.name
        theirs = self.section.source_of(name)
        values = source.column(theirs)
        if self.table == "events" and name in OF_SERVERS and not self._is_of_a_server(source):
            values = None  # somebody else's word for something else
        elif values is None and name in self.section.rename:
            raise missing_column(source, theirs)
        if name == "attributes" and self.section.attributes:
            return self._gather(source, values)
        if values is None:
            if name in REQUIRED[self.table] and name not in self.section.constant and source.numbers:
                raise MercatoError(
                    f"there is none, and {self.table} need it; the file has {', '.join(source.columns)}."
                    f' Say which it is in a map: [{self.table}] rename = {{ {name} = "…" }}'
                )
            return pa.chunked_array([pa.nulls(len(source.numbers), column.type)])
        if name in self.section.values:
            known = self.section.values[name]
            return [known.get(str(value), value) for value in source.objects(theirs) or ()]
        return values

    def _gather(self, source: Source, own: Any) -> list[dict[str, Any]]:
        """The attributes map from its own column, if any, and the columns that the map names."""
        gathered: list[dict[str, Any]] = [{} for _ in source.numbers]
        if own is not None:
            given, _ = coerce("attributes", TABLES["products"].field("attributes").type, own, self._missing)
            gathered = [dict(value or ()) for value in given.to_pylist()]
        for name in self.section.attributes:
            values = source.objects(name)
            if values is None:
                raise missing_column(source, name)
            for attributes, value in zip(gathered, values, strict=True):
                if value is not None and not (isinstance(value, str) and value.strip() in self._missing):
                    attributes[name.rpartition(".")[2]] = value
        return gathered

    def _copy_images(self, images: pa.ChunkedArray, dropped: dict[int, tuple[str, str]]) -> pa.ChunkedArray:
        """Copy images given as paths into the market and point to the copies."""
        flat = pc.list_flatten(images)
        if not pc.any(pc.is_null(pc.struct_field(flat, "bytes"))).as_py():
            return images
        rows = images.to_pylist()
        for row, of_product in enumerate(rows):
            kept = []
            for image in of_product or ():
                if image is None:
                    continue
                try:
                    kept.append(image if image["bytes"] is not None else self._copied(image["path"]))
                except (MercatoError, OSError) as error:
                    dropped[row] = (str(error), shorten(image["path"] or ""))
            rows[row] = None if of_product is None else kept
        return pa.chunked_array([pa.array(rows, pa.list_(IMAGE))])

    def _copied(self, path: str | None) -> dict[str, Any]:
        if path is None:
            raise MercatoError("has neither bytes nor a path")
        found = inside(self.path.parent, path)
        if not found.is_file():
            raise MercatoError("is not the path of a file")
        target = self.images / found.relative_to(self.path.parent.resolve())
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(found, target)
        return {"bytes": None, "path": str(target.relative_to(self.images.parent.parent))}

    def _lose(self, row: int, name: str | None, why: str, value: str | None, *, kept: bool) -> None:
        line, byte = self.places.of(int(row)) if self.places else (None, None)
        self.report.losses.append(Loss(self.table, self.path.name, int(row), line, byte, name, why, value, kept))


def _without(values: pa.ChunkedArray, gone: np.ndarray[Any, Any]) -> pa.ChunkedArray:
    """The column with nulls at the marked rows, for any type."""
    rows = np.arange(len(values))
    return values.take(pa.array(rows, mask=gone))


def _first_of_each(tables: list[pa.Table], report: ImportReport) -> pa.Table:
    """Concatenate product tables, keeping the first row of each product id."""
    earlier: set[str] = set()
    parts = []
    for table in tables:
        here: set[str] = set()
        keep = []
        for product_id in table["product_id"].to_pylist():
            keep.append(product_id not in earlier and product_id not in here)
            report.repeated_across_files += product_id in earlier
            report.repeated_in_file += product_id not in earlier and product_id in here
            here.add(product_id)
        earlier |= here
        parts.append(table if all(keep) else table.filter(pa.array(keep)))
    return pa.concat_tables(parts)


def _refuse_none(table: str, file: Path, rows: int, losses: Sequence[Loss]) -> None:
    """Refuse a file none of whose rows was kept; `losses` are this file's."""
    gone = [loss for loss in losses if not loss.row_kept]
    if not gone:
        raise MercatoError(f"{file}: the map's [{table}] (where, sample) leaves out all of its {rows:,} rows")
    (name, why), count = Counter((loss.field, loss.reason) for loss in gone).most_common(1)[0]
    first = next(loss for loss in gone if (loss.field, loss.reason) == (name, why))
    line = f"line {first.line}, byte {first.byte}, " if first.line else ""
    said = "" if first.value is None else f": {first.value!r}"
    mend = (
        f" In a map's [{table}], rename says which column {name} is, constant what stands for it, values what it means"
    )
    raise MercatoError(
        f"{file}: none of its {rows:,} rows can be kept: {line}row {first.row}, {name or 'record'}: {why}{said}"
        f" ({count:,} such rows).{mend if name else ''}"
    )


def _refuse_sources_inside(folder: Path, sources: list[Path]) -> None:
    """Replacing a market must never remove a file that is being imported."""
    for source in sources:
        if source.resolve().is_relative_to(folder.resolve()):
            raise MercatoError(f"{source} lies inside {folder}, which the import would replace; give another folder")
