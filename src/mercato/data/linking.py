"""Which search an event belongs to where it does not say so itself: orders without a query id, sellers' replies."""

from __future__ import annotations

from datetime import timedelta
from typing import NamedTuple

import duckdb

from mercato.data.market import Engagement

REPLY = "seller_reply"  # the one step that another session takes


class Links(NamedTuple):
    """What `link` did, in events.

    Attributes:
        kept: all that belong to a search.
        attributed: steps without a query id that were put down to a click.
        unlinked: steps without query id and text that no click explains, by action.
        unanswered: sellers' replies under a query id of which nobody had asked that seller.
    """

    kept: int
    attributed: int
    unlinked: dict[str, int]
    unanswered: int


def link(db: duckdb.DuckDBPyConnection, engagement: Engagement) -> Links:
    """Give events of `log` (`mercato.data.searches`) the search that they belong to; what belongs to none is removed.

    - A *step without a query id*, other than a click, belongs to the search of its session's last click on that product
      within the attribution window: an order system knows no searches. It stays in the search of its own query text
      where its session clicked on the product there. In a chain without clicks the first step counts as one too.
    - A *seller's reply* comes from another session: it belongs to the search whose session took the step before it on
      that product under that query id. Of several the last before the reply claims it, and no other.

    An event later than another never decides where that one belongs. Also `replied`: from which sessions and clients
    replies came, and on which products. One from the client that asked is logged elsewhere, not sent by a seller, and a
    stranger's makes nobody one.
    """
    db.execute("CREATE TEMP TABLE replied (session VARCHAR, client VARCHAR, product_id VARCHAR, period TINYINT)")
    attributed = _attribute(db, engagement) if engagement.attribution_hours else 0
    unanswered = _answer(db, engagement.chain) if REPLY in engagement.chain[1:] else 0
    unlinked = db.execute("SELECT action, count(*) FROM log WHERE search IS NULL GROUP BY action ORDER BY action")
    lost = dict(unlinked.fetchall())
    if lost:
        db.execute("DELETE FROM log WHERE search IS NULL")
    return Links(_count(db, "log"), attributed, lost, unanswered)


def lend_queries(db: duckdb.DuckDBPyConnection) -> bool:
    """Copy into `log` a record of the query text for each of `searches` that begins a period without one of its own.

    UBI keeps queries and events apart, and its queries have no session. The record is one of the same query id: the
    last before the search's first event, one without a product where there is one, else (clocks differ) the first after
    it. Also `lent`: these copies. False where there are none to give.
    """
    lacking = """
        SELECT search, session, asked, first_time AS time FROM searches
        WHERE asked IS NOT NULL AND (query_known IS NULL OR query_known > first_period)
        """
    if not _count(db, f"({lacking})"):
        return False
    db.execute(
        f"""
        CREATE TEMP TABLE lent AS
        WITH lacking AS ({lacking}),
        records AS (
            SELECT asked, time, period, query, country, product_id IS NULL AS bare,
                   CASE WHEN product_id IS NULL THEN action END AS action
            FROM log SEMI JOIN lacking USING (asked)
            WHERE query IS NOT NULL
            QUALIFY row_number() OVER (PARTITION BY asked, bare, time ORDER BY query, country, action) = 1),
        offers AS (
            SELECT search, session, 1 AS choice, records.*
            FROM lacking ASOF JOIN (FROM records WHERE bare) AS records USING (asked, time)
            UNION ALL
            SELECT search, session, 2, records.* FROM lacking ASOF JOIN records USING (asked, time)
            UNION ALL
            SELECT search, session, 3, records.*
            FROM lacking ASOF JOIN records ON lacking.asked = records.asked AND lacking.time < records.time)
        SELECT search, session, asked, time, period, query, country, action FROM offers
        QUALIFY row_number() OVER (PARTITION BY search ORDER BY choice) = 1
        """
    )
    db.execute("INSERT INTO log BY NAME SELECT * FROM lent")
    return True


def _attribute(db: duckdb.DuckDBPyConnection, engagement: Engagement) -> int:
    db.execute(
        """
        CREATE TEMP TABLE loose AS
        SELECT rowid AS row, session, product_id, time, search AS own
        FROM log WHERE asked IS NULL AND product_id IS NOT NULL AND list_contains($steps, action) AND action <> 'click'
        """,
        {"steps": list(engagement.steps)},
    )
    if not _count(db, "loose"):
        return 0
    db.execute(
        """
        CREATE TEMP TABLE moved AS
        WITH clicks AS (
            SELECT session, product_id, time, search, asked
            FROM log SEMI JOIN loose USING (session, product_id)
            WHERE search IS NOT NULL AND action IN ('click', $first)),
        elsewhere AS (
            SELECT row, loose.session, loose.product_id, loose.time
            FROM loose ASOF LEFT JOIN clicks
                 ON own = search AND loose.product_id = clicks.product_id AND loose.time >= clicks.time
            WHERE clicks.time IS NULL OR loose.time - clicks.time > $window),
        last_of AS (
            SELECT session, product_id, time, min(search) AS search, min_by(asked, search) AS asked
            FROM clicks GROUP BY session, product_id, time)
        SELECT row, search, asked
        FROM elsewhere ASOF JOIN last_of USING (session, product_id, time)
        WHERE elsewhere.time - last_of.time <= $window
        """,
        {"first": engagement.steps[0], "window": timedelta(hours=engagement.attribution_hours)},
    )
    db.execute("UPDATE log SET search = moved.search, asked = moved.asked FROM moved WHERE log.rowid = moved.row")
    return _count(db, "moved")


def _answer(db: duckdb.DuckDBPyConnection, chain: tuple[str, ...]) -> int:
    before = chain[chain.index(REPLY) - 1]
    same = "" if before == "search" else "AND asking.product_id = replies.product_id"  # a search has no product
    db.execute(
        f"""
        CREATE TEMP TABLE replies AS
        WITH asking AS (SELECT search, product_id, time FROM log WHERE action = $before)
        SELECT rowid AS row, asked, product_id, time, search AS own
        FROM log AS replies
             ANTI JOIN asking ON asking.search = replies.search {same} AND asking.time <= replies.time
        WHERE action = '{REPLY}' AND asked IS NOT NULL
        """,
        {"before": before},
    )
    if not _count(db, "replies"):
        return 0
    db.execute(
        f"""
        CREATE TEMP TABLE answers AS
        WITH asking AS (
            SELECT asked, product_id, time, min(search) AS search, min_by(session, search) AS session,
                   min_by(client, search) AS client
            FROM log SEMI JOIN replies USING (asked)
            WHERE action = $before GROUP BY asked, product_id, time)
        SELECT row, search, session, client
        FROM replies ASOF JOIN asking
             ON asking.asked = replies.asked {same} AND replies.time >= asking.time
        """,
        {"before": before},
    )
    db.execute(
        """
        INSERT INTO replied
        SELECT log.session, log.client, product_id, period FROM log JOIN answers ON log.rowid = answers.row
        WHERE network IS NULL AND (log.client IS NULL OR log.client IS DISTINCT FROM answers.client)
        """
    )
    # What the reply says of its own session (whose client, where) is the seller's.
    db.execute(
        """
        UPDATE log SET search = answers.search, session = answers.session,
                       client = NULL, network = NULL, country = NULL, query = NULL
        FROM answers WHERE log.rowid = answers.row
        """
    )
    # A seller's session that only replied has made no search.
    db.execute(
        f"""
        CREATE TEMP TABLE unanswered AS
        WITH stray AS (SELECT row, own, time FROM replies ANTI JOIN answers USING (row)),
        searched AS (
            SELECT search, min(time) AS time FROM log SEMI JOIN stray ON own = search
            WHERE action <> '{REPLY}' GROUP BY search)
        SELECT row FROM stray ANTI JOIN searched ON own = search AND searched.time <= stray.time
        """
    )
    db.execute("DELETE FROM log WHERE rowid IN (SELECT row FROM unanswered)")
    return _count(db, "unanswered")


def _count(db: duckdb.DuckDBPyConnection, table: str) -> int:
    return int(db.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0])
