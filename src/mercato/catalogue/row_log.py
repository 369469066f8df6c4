"""A log of rows: acknowledged here until they are moved to the market's table (`mercato.catalogue.log_mover`)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import sqlalchemy as sa

from mercato.catalogue.database import Database


class RowLog:
    """An append-only log of a market table's rows, numbered from 1; a number is never used twice."""

    def __init__(self, database: Database, table: sa.Table) -> None:
        """`table` has the columns `id` and `row`."""
        self._database, self._table = database, table

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows, all or none; on disk when this returns. NumPy arrays are lists, and what is NaN in them null."""
        if rows:
            packed = [{"row": orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY)} for row in rows]
            with self._database.write() as connection:
                connection.execute(sa.insert(self._table), packed)

    def oldest(self, limit: int, size: float = math.inf) -> list[tuple[int, dict[str, Any]]]:
        """The oldest rows that are still here, as (id, row), in order; no more of them once they reach `size` bytes."""
        columns, found = self._table.c, []
        with self._database.read() as connection:
            for row in connection.execute(sa.select(columns.id, columns.row).order_by(columns.id).limit(limit)):
                found.append((row[0], orjson.loads(row[1])))
                if (size := size - len(row[1])) <= 0:
                    break
        return found

    def delete(self, first: int, last: int) -> None:
        """Delete the rows with these ids, both ends included."""
        with self._database.write() as connection:
            connection.execute(sa.delete(self._table).where(self._table.c.id.between(first, last)))
