"""`mercato check`: validation of a market: every problem by table, row and column."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mercato.data.coercion import shorten, shorten_at
from mercato.data.id_forms import other_form
from mercato.data.images import read_image
from mercato.data.live import is_live
from mercato.data.market import Market
from mercato.data.normalize import normalize
from mercato.data.query_rules import RULES, read_rules
from mercato.data.rules import violations
from mercato.data.schema import REQUIRED, TABLES
from mercato.errors import MercatoError
from mercato.progress import track

Severity = Literal["error", "warning"]

LISTED = 5  # rows listed one by one of each kind of problem; the rest are counted
KEPT = {
    *(("products", "image_embeddings"), ("events", "action_name"), ("judgments", "query"), ("judgments", "split")),
    *(("lists", "list_id"), ("lists", "query"), ("intents", "query"), ("intents", "country")),
}
BATCH = 512  # rows of images in memory at a time


@dataclass(frozen=True)
class Problem:
    """A problem of a market.

    Attributes:
        table: the table's name, or "market" for `market.toml` and the folder itself.
        row: the row in the table (all its files in name order), from 0; None where it is about the whole column.
        column: the column; None where it is about the whole table.
        why: what is wrong, beginning after "column …".
        severity: an "error" stops a command or loses data later on; a "warning" may be meant.
        file: the Parquet file.
    """

    table: str
    row: int | None
    column: str | None
    why: str
    severity: Severity = "error"
    file: str | None = None

    def __str__(self) -> str:
        where = [f"table {self.table}" if self.table in TABLES else self.table]
        where += [f"row {self.row:,}"] if self.row is not None else []
        where += [f"column {self.column}"] if self.column else []
        where += [f"({self.file})"] if self.file else []
        return f"{self.severity}: {', '.join(where)}: {self.why}"


def check(folder: Path) -> list[Problem]:
    """Find every problem in a market folder. Problems of one kind are listed for five rows, the rest as a count.

    Never raises on what a folder may hold: what cannot be read is a problem too.
    """
    folder = Path(folder)
    try:
        market = Market.open(folder)
    except MercatoError as error:
        return [Problem("market", None, None, str(error))]
    tables = {name: _Table(market, name) for name in TABLES if market.has(name)}
    for table in tables.values():
        table.check()
    if "products" not in tables:
        return [
            Problem("market", None, None, "has no products table (products.parquet or products/*.parquet)"),
            *(problem for table in tables.values() for problem in table.problems),
        ]
    products = tables["products"]
    products.check_ids()
    products.check_images()
    products.check_embeddings()
    for name in ("events", "judgments", "pairs", "lists", "features"):
        if name in tables:
            tables[name].check_known(products.seen_ids)
    if "judgments" in tables:
        tables["judgments"].check_splits()
    if "lists" in tables:
        tables["lists"].check_once("product_id", "is in this list twice", ("list_id", "product_id"))
        tables["lists"].check_one("query", "is not that of this list's first row", "list_id")
    if "intents" in tables:
        tables["intents"].check_once("query", "has an intent in this country already", ("query", "country"))
    if "events" in tables:
        tables["events"].check_chain(market.config.engagement.chain)
    return [*_rule_problems(folder, products.seen_ids), *(each for table in tables.values() for each in table.problems)]


def _rule_problems(folder: Path, known: set[str]) -> Iterator[Problem]:
    """What is wrong with the rules; a product that they name may be one that the API has written."""
    try:
        rules = read_rules(folder)
    except MercatoError as error:
        yield Problem("market", None, None, str(error))
        return
    unknown = [
        f"rule {number}, field {field_}: {product_id!r} is not in the products table"
        for number, rule in enumerate(rules.values(), 1)
        for field_, ids in (("pin", rule.pin), ("bury", rule.bury))
        for product_id in ids
        if product_id not in known
    ]
    if (more := len(unknown) - LISTED) > 0:
        unknown[LISTED:] = [f"and {more:,} more products that the rules name"]
    yield from (Problem("market", None, None, why, "warning", RULES) for why in unknown)


@dataclass
class _Table:
    """One table under examination; the columns that are valid are kept for the checks between tables."""

    market: Market
    name: str
    problems: list[Problem] = field(default_factory=list)
    seen_ids: set[str] = field(default_factory=set)
    files: list[tuple[Path, int, int]] = field(default_factory=list)  # file, its first row in the table, its rows
    with_images: list[Path] = field(default_factory=list)  # files whose images column can be read
    kept: dict[str, list[tuple[int, pa.ChunkedArray]]] = field(default_factory=dict)  # column → (first row, values)

    def check(self) -> None:
        """Types, missing and impossible values, file by file."""
        start, empty = 0, dict.fromkeys(TABLES[self.name].names, True)
        for file in self.market.files(self.name):
            try:
                parquet = pq.ParquetFile(file)
                rows, names = parquet.metadata.num_rows, parquet.schema_arrow.names
            except (pa.ArrowException, OSError, ValueError) as error:
                self._add(None, None, f"cannot be read as Parquet: {error}", file)
                continue
            self.files.append((file, start, rows))
            for name in names:
                if name not in TABLES[self.name].names:
                    self._add(None, name, "is not a column of this table and is ignored", file, "warning")
                elif names.count(name) > 1:
                    self._add(None, name, "occurs twice in the file", file)
            for column in TABLES[self.name]:
                if names.count(column.name) > 1:
                    continue
                values = self._read(parquet, file, column) if column.name in names else None
                if values is None:
                    if column.name not in names and column.name in REQUIRED[self.name]:
                        self._add(None, column.name, "is missing", file)
                    continue
                empty[column.name] &= values.null_count == len(values)
                self._check_values(column.name, values, start, file)
            start += rows
        if start == 0 and self.files:
            self._add(None, None, "has no rows")
        for name, all_null in empty.items():
            if all_null and name in self.kept and start and name not in REQUIRED[self.name]:
                self._add(None, name, "has no value in any row", severity="warning")

    def _read(self, parquet: pq.ParquetFile, file: Path, column: pa.Field) -> pa.ChunkedArray | None:
        """A column in its schema's type; None, and a problem, where that cannot be."""
        if column.name == "images":  # images are read a few rows at a time, in `check_images`
            found = parquet.schema_arrow.field(column.name).type
            try:
                pa.nulls(1, found).cast(column.type)
                self.with_images.append(file)
            except (pa.ArrowException, ValueError):
                self._add(None, column.name, f"is {found}, must be {column.type}", file)
            return None
        try:
            values = parquet.read(columns=[column.name]).column(column.name)
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            self._add(None, column.name, f"cannot be read: {error}", file)
            return None
        try:
            values.validate(full=True)
            return values.cast(column.type)
        except (pa.ArrowException, ValueError) as error:
            why = f"is {values.type}, must be {column.type}"
            self._add(None, column.name, why if values.type != column.type else f"is damaged: {error}", file)
            return None

    def _check_values(self, name: str, values: pa.ChunkedArray, start: int, file: Path) -> None:
        if name in REQUIRED[self.name] and values.null_count:
            missing = np.flatnonzero(pc.is_null(values).combine_chunks().to_numpy(zero_copy_only=False))
            self._rows(name, "has no value", missing, start, file)
        for why, rows in violations(self.name, name, values):
            self._rows(name, why, rows, start, file, show=values)
        wanted = (self.name, name) in KEPT or name == "product_id"
        self.kept.setdefault(name, []).append((start, values if wanted else values.slice(0, 0)))

    def check_ids(self) -> None:
        """Product ids that occur twice; what the API wrote is no second row, but stands for that of the table."""
        written = {start for file, start, rows in self.files if rows and is_live(file)}
        twice, imported = [], set[str]()
        for start, values in self.kept.get("product_id", []):
            ids = values.to_pylist()
            self.seen_ids.update(product_id for product_id in ids if product_id is not None)
            for row, product_id in enumerate(() if start in written else ids, start):
                if product_id in imported:
                    twice.append((row, product_id))
                elif product_id is not None:
                    imported.add(product_id)
        self._list("product_id", "is given to an earlier product too", twice)

    def check_known(self, known: set[str]) -> None:
        """Product ids that the catalogue does not have: lost judgments and pairs, but normal in a log of sold items."""
        catalogue = pa.array(sorted(known), pa.string())
        strangers = []
        for start, values in self.kept.get("product_id", []):
            unknown = pc.and_(pc.is_valid(values), pc.invert(pc.is_in(values, catalogue))).combine_chunks()
            rows = np.flatnonzero(unknown.to_numpy(zero_copy_only=False))
            strangers += [(start + int(row), values[int(row)].as_py()) for row in rows]
        if other := other_form({product_id for _, product_id in strangers}, known):
            gone = [(row, product_id) for row, product_id in strangers if product_id not in other.ids]
            self._add(None, "product_id", f"{len(strangers) - len(gone):,} rows have {other}")
            strangers = gone
        severity: Severity = "warning" if self.name in ("events", "features") else "error"
        self._list("product_id", "is not in the products table", strangers, severity)

    def check_splits(self) -> None:
        """Queries judged both for validation, at which early stopping looks, and for the test."""
        splits = {start: values.to_pylist() for start, values in self.kept.get("split", []) if len(values)}
        first: dict[str, dict[str, int]] = {"validation": {}, "test": {}}
        for start, values in self.kept.get("query", []):
            of = splits.get(start, [None] * len(values))
            for row, (query, split) in enumerate(zip(values.to_pylist(), of, strict=True), start):
                if query is not None:
                    first.setdefault(split or "test", {}).setdefault(normalize(query), row)
        both = [(row, query) for query, row in first["validation"].items() if query in first["test"]]
        self._list("query", "is judged for validation and for the test", both, "warning")

    def check_once(self, column: str, why: str, keys: tuple[str, ...]) -> None:
        """Rows that repeat an earlier one in all of `keys`."""
        rows = self._together(keys)
        self._show(column, why, rows.filter(_others(rows, keys)))

    def check_one(self, column: str, why: str, key: str) -> None:
        """Rows whose `column` differs from that of the first row with their `key`."""
        rows = self._together((key, column))
        different = rows.filter(pc.invert(_others(rows, (key, column))))  # each value of each key once
        self._show(column, why, different.filter(_others(different, (key,))))

    def _together(self, columns: tuple[str, ...]) -> pa.Table:
        """Some of the kept columns and the number of each row ("row"), without rows that lack the first of them."""
        parts = []
        for _, start, rows in self.files:
            kept = {name: [of for at, of in self.kept.get(name, []) if at == start and len(of)] for name in columns}
            missing = pa.nulls(rows, pa.string())
            found = {name: values[0] if values else missing for name, values in kept.items()}
            parts.append(pa.table({**found, "row": np.arange(start, start + rows)}))
        return pa.concat_tables(parts).filter(pc.field(columns[0]).is_valid())

    def _show(self, column: str, why: str, wrong: pa.Table) -> None:
        self._list(column, why, list(zip(wrong["row"].to_pylist(), wrong[column].to_pylist(), strict=True)))

    def check_chain(self, chain: Iterable[str]) -> None:
        """Actions of market.toml's engagement chain that no event has."""
        if "action_name" not in self.kept:
            return
        done = {action for _, values in self.kept["action_name"] for action in pc.unique(values).to_pylist()}
        for action in chain:
            if action not in done:
                why = f"never is {action!r}, a step of market.toml's engagement chain: nothing can be mined"
                self._add(None, "action_name", why)

    def check_embeddings(self) -> None:
        """Vectors of one length, all finite, across the table."""
        expected, unequal, not_finite = None, [], []
        for start, values in self.kept.get("image_embeddings", []):
            for chunk in values.chunks:
                vectors, products = chunk.flatten(), pc.list_parent_indices(chunk).to_numpy() + start
                sizes = pc.fill_null(pc.list_value_length(vectors), 0).to_numpy()
                if expected is None and len(sizes):
                    expected = int(sizes[0])
                unequal += [(int(products[i]), int(sizes[i])) for i in np.flatnonzero(sizes != expected)]
                finite = np.isfinite(pc.fill_null(vectors.flatten(), np.nan).to_numpy())
                owners = pc.list_parent_indices(vectors).to_numpy()
                not_finite += [(int(products[i]), None) for i in np.unique(owners[~finite])]
                start += len(chunk)
        self._list("image_embeddings", f"has a vector whose length is not {expected}, the first one's", unequal)
        self._list("image_embeddings", "has NaN or infinite numbers", not_finite)

    def check_images(self) -> None:
        """Images: every one is decoded whole, on the machine's cores (two at most)."""
        broken: list[tuple[int, str]] = []
        total = sum(rows for file, _, rows in self.files if file in self.with_images)
        if not total:
            return
        with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
            for row, why in track(self._image_problems(pool), "check images", total):
                broken += [(row, why)] if why else []
        for why in dict.fromkeys(why for _, why in broken):
            self._list("images", why, [(row, None) for row, its in broken if its == why])

    def _image_problems(self, pool: ThreadPoolExecutor) -> Iterator[tuple[int, str | None]]:
        """(row, problem or None) of every product."""
        kind = TABLES[self.name].field("images").type
        for file, start, _ in self.files:
            if file not in self.with_images:
                continue
            try:
                for batch in pq.ParquetFile(file).iter_batches(BATCH, columns=["images"]):
                    images = batch.column(0).cast(kind).to_pylist()
                    yield from enumerate(pool.map(partial(_image_problem, self.market.path), images), start)
                    start += len(images)
            except (pa.ArrowException, OSError, ValueError) as error:
                yield start, f"cannot be read: {error}"

    def _rows(
        self, name: str, why: str, rows: Any, start: int, file: Path, show: pa.ChunkedArray | None = None
    ) -> None:
        """Problems at some rows of one file."""
        found = [(start + int(row), None if show is None else shorten_at(show, int(row))) for row in rows[:LISTED]]
        self._list(name, why, found, more=len(rows) - len(found), file=file)

    def _list(
        self,
        column: str,
        why: str,
        rows: list[tuple[int, Any]],
        severity: Severity = "error",
        more: int = 0,
        file: Path | None = None,
    ) -> None:
        """The first few rows of one kind of problem, and a count of the others."""
        for row, value in rows[:LISTED]:
            self._add(row, column, why if value is None else f"{why}: {shorten(value)!r}", file, severity)
        more += max(0, len(rows) - LISTED)
        if more:
            self._add(None, column, f"{why} (and {more:,} more rows)", file, severity)

    def _add(
        self, row: int | None, column: str | None, why: str, file: Path | None = None, severity: Severity = "error"
    ) -> None:
        if file is None and row is not None:
            file = next((of for of, start, rows in self.files if start <= row < start + rows), None)
        self.problems.append(Problem(self.name, row, column, why, severity, file.name if file else None))


def _others(rows: pa.Table, keys: tuple[str, ...]) -> pa.Array:
    """Which rows are not the first with their keys."""
    first = rows.group_by(list(keys)).aggregate([("row", "min")])["row_min"]
    return pc.invert(pc.is_in(rows["row"], value_set=first))


def _image_problem(market: Path, images: list[dict[str, Any] | None] | None) -> str | None:
    """What is wrong with a product's images: the first one that cannot be read."""
    for image in images or ():
        try:
            read_image(market, image or {})
        except MercatoError as error:
            return str(error)
    return None
