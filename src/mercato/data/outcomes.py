"""What came of each displayed product: a search's chain of steps, and the pairs that many searches make together."""

from __future__ import annotations

from datetime import timedelta

import duckdb

from mercato.data.caps import NETWORK, VOICE, WHOSE, count_people
from mercato.data.market import Engagement


def follow_chains(db: duckdb.DuckDBPyConnection, engagement: Engagement) -> None:
    """Turn `log` (`mercato.data.searches`) into `outcomes`: what one search did with one product in one period.

    `depth` is how many of `engagement.steps` were taken, each after the one before, all of them within the window that
    the chain's first action opens; null where nobody knows yet or any more: the window was still open when the period
    ended, or the steps are not in order (a cut may have taken the beginning): `astray`.
    """
    chain, steps = engagement.chain, engagement.steps
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
        {"first": chain[0], "chain": list(chain)},
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
    walked = " UNION ALL ".join(
        f"SELECT *, {steps.index(action) + 1} AS depth FROM step{number} WHERE action = $step{number}"
        for number, action in enumerate(chain, start=1)
        if action in steps
    )
    db.execute(
        f"""
        CREATE TEMP TABLE outcomes AS
        WITH walked AS (
            SELECT search, period, product_id, max(depth) AS depth, max(began) AS began,
                   max_by(time, (depth, time)) AS time
            FROM ({walked}) WHERE time - began <= $window GROUP BY search, period, product_id),
        touched AS (
            SELECT search, period, product_id, bool_or(action <> 'impression') AS stepped,
                   count(*) FILTER (action = 'impression') AS impressions, count(*) FILTER (action = $click) AS clicks,
                   count(position) FILTER (action = 'impression') AS placed,
                   sum(position) FILTER (action = 'impression') AS places,
                   min(position) FILTER (action = 'impression') AS position,
                   max(placed_by) FILTER (action = 'impression') AS placed_by,
                   min(time) FILTER (action = 'impression') AS first_shown,
                   max(time) FILTER (action = 'impression') AS last_shown
            FROM log WHERE product_id IS NOT NULL AND (action = 'impression' OR list_contains($steps, action))
            GROUP BY search, period, product_id)
        SELECT touched.*, coalesce(walked.time, last_shown) AS time, stepped AND walked.depth IS NULL AS astray,
               CASE WHEN NOT stepped THEN 0
                    WHEN depth = $all OR began + $window <= ends THEN depth END AS depth
        FROM touched LEFT JOIN walked USING (search, period, product_id) JOIN cuts USING (period)
        """,
        {
            **{f"step{number}": action for number, action in enumerate(chain, start=1) if action in steps},
            "window": timedelta(hours=engagement.window_hours),
            "click": "click" if "click" in steps else steps[0],
            "steps": list(steps),
            "all": len(steps),
        },
    )


def tell(db: duckdb.DuckDBPyConnection, engagement: Engagement) -> None:
    """Turn `outcomes` into `told`: those of queries that enough people had made, with their query and country.

    A stranger's search shows and clicks a product once, and not where it is not `counted` (`count_once`).
    """
    db.execute(
        f"""
        CREATE TEMP TABLE told AS
        SELECT outcomes.* REPLACE (
                   CASE WHEN {NETWORK} IS NULL THEN impressions ELSE least(impressions, 1) END AS impressions,
                   CASE WHEN {NETWORK} IS NULL THEN clicks ELSE least(clicks, 1) END AS clicks,
                   CASE WHEN {NETWORK} IS NULL THEN placed ELSE least(placed, 1) END AS placed,
                   CASE WHEN {NETWORK} IS NULL THEN places ELSE position END AS places),
               asked, query, {VOICE} AS voice, {NETWORK} AS network,
               (uncounted.known <= period) IS NOT TRUE AS counted,
               CASE WHEN country_known <= period THEN country END AS country,
               ['train', 'validation', 'future'][period + 1] AS split
        FROM outcomes JOIN searches USING (search) JOIN popularity USING (query, period) {WHOSE}
             LEFT JOIN uncounted USING (search)
        WHERE query_known <= period AND people >= $min_sessions
        """,
        {"min_sessions": engagement.min_sessions},
    )


def pair_up(db: duckdb.DuckDBPyConnection, engagement: Engagement) -> None:
    """Turn `told` into `pairs`: a row a period, query, country and product, labelled as `engagement.left` says.

    A client counts once a day, a session without one once.
    """
    db.execute(
        f"""
        CREATE TEMP TABLE pairs AS
        WITH by_outcome AS (
            SELECT period, split, query, country, product_id,
                   CASE WHEN depth = $all THEN 1
                        WHEN counted AND depth IS NOT NULL AND ($left_counts OR NOT stepped) THEN 0 END AS outcome,
                   {count_people(db, "voice")} AS voices, max(time) AS time, max(depth) AS depth,
                   sum(impressions) FILTER (counted) AS impressions, sum(clicks) FILTER (counted) AS clicks,
                   sum(places) FILTER (counted) AS places, sum(placed) FILTER (counted) AS placed
            FROM told GROUP BY ALL)
        SELECT query, country, product_id, max(outcome) AS label, max_by(voices, outcome)::DOUBLE AS weight,
               max_by(date_trunc('day', time), outcome) AS last_seen, split, max(depth) / $all AS grade,
               coalesce(sum(impressions), 0)::BIGINT AS impressions, coalesce(sum(clicks), 0)::BIGINT AS clicks,
               max(depth) AS depth, sum(places) / sum(placed) AS position, period
        FROM by_outcome GROUP BY period, split, query, country, product_id
        HAVING label IS NOT NULL AND ($left_counts OR coalesce(max(depth), 0) IN (0, $all))
        """,
        {"all": len(engagement.steps), "left_counts": engagement.left != "ignored"},
    )
