"""`mercato mine`: the event log → training pairs and displayed lists, none from the future of its split.

Que2Search §3.2: a query and a product make a positive pair where one session searched, clicked the product, messaged
its seller and was answered, all within 24 h. Que2Engage §2.2.2: a product that was displayed and got no engagement is a
negative, kept apart. Between the two lies the product that was clicked and left, in which price and condition decide:
`[engagement] left` says what it is.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Group
from rich.table import Table as RichTable

from mercato.data.caps import cap, count_once, name_searchers
from mercato.data.funnel import UNSIGNED, Funnel, Lost, trace
from mercato.data.id_forms import other_form
from mercato.data.linking import link
from mercato.data.lists import list_up, read_features
from mercato.data.live import rewriting_lock
from mercato.data.market import Engagement, Market
from mercato.data.outcomes import follow_chains, pair_up, tell
from mercato.data.rules import latest_time
from mercato.data.schema import FEATURES, LISTS, PAIRS
from mercato.data.searches import COLUMNS, gather_searches, leave_out_contacts, read_log
from mercato.errors import MercatoError
from mercato.files import atomic_files, sweep

SPLITS = ("train", "validation", "future")


@dataclass(frozen=True, kw_only=True)
class MiningReport:
    """The result of mining; see `mine`.

    Attributes:
        pairs: rows by split and label: "engaged", and "shown" (label 0).
        left: those of the label 0 by split on which a search had taken some of the steps.
        lists: displayed lists by split.
        queries_below_floor: queries of the whole log that too few people made.
        contacts: queries left out as they look like contact data.
        unsigned: events left out as they came without a key and without a signed query id.
        unknown_products: pairs left out as the catalogue does not have their product.
        attributed: steps without a query id that were put down to a click.
        shared_query_ids: query ids that several sessions have.
        funnel: what of the log came as far as a pair, and what became of the rest.
    """

    events: int
    future_events: int
    pairs: dict[str, dict[str, int]]
    left: dict[str, int]
    lists: dict[str, int]
    queries: int
    products: int
    queries_below_floor: int
    contacts: int
    unsigned: int
    unknown_products: int
    attributed: int
    shared_query_ids: int
    min_sessions: int
    funnel: Funnel
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """The report for `--json`."""
        return asdict(self) | {"funnel": self.funnel.as_list()}

    def __rich__(self) -> Group:
        grid = RichTable("split", "engaged", "unengaged", "left", "lists")
        grid.title = f"pairs mined from {self.events:,} events"
        for split, counts in self.pairs.items():
            numbers = (counts["engaged"], counts["shown"], self.left[split], self.lists[split])
            grid.add_row(split, *(f"{number:,}" for number in numbers))
        grid.caption = (
            f"left: of the unengaged, those clicked and left; {self.queries:,} queries, {self.products:,} products;"
            f" {self.queries_below_floor:,} queries of fewer than {self.min_sessions} people left out;"
            f" {self.seconds:.1f} s"
        )
        if self.attributed:
            grid.caption += f"; {self.attributed:,} events without a query id put down to their session's last click"
        if self.shared_query_ids:
            grid.caption += f"; {self.shared_query_ids:,} query ids that several sessions have, a search for each"
        return Group(self.funnel, grid)


def mine(market: Market) -> MiningReport:
    """Turn the market's events into `pairs.parquet` and `lists.parquet` (`PAIRS`, `LISTS`), replacing earlier ones.

    - A *search* is the events of one `query_id` in one session; events without one go by session and normalised query.
      It takes query and country from its first events that have them, or the query from its query id's. What comes
      from another session (a seller's reply) or without a query id (an order) is linked to it (`mercato.data.linking`).
    - *Engaged* (label 1): in one search, the steps of `engagement.chain` on one product, in time order (equal times
      count as in order), the last within `window_hours` of the first. The first step may be without a product.
    - *Unengaged* (label 0): an impression in a search that took no step of the chain on that product; and a product
      *left*: the chain was begun but not walked to its end, though its window closed before the period did. (A chain
      that may still go on tells nothing, nor do steps out of order.) `engagement.left = "ignored"` gives no row to a
      pair that any search left and none engaged; "graded" also fills `grade`, the share of the chain that was walked:
      `depth` / number of steps.
    - Rows are aggregated by split, query, country and product. `weight` is the number of people with the outcome,
      `last_seen` the day of the last of them. Where any session engaged, the pair is engaged and not also unengaged.
      `depth` is the most steps (`engagement.steps`) that a search took; `impressions`, `clicks` and the mean `position`
      are of every search of the split. What counts as a click is the step "click", or the first step of a chain
      without it.
    - Lists are what each search displayed (`mercato.data.lists`), `depth` null where it tells nothing, and in all that
      were displayed within the window before a period's end. A log without positions gives none, and no table.
      `features` are what the products were ordered by, where `mercato serve` logged them (schema `FEATURES`).
      `placed_by` tells what a rule or exploration put there, where an impression of it says so.
    - Splits are by time: `future` is the last `future_days` before the last event, `validation` the `validation_days`
      before that, `train` the rest. Every event counts in its own period alone: a chain that a cut divides is none, and
      a row of a period is a function of events up to that period's end. So one pair may have a row a period, each
      telling what happened in it.
    - An event later than now (and a day, for clocks that are ahead) is ignored and counted as `future_events`: it would
      push every other event into `train`.
    - Privacy: a query has rows in a split once `min_sessions` people made it before the split's end: clients where the
      session has one, else sessions. Sessions, clients, query ids, hours and places never reach the tables. Products
      that the catalogue does not have are left out too.

    Raises:
        MercatoError: there are no events up to now, they lack a required column or cannot be read, or nothing comes of
            them; earlier tables stay as they are then.
    """
    started = time.perf_counter()
    for table in ("pairs", "lists"):
        if (folder := market.path / table).is_dir():
            raise MercatoError(f"{folder} is a folder of {table}; move it away, mine writes {table}.parquet")
    engagement = market.config.engagement
    with duckdb.connect() as db, rewriting_lock(market.path):
        for table in ("pairs", "lists"):
            sweep(market.path, f"{table}.parquet")
        db.execute("SET TimeZone = 'UTC'")
        db.register("logged", market.scan("events", COLUMNS))
        trusted = "" if engagement.mine_unsigned else "WHERE received IS DISTINCT FROM 'unsigned'"
        network = "CASE WHEN received IN ('signed', 'unsigned') THEN nullif(network, '') END AS network"
        db.execute(f"CREATE TEMP VIEW events AS SELECT * REPLACE ({network}) FROM logged {trusted}")
        with _reading("events"):
            events, future_events = read_log(db, engagement, latest_time())
        unsigned = _scalar(db, "SELECT count(*) FROM logged") - events
        if not events and unsigned:
            raise MercatoError(
                f"nothing can be mined from the {unsigned:,} events of {market.path}: all {UNSIGNED.why}: {UNSIGNED.do}"
            )
        if not events:
            raise MercatoError(f"the events table of {market.path} has no rows; there is nothing to mine")
        if events == future_events:
            raise MercatoError(f"table events, column timestamp: all of {market.path} lies in the future")
        if market.has("products"):
            db.register("catalogue", market.arrow("products", ["product_id", "seller_id", "title"]))
        else:
            nothing = "NULL::VARCHAR AS seller_id, NULL::VARCHAR AS title"
            db.execute(f"CREATE TEMP VIEW catalogue AS SELECT DISTINCT product_id, {nothing} FROM log")
        db.register("features", market.scan("features") if market.has("features") else FEATURES.empty_table())
        with _reading("features"):
            read_features(db)
        links = link(db, engagement)
        name_searchers(db)
        capped = cap(db, engagement)
        gather_searches(db)
        count_once(db)
        contacts = leave_out_contacts(db, engagement.min_sessions)
        follow_chains(db, engagement)
        tell(db, engagement)
        pair_up(db, engagement)
        list_up(db, engagement)
        unknown = _unknown(db)
        funnel = trace(db, engagement, links, capped, unsigned, unknown)
        if not funnel.steps[-1].kept and not _scalar(db, "SELECT count(*) FROM lists"):
            raise MercatoError(
                f"nothing can be mined from the {events:,} events of {market.path}: {funnel.why_nothing()}"
            )
        pairs, lists = _write(db, market, engagement)
        below = _scalar(db, f"SELECT count(*) FROM popularity WHERE period = 2 AND people < {engagement.min_sessions}")
        ids = "SELECT asked FROM searches WHERE asked IS NOT NULL GROUP BY asked HAVING count(*) > 1"
        shared = _scalar(db, f"SELECT count(*) FROM ({ids})")
    return MiningReport(
        events=events,
        future_events=future_events,
        pairs={split: {"engaged": _count(pairs, split, 1), "shown": _count(pairs, split, 0)} for split in SPLITS},
        left={split: _count(pairs.filter(pc.field("depth") > 0), split, 0) for split in SPLITS},
        lists={split: lists.get(split, 0) for split in SPLITS},
        queries=pc.count_distinct(pairs["query"]).as_py(),
        products=pc.count_distinct(pairs["product_id"]).as_py(),
        queries_below_floor=below,
        contacts=contacts,
        unsigned=unsigned,
        unknown_products=unknown.count,
        attributed=links.attributed,
        shared_query_ids=shared,
        min_sessions=engagement.min_sessions,
        funnel=funnel,
        seconds=time.perf_counter() - started,
    )


@contextmanager
def _reading(table: str) -> Iterator[None]:
    try:
        yield
    except duckdb.InvalidInputException as error:
        raise MercatoError(f"table {table}: {error} (`mercato check` lists every problem)") from None


def _unknown(db: duckdb.DuckDBPyConnection) -> Lost:
    """The pairs of products that are not in the catalogue: gone, or named otherwise there."""
    why, gone = "are of products that are not in the products table", "they left it, or `mercato check` tells more"
    count = _scalar(db, "SELECT count(*) FROM pairs ANTI JOIN catalogue USING (product_id)")
    if not count:
        return Lost(0, why, gone)
    found = db.execute("SELECT DISTINCT product_id FROM pairs ANTI JOIN catalogue USING (product_id)").fetchall()
    known = db.execute("SELECT product_id FROM catalogue WHERE product_id IS NOT NULL").fetchall()
    other = other_form((name for (name,) in found), (name for (name,) in known))
    return Lost(count, why, f"{len(other.ids):,} {other}" if other else gone)


def _write(db: duckdb.DuckDBPyConnection, market: Market, engagement: Engagement) -> tuple[pa.Table, dict[str, int]]:
    """Write both tables, or neither; returns the pairs, and how many lists there are by split."""
    graded = engagement.left == "graded"
    schema = pa.schema(field for field in PAIRS if graded or field.name != "grade")  # which else only judges give
    order = "period, query, country, product_id"
    pairs = (
        db.sql(f"SELECT {', '.join(schema.names)} FROM pairs SEMI JOIN catalogue USING (product_id) ORDER BY {order}")
        .to_arrow_table()
        .cast(schema)
    )
    lists = dict(db.execute("SELECT split, count(DISTINCT list_id) FROM lists GROUP BY split").fetchall())
    targets = [market.path / "pairs.parquet"] + [market.path / "lists.parquet"] * bool(lists)
    with atomic_files(*targets) as (pairs_file, *lists_file):
        pq.write_table(pairs, pairs_file, compression="zstd")
        left_out = [] if market.has("features") else ["features", "features_version"]
        left_out += [] if _scalar(db, "SELECT count(placed_by) FROM lists") else ["placed_by"]
        schema = pa.schema(field for field in LISTS if field.name not in left_out)
        for file in lists_file:  # as large as the log: written piece by piece
            columns, order = ", ".join(schema.names), "period, query, country, day, list_id, position, product_id"
            pieces = db.sql(f"SELECT {columns} FROM lists ORDER BY {order}").to_arrow_reader()
            with pq.ParquetWriter(file, schema, compression="zstd") as writer:
                for piece in pieces:
                    writer.write_table(pa.Table.from_batches([piece]).cast(schema))
    if not lists:
        (market.path / "lists.parquet").unlink(missing_ok=True)
    return pairs, lists


def _count(pairs: pa.Table, split: str, label: int) -> int:
    return int(pairs.filter((pc.field("split") == split) & (pc.field("label") == label)).num_rows)


def _scalar(db: duckdb.DuckDBPyConnection, query: str) -> int:
    return int(db.execute(query).fetchall()[0][0])
