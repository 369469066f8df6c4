"""Caps: how much of the log one client, one address and a seller can make, so that nobody makes a market's pairs alone.

Whose a search is: the client's that its session names, else the session's. Whoever sends events without a key can name
as many as they like: of these, all that comes from one address on one day (`network`), or under one query id, counts
as one (`count_people`), and they name nobody's session but their own search.
"""

from __future__ import annotations

from typing import NamedTuple

import duckdb

from mercato.data.market import Engagement

# Of a session and of a search, as far as a period knows them, from `clients` and `networks` (`WHOSE`).
_BY_CLIENT = """
    CASE WHEN clients.known <= period THEN hash('client', clients.client{day})
         WHEN networks.client_known <= period THEN hash('client', networks.client{day})
         ELSE hash('session', session) END
    """
PERSON, VOICE = _BY_CLIENT.format(day=""), _BY_CLIENT.format(day=", time::DATE")  # of a client a voice a day
NETWORK = "CASE WHEN networks.known <= period THEN networks.network END"
WHOSE = "LEFT JOIN clients USING (session) LEFT JOIN networks USING (search)"


class Capped(NamedTuple):
    """What `cap` did, in events.

    Attributes:
        kept: all that is left in the log.
        own: taken out as done by sellers on their own products.
        searches: as of searches beyond those that a client or an address may make in a day.
        products: as of searches of strangers with more products than a search shows.
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
    """Whose `log` is, and the periods from which that is known: `clients` of the sessions; `networks` of the searches
    that came without a key, with the clients that they name themselves.
    """
    db.execute(
        """
        CREATE TEMP TABLE clients AS
        SELECT session, min_by(client, (time, client)) AS client, min(period) AS known
        FROM log WHERE client IS NOT NULL AND network IS NULL GROUP BY session
        """
    )
    db.execute(
        """
        CREATE TEMP TABLE networks AS
        SELECT search, min_by(network, (time, network)) AS network, min(period) AS known,
               min_by(client, (time, client)) FILTER (client IS NOT NULL) AS client,
               min(period) FILTER (client IS NOT NULL) AS client_known
        FROM log WHERE network IS NOT NULL GROUP BY search
        """
    )


def count_once(db: duckdb.DuckDBPyConnection) -> None:
    """`uncounted`: of the `searches` with products of one network for one query, or of one query id, all but the first.

    What these displayed and clicked is counted once. An engagement that only a later one completes is one all the same.
    `known`: from which period on it is.
    """
    db.execute(
        """
        CREATE TEMP TABLE uncounted AS
        WITH showing AS (SELECT search, min(period) AS shown FROM log WHERE product_id IS NOT NULL GROUP BY search)
        SELECT search, known
        FROM (SELECT search, asked, query, network, first_time, greatest(networks.known, query_known, shown) AS known
              FROM searches JOIN networks USING (search) JOIN showing USING (search) WHERE query IS NOT NULL)
        QUALIFY row_number() OVER (PARTITION BY coalesce(asked, search) ORDER BY known, first_time, search) > 1
                OR row_number() OVER (PARTITION BY network, query ORDER BY known, first_time, search) > 1
        """
    )


def cap(db: duckdb.DuckDBPyConnection, engagement: Engagement) -> Capped:
    """Take out of `log` what is past `engagement.caps`, and what sellers did on their own products (`catalogue`).

    A seller is known by a reply from another session than asked (`replied`, see `mercato.data.linking`), or as the
    client that has the seller's id. Of a day what comes first stays, so that nothing that is done later changes what
    was, and a stranger who names a client takes none of what that one may do.
    """
    caps = engagement.caps
    own = _take_out_own(db)
    searches = sum(
        _take_out_searches(db, whose, most)
        for whose, most in (("person", caps.client_searches), ("network", caps.address_searches))
    )
    products = _delete(
        db,
        """
        SELECT log.rowid FROM log SEMI JOIN
            (SELECT search, period FROM log WHERE network IS NOT NULL
             GROUP BY search, period HAVING count(DISTINCT product_id) > $most) AS past USING (search, period)
        """,
        most=caps.search_products,
    )
    return Capped(_one(db, "SELECT count(*) FROM log"), own, searches, products)


def _take_out_own(db: duckdb.DuckDBPyConnection) -> int:
    db.execute(
        """
        CREATE TEMP TABLE owners AS
        WITH answered AS (
            SELECT session, client, seller_id, period AS known FROM replied JOIN catalogue USING (product_id)),
        sellers AS (
            SELECT client, seller_id, min(known) AS known
            FROM (SELECT client, seller_id, known FROM answered
                  UNION ALL SELECT DISTINCT seller_id, seller_id, 0 FROM catalogue)
            GROUP BY client, seller_id),
        found AS (
            SELECT session, NULL AS search, seller_id, known FROM answered
            UNION ALL
            SELECT clients.session, NULL, seller_id, greatest(sellers.known, clients.known)
            FROM sellers JOIN clients USING (client)
            UNION ALL
            SELECT NULL, search, seller_id, greatest(sellers.known, client_known)
            FROM sellers JOIN networks USING (client))
        SELECT session, search, seller_id, min(known) AS known FROM found GROUP BY ALL
        """
    )
    own = """
        SELECT log.rowid
        FROM log JOIN catalogue USING (product_id) JOIN owners ON owners.{of} = log.{of}
             AND owners.seller_id = catalogue.seller_id AND owners.known <= log.period
        """
    return sum(_delete(db, own.format(of=of)) for of in ("session", "search"))


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
            QUALIFY row_number() OVER (PARTITION BY {whose}, network, time::DATE ORDER BY time, search) > {most})
        SELECT log.rowid FROM log SEMI JOIN past USING (search)
        """,
    )


def _delete(db: duckdb.DuckDBPyConnection, rows: str, **values: object) -> int:
    """Delete these rows of `log`; returns how many they are."""
    return _one(db, f"DELETE FROM log WHERE rowid IN ({rows})", values)


def _one(db: duckdb.DuckDBPyConnection, query: str, values: dict[str, object] | None = None) -> int:
    return int(db.execute(query, values or {}).fetchall()[0][0])
