"""The event log as searches: which events belong together, in which period, and whose queries may be told."""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from datetime import datetime, timedelta
from statistics import median_low

import duckdb
import pyarrow as pa

from mercato.data.caps import NETWORK, PERSON, WHOSE, count_people
from mercato.data.contacts import contacts_in
from mercato.data.linking import lend_queries
from mercato.data.market import Engagement
from mercato.data.normalize import normalize

COLUMNS = [
    "timestamp", "query_id", "session_id", "client_id", "action_name", "user_query", "product_id", "position",
    "placed_by", "country", "received", "network",
]  # fmt: skip


_QUIET = 10  # a day with less than a tenth of the sessions of the usual day is no day of its own


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
            SELECT floor(epoch(last_time - timestamp) / 86400)::INTEGER AS ago,
                   count(DISTINCT CASE WHEN network IS NULL THEN hash(session_id) ELSE hash('network', network) END)
            FROM events, clock WHERE isfinite(timestamp) AND timestamp <= last_time GROUP BY ago
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
        WHERE isfinite(timestamp) AND timestamp <= last_time AND session_id IS NOT NULL
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
    """Take out of `popularity` the queries that look like contact data; returns how many had been made often enough.

    A telephone number is one of the country from which most people made the query, strangers by their networks. One
    that stands in a product's title is no secret: it may be a part's.
    """
    often = """
        WITH people AS (
            SELECT query, popularity.period,
                   min_by(country, (first_time, country)) FILTER (country_known <= popularity.period) AS country
            FROM popularity JOIN searches USING (query) LEFT JOIN networks USING (search)
            WHERE people >= ? AND query_known <= popularity.period AND regexp_matches(query, '@|\\p{Nd}')
            GROUP BY query, popularity.period, coalesce(hash(networks.network), search))
        SELECT query, period, mode(country ORDER BY country) FROM people GROUP BY query, period
        """
    told = [
        (query, period, contact)
        for query, period, country in db.execute(often, [min_sessions]).fetchall()
        for contact in contacts_in(query, [country] if country else [])
    ]
    public = _in_titles(db, {contact for _, _, contact in told if "@" not in contact})
    found = sorted({(query, period) for query, period, contact in told if contact not in public})
    queries, periods = zip(*found, strict=True) if found else ((), ())
    db.execute(
        "CREATE TEMP TABLE contacts AS SELECT unnest(?::VARCHAR[]) AS query, unnest(?::TINYINT[]) AS period",
        [[*queries], [*periods]],
    )
    db.execute("DELETE FROM popularity WHERE (query, period) IN (FROM contacts)")
    return len({*queries})


def _in_titles(db: duckdb.DuckDBPyConnection, numbers: Set[str]) -> set[str]:
    """The numbers that stand in a title, not within longer ones."""
    if not numbers:
        return set()
    within = db.execute(
        """
        WITH titles AS (
            SELECT DISTINCT lower(title) AS title FROM catalogue WHERE regexp_matches(title, '(\\p{Nd}\\P{Nd}*){7}'))
        SELECT number, title FROM unnest(?::VARCHAR[]) AS numbers (number) JOIN titles ON contains(title, number)
        """,
        [sorted(numbers)],
    ).fetchall()
    return {number for number, title in within if re.search(rf"(?<!\d){re.escape(number)}(?!\d)", title)}


def days_back(days: Mapping[int, int], wanted: int) -> int:
    """How many days back from the last event one must go for so many days that have sessions.

    Args:
        days: sessions by how many whole days before the last event they are, from 0.
        wanted: how many days. Those before the first event count as they are.

    A day counts with a tenth of what the median day has. Quieter ones count together, as soon as they have that: a
    single event that is dated today, a month after the others, is no day to evaluate on, and a trickle is some.
    """
    if not days:
        return wanted
    usual = median_low(days.values())
    counted = pooled = begun = 0
    for ago in sorted(days):
        if counted == wanted:
            return begun
        pooled += days[ago]
        if _QUIET * pooled >= usual:
            counted, pooled, begun = counted + 1, 0, ago + 1
    return begun if counted == wanted else max(days) + 1 + wanted - counted


def _spellings(queries: pa.ChunkedArray) -> pa.Table:
    """Distinct queries and their normal forms; blank ones are left out, as if there were no query."""
    written = [text for text in queries.to_pylist() if text is not None]
    normal = [normalize(text) or None for text in written]
    return pa.table({"user_query": pa.array(written, pa.string()), "query": pa.array(normal, pa.string())})
