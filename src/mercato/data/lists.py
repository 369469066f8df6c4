"""The displayed lists of the log, for list-wise training and evaluation: whose they were cannot be told from them."""

from __future__ import annotations

from datetime import timedelta

import duckdb

from mercato.data.market import Engagement


def read_features(db: duckdb.DuckDBPyConnection) -> None:
    """Turn the view `features` (schema `FEATURES`) into `ordered_by`: of a page asked for twice, one of the two."""
    db.execute(
        """
        CREATE TEMP TABLE ordered_by AS
        SELECT hash(query_id) AS asked, product_id, features, features_version
        FROM features
        QUALIFY row_number() OVER (PARTITION BY query_id, product_id ORDER BY position, features_version, features) = 1
        """
    )


def list_up(db: duckdb.DuckDBPyConnection, engagement: Engagement) -> None:
    """Turn `told` (`mercato.data.outcomes`) and `ordered_by` into `lists` (schema `LISTS`, and `period`).

    A list is what one search displayed in one period, of products in `catalogue`, each at the best of its positions.
    Its id is a digest of its own content and of a number that tells it from lists of the same content, so that it
    leads to no session, query id, hour or other list. Of a list whose last product was shown less than the window
    before its period's end no `depth` is told: of its chains only those that were walked to the end at once are known.
    The features that a product was ordered by are those of its query id, where they were logged.
    """
    db.execute(
        """
        CREATE TEMP TABLE displayed AS
        SELECT search, period, split, query, country, product_id, position, placed_by, first_shown,
               CASE WHEN max(last_shown) OVER (PARTITION BY search, period) + $window <= ends THEN depth END AS depth,
               features, features_version
        FROM told SEMI JOIN catalogue USING (product_id) JOIN cuts USING (period)
             LEFT JOIN ordered_by USING (asked, product_id)
        WHERE position IS NOT NULL AND counted
        """,
        {"window": timedelta(hours=engagement.window_hours)},
    )
    # The sum of the rows' digests needs no sorting.
    db.execute(
        """
        CREATE TEMP TABLE named AS
        WITH content AS (
            SELECT search, period, any_value(query) AS query, any_value(country) AS country,
                   min(first_shown)::DATE AS day,
                   sum(md5_number_lower(concat_ws(' ', position, coalesce(depth, -1), product_id,
                                                   features_version, features::VARCHAR, placed_by))) AS rows
            FROM displayed GROUP BY search, period)
        SELECT search, period, day,
               md5(concat_ws(' ', period, day, coalesce(country, '-'), rows, query,
                             row_number() OVER (PARTITION BY period, query, country, day, rows))) AS list_id
        FROM content
        """
    )
    db.execute(
        """
        CREATE TEMP TABLE lists AS
        SELECT list_id, query, country, day, product_id, position, placed_by, depth, split, features, features_version,
               period
        FROM displayed JOIN named USING (search, period)
        """
    )
