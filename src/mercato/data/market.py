"""A market: a folder with `market.toml` and Parquet tables, each `TABLE.parquet` or a folder `TABLE/*.parquet`."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import pyarrow.parquet as pq
import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from mercato.data.live import is_live, product_snapshots, split_merged
from mercato.data.query_rules import RULES
from mercato.data.schema import LOGGED, REQUIRED, TABLES
from mercato.errors import MercatoError
from mercato.files import atomic_directory, ensure_replaceable, market_lock, write_atomic

if TYPE_CHECKING:
    import polars as pl

MARKET = "market.toml"
CATALOGUE = "catalogue.sqlite"  # what the API acknowledged, beside the tables
_NO_STEPS = {"search", "impression"}


class Caps(BaseModel):
    """How much of the log one client or address can make in a day (UTC): more comes of robots and of click fraud."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    client_searches: int = Field(default=500, ge=1)  # of a client, else a session
    address_searches: int = Field(default=5000, ge=1)  # of an address from which events come without a key
    search_products: int = Field(default=240, ge=1)  # of one search that came without a key: as many as it can show


class Engagement(BaseModel):
    """What counts as an engagement: a chain of actions of one session and query, in order, within a window."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    chain: tuple[str, ...] = Field(default=("search", "click", "message", "seller_reply"), min_length=1)
    window_hours: float = Field(default=24.0, gt=0)
    attribution_window_hours: float | None = Field(default=None, ge=0)  # None: window_hours; 0: nothing is attributed
    min_sessions: int = Field(default=3, ge=1)  # of as many people at least (privacy floor): clients, else sessions
    caps: Caps = Caps()
    mine_unsigned: bool = False  # events that came without a key and without a query id that a server signed
    left: Literal["negative", "ignored", "graded"] = "negative"  # what a chain that was begun and left says of a pair
    validation_days: int = Field(default=2, ge=0)
    future_days: int = Field(default=3, ge=0)

    @field_validator("chain")
    @classmethod
    def _steps_differ(cls, chain: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(chain)) < len(chain):
            raise ValueError("names an action twice; each step must be another action")
        if not set(chain) - _NO_STEPS:
            raise ValueError("has no step that a searcher takes on a product: click, message, purchase, …")
        return chain

    @property
    def steps(self) -> tuple[str, ...]:
        """What of the chain a searcher does to a product: all but the search and the display. `depth` counts them."""
        return tuple(action for action in self.chain if action not in _NO_STEPS)

    @property
    def attribution_hours(self) -> float:
        """How long after a click a step without a query id is put down to it; 0: never."""
        return self.window_hours if self.attribution_window_hours is None else self.attribution_window_hours


class MarketConfig(BaseModel):
    """The content of `market.toml`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "market"
    currency: str = "USD"
    relevant_grade: float = 1.0  # a judgment of at least this grade is a relevant one (for ROC AUC, recall)
    retention_days: int | None = Field(default=None, ge=1)  # how long what the server logs is kept; None: for good
    engagement: Engagement = Engagement()


@dataclass(frozen=True)
class Market:
    """A market on disk. Tables are read on demand and come with every column of their schema, absent ones as nulls."""

    path: Path
    config: MarketConfig

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open a market folder.

        Raises:
            MercatoError: the folder or its `market.toml` is missing or wrong; the message names the field.
        """
        path = Path(path)
        file = path / MARKET
        if not file.is_file():
            raise MercatoError(f"{path} is not a market: it has no market.toml (make one with `mercato import`)")
        try:
            return cls(path, MarketConfig.model_validate(tomllib.loads(file.read_text(encoding="utf-8"))))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise MercatoError(f"{file}: not valid TOML: {error}") from None
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise MercatoError(f"{file}: {problems}") from None

    def files(self, table: str) -> list[Path]:
        """The Parquet files of a table in name order; empty where the market has no such table.

        Of the products, those that the API wrote come first, for their rows stand for the ones of the same id.
        """
        single, folder = self.path / f"{table}.parquet", self.path / table
        files = ([single] if single.is_file() else []) + (sorted(folder.glob("*.parquet")) if folder.is_dir() else [])
        if table == "products":
            written = [self._written] if self._written else []
            return written + [file for file in files if not is_live(file)]
        merged = set(split_merged(files)[1])
        return [file for file in files if file not in merged]

    def imported_files(self, table: str) -> list[Path]:
        """`files` without those that a server wrote, or that were read from its catalogue."""
        return [file for file in self.files(table) if not is_live(file)]

    def as_imported(self) -> Self:
        """The same market without what the API wrote."""
        imported = replace(self)
        imported.__dict__["_written"] = None
        return imported

    @cached_property
    def _written(self) -> Path | None:
        """What the API wrote, as it was read last: of one market all see the same, whatever is read meanwhile."""
        return next(reversed(product_snapshots(self.path / "products")), None)

    def has(self, table: str) -> bool:
        """Whether the market holds this table."""
        return bool(self.files(table))

    def arrow(self, table: str, columns: list[str] | None = None) -> pa.Table:
        """Read a table in its schema (`mercato.data.schema`), optionally some columns only, rows in file order.

        Of a product that the API wrote there is that row alone.

        Raises:
            MercatoError: the table is missing, lacks a required column or has a column of another type.
        """
        wanted, files = _fields(table, columns), self._present(table)
        if table != "products" or self._written is None:
            return pa.concat_tables([read_file(file, table, wanted) for file in files])
        written, *others = ((file, read_file(file, table, _fields(table, ["product_id"])).column(0)) for file in files)
        parts = [read_file(written[0], table, wanted)]
        for file, ids in others:
            parts.append(read_file(file, table, wanted).filter(pc.invert(pc.is_in(ids, written[1]))))
        return pa.concat_tables(parts)

    def scan(self, table: str, columns: list[str] | None = None) -> pyarrow.dataset.Dataset:
        """`arrow` for a table that need not fit in memory: nothing but the files' schemas is read yet.

        Of products it has every row; of those with one id the first stands.

        Raises:
            MercatoError: as `arrow`; a value that cannot be turned into the schema's type is found by the reader only.
        """
        wanted, files = _fields(table, columns), self._present(table)
        for file in files:
            present = _schema(file, table)
            _check_columns(file, table, wanted, present)
            for field in wanted:
                if field.name in present.names:
                    _cast(file, table, field, pa.chunked_array([pa.nulls(0, present.field(field.name).type)]))
        return pyarrow.dataset.dataset([str(file) for file in files], pa.schema(wanted), format="parquet")

    def frame(self, table: str, columns: list[str] | None = None) -> pl.DataFrame:
        """`arrow` as a Polars frame (extra `train`); a map column becomes a list of {key, value}."""
        import polars as pl

        result = pl.from_arrow(self.arrow(table, columns))
        assert isinstance(result, pl.DataFrame)
        return result

    def _present(self, table: str) -> list[Path]:
        files = self.files(table)
        if not files:
            raise MercatoError(f"{self.path} has no {table} table ({table}.parquet or {table}/*.parquet)")
        return files

    def fingerprint(self) -> str:
        """A hash of names, sizes and content digests of every table file, for model cards and caches.

        Not of what was logged: only mining reads that, and a server adds to it every few seconds.
        """
        digest = hashlib.sha256((self.path / MARKET).read_bytes())
        for table in (name for name in TABLES if name not in LOGGED):
            for file in self.files(table):
                digest.update(f"{table} {file.name} {file.stat().st_size} ".encode())
                with file.open("rb") as content:
                    digest.update(hashlib.file_digest(content, "sha256").digest())
        return digest.hexdigest()[:16]


def write_market_toml(folder: Path, config: MarketConfig) -> None:
    """Write `market.toml` into a market folder."""
    write_atomic(folder / MARKET, tomli_w.dumps(config.model_dump(mode="json", exclude_none=True)))


@contextmanager
def atomic_market(folder: Path) -> Iterator[Path]:
    """`atomic_directory` for a market: replaces an earlier market, but nothing that could not be made again.

    Raises:
        MercatoError: `folder` holds something else than a market, or what the API or a merchandiser wrote, or is being
            served.
    """
    folder = Path(folder)
    ensure_replaceable(folder, (MARKET,))
    with ExitStack() as held:
        if (folder / MARKET).is_file():
            held.enter_context(market_lock(folder))
            _refuse_written(folder)
        yield held.enter_context(atomic_directory(folder))


def _refuse_written(folder: Path) -> None:
    live = sum(len(list((folder / table).glob("live-*.parquet"))) for table in (*LOGGED, "products"))
    found = [CATALOGUE] * any(folder.glob(f"{CATALOGUE}*")) + [RULES] * (folder / RULES).is_file()
    found += [f"{live} live file{'s' * (live > 1)}"] * bool(live)
    if found:
        raise MercatoError(
            f"{folder} holds what nothing would make again ({', '.join(found)}): give a new folder, or move them away"
            " first"
        )


def _fields(table: str, columns: list[str] | None) -> list[pa.Field]:
    return [TABLES[table].field(name) for name in (columns or TABLES[table].names)]


def read_file(file: Path, table: str, wanted: Sequence[pa.Field]) -> pa.Table:
    """One file of a table, with these fields of its schema; MercatoError as `Market.arrow`."""
    present = _schema(file, table)
    _check_columns(file, table, wanted, present)
    try:
        got = pq.read_table(file, columns=[field.name for field in wanted if field.name in present.names])
    except (pa.ArrowException, OSError, ValueError) as error:
        raise MercatoError(f"table {table}: cannot read {file.name}: {error}") from None
    columns = [
        _cast(file, table, field, got.column(field.name))
        if field.name in got.column_names
        else pa.nulls(got.num_rows, field.type)
        for field in wanted
    ]
    return pa.table(columns, schema=pa.schema(wanted))


def _schema(file: Path, table: str) -> pa.Schema:
    try:
        return pq.read_schema(file)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise MercatoError(f"table {table}: cannot read {file.name}: {error}") from None


def _check_columns(file: Path, table: str, wanted: Sequence[pa.Field], present: pa.Schema) -> None:
    for field in wanted:
        if field.name in REQUIRED[table] and field.name not in present.names:
            raise MercatoError(f"table {table}, column {field.name}: missing from {file.name}")


def _cast(file: Path, table: str, field: pa.Field, column: pa.ChunkedArray) -> pa.ChunkedArray:
    try:
        return column.cast(field.type)
    except (pa.ArrowException, ValueError):
        raise MercatoError(
            f"table {table}, column {field.name}: is {column.type} in {file.name}, must be {field.type}"
            " (`mercato check` lists every problem)"
        ) from None
