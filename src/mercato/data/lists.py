"""The displayed lists of the log, for list-wise training and evaluation: whose they were cannot be told from them."""

from __future__ import annotations

import duckdb


def list_up(db: duckdb.DuckDBPyConnection) -> None:
    """Turn `told` (`mercato.data.outcomes`) into `lists` (schema `LISTS`, and `period`).

    A list is what one search displayed in one period, of products in `catalogue`, each at the best of its positions.
    Its id is a digest of its own content and of a number that tells it from lists of the same content, so that it
    leads to no session, query id, hour or other list.
    """
    db.execute(
        """
        CREATE TEMP TABLE lists AS
        WITH displayed AS (
            SELECT search, period, split, query, country, product_id, position, depth,
                   min(first_shown) OVER (PARTITION BY search, period)::DATE AS day
            FROM told SEMI JOIN catalogue USING (product_id) WHERE position IS NOT NULL),
        content AS (
            SELECT search, period, concat_ws(' ', period, any_value(day), coalesce(any_value(country), '-'),
                                             length(any_value(query)), any_value(query)) AS head,
                   string_agg(concat_ws(' ', position, coalesce(depth::VARCHAR, '-'), length(product_id), product_id),
                              ' ' ORDER BY position, product_id) AS body
            FROM displayed GROUP BY search, period),
        named AS (
            SELECT search, period,
                   md5(concat_ws(' ', head, row_number() OVER (PARTITION BY head, body), body)) AS list_id
            FROM content)
        SELECT list_id, query, country, day, product_id, position, depth, split, period
        FROM displayed JOIN named USING (search, period)
        """
    )
