"""`mercato mine`: the event log → training pairs, aggregated over sessions, none from the future of its split.

Que2Search §3.2: a query and a product make a positive pair where one session searched, clicked the product, messaged
its seller and was answered, all within 24 h. Que2Engage §2.2.2: a product that was displayed and got no engagement is a
negative, kept apart. Between the two (clicked, say, but never messaged about) lies no label at all.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.table import Table as RichTable

from mercato.data.market import Engagement, Market
from mercato.data.normalize import normalize
from mercato.data.rules import latest_time
from mercato.data.schema import PAIRS
from mercato.errors import MercatoError
from mercato.files import write_atomic

SPLITS = ("train", "validation", "future")
COLUMNS = ["timestamp", "query_id", "session_id", "action_name", "user_query", "product_id", "country"]


@dataclass(frozen=True)
class MiningReport:
    """The result of mining. `pairs` counts rows by split and label ("engaged", "shown": unengaged); see `mine`."""

    events: int
    future_events: int
    pairs: dict[str, dict[str, int]]
    queries: int
    products: int
    queries_below_floor: int
    unknown_products: int
    min_sessions: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """The report for `--json`."""
        return asdict(self)

    def __rich__(self) -> RichTable:
        grid = RichTable("split", "engaged", "unengaged", title=f"pairs mined from {self.events:,} events")
        for split, counts in self.pairs.items():
            grid.add_row(split, f"{counts['engaged']:,}", f"{counts['shown']:,}")
        grid.caption = (
            f"{self.queries:,} queries, {self.products:,} products; {self.queries_below_floor:,} queries of fewer than"
            f" {self.min_sessions} sessions left out; {self.unknown_products:,} pairs of products that the catalogue"
            f" no longer has left out; {self.seconds:.1f} s"
        )
        if self.future_events:
            grid.caption += f"; {self.future_events:,} events of the future ignored: a clock that logs is wrong"
        return grid


def mine(market: Market) -> MiningReport:
    """Turn the market's events into `pairs.parquet` (schema `PAIRS`), replacing an earlier one.

    - A *search* is the events of one `query_id`; events without one go by session and normalised query. It belongs to
      the session of its first event, and takes query and country from its first events that have them.
    - *Engaged* (label 1): in one search, the steps of `engagement.chain` on one product, in time order (equal times
      count as in order), the last within `window_hours` of the first. The first step may be without a product.
    - *Unengaged* (label 0): an impression in a search in which no step of the chain was taken on that product.
    - Rows are aggregated by split, query, country and product. `weight` is the number of sessions with the outcome,
      `last_seen` the last of its times. Where any session engaged, the pair is engaged and not also unengaged.
    - Splits are by time: `future` is the last `future_days` before the last event, `validation` the `validation_days`
      before that, `train` the rest. Every event counts in its own period alone: a chain that a cut divides is none, and
      a row of a period is a function of events up to that period's end. So one pair may have a row a period, each
      telling what happened in it.
    - An event later than now (and a day, for clocks that are ahead) is ignored and counted as `future_events`: it would
      push every other event into `train`.
    - Privacy: a query that fewer than `min_sessions` sessions made in all the log is left out; sessions, query ids and
      places never reach the pairs. Pairs of products that the catalogue does not have are left out too.

    Raises:
        MercatoError: there are no events up to now, they lack a required column or cannot be read.
    """
    started = time.perf_counter()
    if (market.path / "pairs").is_dir():
        raise MercatoError(f"{market.path / 'pairs'} is a folder of pairs; move it away, mine writes pairs.parquet")
    engagement = market.config.engagement
    with duckdb.connect() as db:
        db.execute("SET TimeZone = 'UTC'")
        db.register("events", market.scan("events", COLUMNS))
        try:
            events, future_events = _read_log(db, engagement, latest_time())
        except duckdb.InvalidInputException as error:
            raise MercatoError(f"table events: {error} (`mercato check` lists every problem)") from None
        if not events:
            raise MercatoError(f"the events table of {market.path} has no rows; there is nothing to mine")
        if events == future_events:
            raise MercatoError(f"table events, column timestamp: all of {market.path} lies in the future")
        _tables(db, engagement)
        if market.has("products"):
            db.register("catalogue", market.arrow("products", ["product_id"]))
            unknown = _scalar(db, "SELECT count(*) FROM outcomes ANTI JOIN catalogue USING (product_id)")
            chosen = "outcomes SEMI JOIN catalogue USING (product_id)"
        else:
            unknown, chosen = 0, "outcomes"
        mined = pa.schema(field for field in PAIRS if field.name != "grade")  # which only judges give
        columns = ", ".join(mined.names)
        pairs = db.sql(f"SELECT {columns} FROM {chosen} ORDER BY period, query, country, product_id").to_arrow_table()
        below = _scalar(db, f"SELECT count(*) FROM popularity WHERE sessions < {engagement.min_sessions}")
    pairs = pairs.cast(mined)
    buffer = pa.BufferOutputStream()
    pq.write_table(pairs, buffer, compression="zstd")
    write_atomic(market.path / "pairs.parquet", buffer.getvalue().to_pybytes())
    return MiningReport(
        events=events,
        future_events=future_events,
        pairs=_counts(pairs),
        queries=pc.count_distinct(pairs["query"]).as_py(),
        products=pc.count_distinct(pairs["product_id"]).as_py(),
        queries_below_floor=below,
        unknown_products=unknown,
        min_sessions=engagement.min_sessions,
        seconds=time.perf_counter() - started,
    )


def _read_log(db: duckdb.DuckDBPyConnection, engagement: Engagement, latest: datetime) -> tuple[int, int]:
    """Build `log`, every event up to `latest` with its search and its period; returns (all events, later ones)."""
    db.execute(
        """
        CREATE TEMP TABLE clock AS
        SELECT count(*) AS events, count(*) FILTER (timestamp > $latest) AS future_events,
               max(timestamp) FILTER (timestamp <= $latest) AS last_time
        FROM events
        """,
        {"latest": latest},
    )
    db.register(
        "spellings", _spellings(db.sql("SELECT DISTINCT user_query FROM events").to_arrow_table()["user_query"])
    )
    bounds = {
        "future_days": timedelta(days=engagement.future_days),
        "held_out_days": timedelta(days=engagement.future_days + engagement.validation_days),
    }
    # Periods: 0 train, 1 validation, 2 future.
    db.execute(
        """
        CREATE TEMP TABLE log AS
        SELECT timestamp AS time, action_name AS action, product_id, session_id, query, nullif(country, '') AS country,
               hash(CASE WHEN query_id IS NOT NULL THEN 'id ' || query_id
                         ELSE 'session ' || length(session_id) || ' ' || session_id || query END) AS search,
               CASE WHEN timestamp > last_time - $future_days THEN 2
                    WHEN timestamp > last_time - $held_out_days THEN 1 ELSE 0 END::TINYINT AS period
        FROM events CROSS JOIN clock LEFT JOIN spellings USING (user_query)
        WHERE timestamp <= last_time AND session_id IS NOT NULL AND (query_id IS NOT NULL OR query IS NOT NULL)
        """,
        bounds,
    )
    return _scalar(db, "SELECT events FROM clock"), _scalar(db, "SELECT future_events FROM clock")


def _tables(db: duckdb.DuckDBPyConnection, engagement: Engagement) -> None:
    """Build `outcomes`, the aggregated pairs, step by step: log → searches → chains and displays → outcomes."""
    chain = engagement.chain
    first, last = chain[0], len(chain)
    # What a search was, and from which period on it was known: a later event must not tell an earlier period.
    db.execute(
        """
        CREATE TEMP TABLE searches AS
        SELECT search, min_by(session_id, (time, session_id)) AS session,
               min_by(query, (time, query)) FILTER (query IS NOT NULL) AS query,
               min(period) FILTER (query IS NOT NULL) AS query_known,
               min_by(country, (time, country)) FILTER (country IS NOT NULL) AS country,
               min(period) FILTER (country IS NOT NULL) AS country_known
        FROM log GROUP BY search
        """
    )
    db.execute(
        """
        CREATE TEMP TABLE popularity AS
        SELECT query, count(DISTINCT session) AS sessions FROM searches WHERE query IS NOT NULL GROUP BY query
        """
    )
    # step1 … stepN: the latest time at which a chain that has come as far as this event can have begun (of all starts
    # the one that best fits the window). Window frames end at the current time, equal times included.
    db.execute(
        """
        CREATE TEMP TABLE step1 AS
        SELECT * EXCLUDE (begun), greatest(begun, CASE WHEN action = $first THEN time END) AS began
        FROM (SELECT search, period, product_id, action, time,
                     max(CASE WHEN action = $first AND product_id IS NULL THEN time END)
                         OVER (PARTITION BY search, period ORDER BY time) AS begun
              FROM log WHERE list_contains($chain, action))
        WHERE product_id IS NOT NULL
        """,
        {"first": first, "chain": list(chain)},
    )
    for number, action in enumerate(chain[1:], start=2):
        db.execute(
            f"""
            CREATE TEMP TABLE step{number} AS
            SELECT * EXCLUDE (began),
                   CASE WHEN action = $action
                        THEN max(began) OVER (PARTITION BY search, period, product_id ORDER BY time) END AS began
            FROM step{number - 1}
            """,
            {"action": action},
        )
    db.execute(
        f"""
        CREATE TEMP TABLE seen AS
        SELECT search, period, product_id, 1 AS label, time
        FROM step{last} WHERE action = $last AND time - began <= $window
        UNION ALL
        SELECT search, period, product_id, 0 AS label, time
        FROM log ANTI JOIN (FROM step1 WHERE action <> 'impression') USING (search, period, product_id)
        WHERE action = 'impression' AND product_id IS NOT NULL
        """,
        {"last": chain[-1], "window": timedelta(hours=engagement.window_hours)},
    )
    db.execute(
        """
        CREATE TEMP TABLE outcomes AS
        SELECT query, country, product_id, label, count(DISTINCT session)::DOUBLE AS weight, max(time) AS last_seen,
               ['train', 'validation', 'future'][period + 1] AS split, period
        FROM (SELECT seen.*, session, query, CASE WHEN country_known <= period THEN country END AS country
              FROM seen JOIN searches USING (search) JOIN popularity USING (query)
              WHERE query_known <= period AND sessions >= $min_sessions)
        GROUP BY period, query, country, product_id, label
        QUALIFY label = max(label) OVER (PARTITION BY period, query, country, product_id)
        """,
        {"min_sessions": engagement.min_sessions},
    )


def _spellings(queries: pa.ChunkedArray) -> pa.Table:
    """Distinct queries and their normal forms; blank ones are left out, as if there were no query."""
    written = [text for text in queries.to_pylist() if text is not None]
    normal = [normalize(text) or None for text in written]
    return pa.table({"user_query": pa.array(written, pa.string()), "query": pa.array(normal, pa.string())})


def _counts(pairs: pa.Table) -> dict[str, dict[str, int]]:
    counts = {split: {"engaged": 0, "shown": 0} for split in SPLITS}
    for group in pairs.group_by(["split", "label"]).aggregate([([], "count_all")]).to_pylist():
        counts[group["split"]]["engaged" if group["label"] else "shown"] = group["count_all"]
    return counts


def _scalar(db: duckdb.DuckDBPyConnection, query: str) -> int:
    return int(db.execute(query).fetchall()[0][0])
