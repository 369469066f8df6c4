"""Caps: how much of the log one client, one address and a seller can make, so that nobody makes a market's pairs alone.

Whose a search is: the client's that its session names, else the session's. Whoever sends events without a key can name
as many as they like: of these, all that comes from one address on one day (`network`), or under one query id, counts
as one (`count_people`).
"""

from __future__ import annotations

from typing import NamedTuple

import duckdb

from mercato.data.market import Engagement

# Of a session and of a search, as far as a period knows them, from `clients` and `networks` (`WHOSE`).
PERSON = "CASE WHEN clients.known <= period THEN hash('client', clients.client) ELSE hash('session', session) END"
VOICE = PERSON.replace("clients.client", "clients.client, time::DATE")  # of a client one a day
NETWORK = "CASE WHEN networks.known <= period THEN networks.network END"
WHOSE = "LEFT JOIN clients USING (session) LEFT JOIN networks USING (search)"


class Capped(NamedTuple):
    """What `cap` did, in events.

    Attributes:
        kept: all that is left in the log.
        own: taken out as done by sellers on their own products.
        searches: as of searches beyond those that a client or an address may make in a day.
        products: as on products beyond those of one seller on which a client or an address may take a step in a day.
    """

    kept: int
    own: int
    searches: int
    products: int


def count_people(db: duckdb.DuckDBPyConnection, people: str) -> str:
    """SQL that counts different `people` of rows with `network`, `asked` and `search`.

    Of those who have a network, no more than there are networks, nor than searches were made by their query ids.
    """
    if not _one(db, "SELECT count(*) FROM networks"):
        return f"count(DISTINCT {people})"
    known = f"count(DISTINCT {people}) FILTER (network IS NULL)"
    strangers = (
        f"count(DISTINCT {each}) FILTER (network IS NOT NULL)"
        for each in (people, "network", "coalesce(asked, search)")
    )
    return f"least(count(DISTINCT {people}), {known} + least({', '.join(strangers)}))"


def name_searchers(db: duckdb.DuckDBPyConnection) -> None:
    """`clients` of the sessions and `networks` of the searches of `log`, and the periods from which they are known."""
    for table, named, of in (("clients", "client", "session"), ("networks", "network", "search")):
        db.execute(
            f"""
            CREATE TEMP TABLE {table} AS
            SELECT {of}, min_by({named}, (time, {named})) AS {named}, min(period) AS known
            FROM log WHERE {named} IS NOT NULL GROUP BY {of}
            """
        )


def cap(db: duckdb.DuckDBPyConnection, engagement: Engagement) -> Capped:
    """Take out of `log` what is past `engagement.caps`, and what sellers did on their own products (`catalogue`).

    A seller is known by a reply from another session than asked (`replied`, see `mercato.data.linking`), or as the
    client that has the seller's id. What comes first in a day stays, so that nothing that is done later
    changes what was.
    """
    caps = engagement.caps
    own = _take_out_own(db)
    searches = sum(
        _take_out_searches(db, whose, most)
        for whose, most in (("person", caps.client_searches), ("network", caps.address_searches))
    )
    products = sum(_take_out_products(db, whose, engagement) for whose in ("person", "network"))
    return Capped(_one(db, "SELECT count(*) FROM log"), own, searches, products)


def _take_out_own(db: duckdb.DuckDBPyConnection) -> int:
    db.execute(
        """
        CREATE TEMP TABLE owners AS
        WITH sellers AS (
            SELECT session, client, seller_id, period AS known FROM replied JOIN catalogue USING (product_id)
            UNION ALL
            SELECT DISTINCT NULL, seller_id, seller_id, 0 FROM catalogue),
        found AS (
            SELECT session, seller_id, known FROM sellers
            UNION ALL
            SELECT clients.session, seller_id, greatest(sellers.known, clients.known)
            FROM sellers JOIN clients USING (client))
        SELECT session, seller_id, min(known) AS known
        FROM found SEMI JOIN (SELECT DISTINCT session FROM log) USING (session)
        GROUP BY session, seller_id
        """
    )
    if not _one(db, "SELECT count(*) FROM owners"):
        return 0
    return _delete(
        db,
        """
        SELECT log.rowid
        FROM log JOIN catalogue USING (product_id) JOIN owners ON owners.session = log.session
             AND owners.seller_id = catalogue.seller_id AND owners.known <= log.period
        """,
    )


def _take_out_searches(db: duckdb.DuckDBPyConnection, whose: str, most: int) -> int:
    return _delete(
        db,
        f"""
        WITH searches AS (
            SELECT search, any_value(session) AS session, min(time) AS time, min(period) AS period
            FROM log GROUP BY search),
        whose AS (
            SELECT search, time, {PERSON} AS person, {NETWORK} AS network
            FROM searches {WHOSE}),
        past AS (
            SELECT search FROM whose WHERE {whose} IS NOT NULL
            QUALIFY row_number() OVER (PARTITION BY {whose}, time::DATE ORDER BY time, search) > {most})
        SELECT log.rowid FROM log SEMI JOIN past USING (search)
        """,
    )


def _take_out_products(db: duckdb.DuckDBPyConnection, whose: str, engagement: Engagement) -> int:
    return _delete(
        db,
        f"""
        WITH steps AS (
            SELECT search, product_id, seller_id, time, time::DATE AS day,
                   {PERSON} AS person, {NETWORK} AS network
            FROM log JOIN catalogue USING (product_id) {WHOSE}
            WHERE seller_id IS NOT NULL AND list_contains($steps, action)),
        past AS (
            SELECT {whose}, seller_id, day, product_id FROM steps
            WHERE {whose} IS NOT NULL GROUP BY {whose}, seller_id, day, product_id
            QUALIFY row_number() OVER (PARTITION BY {whose}, seller_id, day ORDER BY min(time), product_id) > $most),
        taken AS (
            SELECT DISTINCT search, product_id FROM steps SEMI JOIN past USING ({whose}, seller_id, day, product_id))
        SELECT log.rowid FROM log SEMI JOIN taken USING (search, product_id)
        """,
        steps=list(engagement.steps),
        most=engagement.caps.seller_products,
    )


def _delete(db: duckdb.DuckDBPyConnection, rows: str, **values: object) -> int:
    """Delete these rows of `log`; returns how many they are."""
    return _one(db, f"DELETE FROM log WHERE rowid IN ({rows})", values)


def _one(db: duckdb.DuckDBPyConnection, query: str, values: dict[str, object] | None = None) -> int:
    return int(db.execute(query, values or {}).fetchall()[0][0])
