"""The event log as searches: which events belong together, in which period, and whose queries may be told."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

import duckdb
import pyarrow as pa

from mercato.data.caps import NETWORK, PERSON, WHOSE, count_people
from mercato.data.contacts import has_contact
from mercato.data.linking import lend_queries
from mercato.data.market import Engagement
from mercato.data.normalize import normalize

COLUMNS = [
    "timestamp", "query_id", "session_id", "client_id", "action_name", "user_query", "product_id", "position",
    "placed_by", "country", "received", "network",
]  # fmt: skip


_QUIET = 10  # a day with less than a tenth of what the typical event's day has is no day of its own


def read_log(db: duckdb.DuckDBPyConnection, engagement: Engagement, latest: datetime) -> tuple[int, int]:
    """Turn the view `events` (`COLUMNS`) into `log`: every event up to `latest` with its search and its period.

    A search is one session's events of a query id, or of a query text where they have no id; `asked` is the query id
    alone. A step on a product that has neither is in `log` without a search. Also `cuts`: the periods (0 train,
    1 validation, 2 future) and when each ends.

    Returns:
        How many events there are, and how many of them are later than `latest`.
    """
    db.execute(
        """
        CREATE TEMP TABLE clock AS
        SELECT count(*) AS events, count(*) FILTER (timestamp > $latest) AS future_events,
               max(timestamp) FILTER (timestamp <= $latest) AS last_time
        FROM events
        """,
        {"latest": latest},
    )
    days = dict(
        db.execute(
            """
            SELECT floor(epoch(last_time - timestamp) / 86400)::INTEGER AS ago, count(*)
            FROM events, clock WHERE timestamp <= last_time GROUP BY ago
            """
        ).fetchall()
    )
    bounds = {
        "future_days": timedelta(days=days_back(days, engagement.future_days)),
        "held_out_days": timedelta(days=days_back(days, engagement.future_days + engagement.validation_days)),
    }
    db.execute(
        """
        CREATE TEMP TABLE cuts AS
        SELECT unnest([0, 1, 2])::TINYINT AS period,
               unnest([last_time - $held_out_days, last_time - $future_days, last_time]) AS ends
        FROM clock
        """,
        bounds,
    )
    db.register(
        "spellings", _spellings(db.sql("SELECT DISTINCT user_query FROM events").to_arrow_table()["user_query"])
    )
    db.execute(
        """
        CREATE TEMP TABLE log AS
        SELECT timestamp AS time, action_name AS action, product_id, position, placed_by, session_id AS session, query,
               nullif(client_id, '') AS client, network, nullif(country, '') AS country,
               CASE WHEN query_id IS NOT NULL THEN hash(query_id, session_id)
                    WHEN query IS NOT NULL THEN hash('no id', session_id, query) END AS search,
               CASE WHEN query_id IS NOT NULL THEN hash(query_id) END AS asked,
               CASE WHEN timestamp > last_time - $future_days THEN 2
                    WHEN timestamp > last_time - $held_out_days THEN 1 ELSE 0 END::TINYINT AS period
        FROM events CROSS JOIN clock LEFT JOIN spellings USING (user_query)
        WHERE timestamp <= last_time AND session_id IS NOT NULL
              AND (query_id IS NOT NULL OR query IS NOT NULL
                   OR product_id IS NOT NULL AND list_contains($steps, action_name))
        """,
        {**bounds, "steps": list(engagement.steps)},
    )
    events, future_events = db.execute("SELECT events, future_events FROM clock").fetchall()[0]
    return int(events), int(future_events)


def gather_searches(db: duckdb.DuckDBPyConnection) -> None:
    """Turn `log` into `searches` and `popularity`: how many people had made a query when a period ended.

    Both say from which period on a thing was known, as a later event must not tell an earlier period. People are
    clients where any event of the session names one, else sessions, of strangers no more than there are networks
    (`count_people`). A session that has its query from another's record (`lend_queries`) is not counted among them: the
    two may be one person.
    """
    gathered = """
        SELECT search, any_value(session) AS session, max(asked) AS asked,
               min(time) AS first_time, min(period) AS first_period,
               min_by(query, (time, query)) FILTER (query IS NOT NULL) AS query,
               min(period) FILTER (query IS NOT NULL) AS query_known,
               min_by(country, (time, country)) FILTER (country IS NOT NULL) AS country,
               min(period) FILTER (country IS NOT NULL) AS country_known
        """
    db.execute(f"CREATE TEMP TABLE searches AS {gathered}, false AS lent FROM log GROUP BY search")
    if lend_queries(db):
        db.execute("DELETE FROM searches WHERE search IN (SELECT search FROM lent)")
        db.execute(f"INSERT INTO searches {gathered}, true FROM log SEMI JOIN lent USING (search) GROUP BY search")
    db.execute(
        f"""
        CREATE TEMP TABLE popularity AS
        WITH made AS (
            SELECT query, period, asked, search, {PERSON} AS person, {NETWORK} AS network
            FROM searches JOIN cuts ON query_known <= period AND NOT lent {WHOSE})
        SELECT query, period, {count_people(db, "person")} AS people FROM made GROUP BY query, period
        """
    )


def leave_out_contacts(db: duckdb.DuckDBPyConnection, min_sessions: int) -> int:
    """Take out of `popularity` the queries that look like contact data; returns how many had been made often enough."""
    countries = [country for (country,) in db.execute("SELECT DISTINCT country FROM searches").fetchall() if country]
    often = "SELECT DISTINCT query FROM popularity WHERE people >= ? AND regexp_matches(query, '@|[0-9]')"
    found = [query for (query,) in db.execute(often, [min_sessions]).fetchall() if has_contact(query, countries)]
    db.execute("CREATE TEMP TABLE contacts AS SELECT unnest(?::VARCHAR[]) AS query", [found])
    db.execute("DELETE FROM popularity WHERE query IN (FROM contacts)")
    return len(found)


def days_back(days: Mapping[int, int], wanted: int) -> int:
    """How many days back from the last event one must go for so many days that have events.

    Args:
        days: events by how many whole days before the last event they are, from 0.
        wanted: how many days. Those before the first event count as they are.

    A day counts if it has at least a tenth of the events that the typical event's day has: one that is dated today, a
    month after the others, is no day to evaluate on.
    """
    total, seen, typical = sum(days.values()), 0, 0
    for events in sorted(days.values(), reverse=True):
        seen, typical = seen + events, events
        if 2 * seen >= total:
            break
    counted = sorted(ago for ago, events in days.items() if _QUIET * events >= typical)
    if wanted > len(counted):
        return (counted[-1] + 1 if counted else 0) + wanted - len(counted)
    return counted[wanted - 1] + 1 if wanted else 0


def _spellings(queries: pa.ChunkedArray) -> pa.Table:
    """Distinct queries and their normal forms; blank ones are left out, as if there were no query."""
    written = [text for text in queries.to_pylist() if text is not None]
    normal = [normalize(text) or None for text in written]
    return pa.table({"user_query": pa.array(written, pa.string()), "query": pa.array(normal, pa.string())})
