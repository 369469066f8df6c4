"""Places for large bodies, so that memory is bounded: those with the key have some of their own.

A body that hardly comes gives its place to the next, so that a few that stall do not shut out all others.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from starlette.types import Scope

from mercato.serving.connections import turned_away
from mercato.serving.protocol import CONNECTION, BoundedProtocol

_PLACES = {True: 4, False: 16}  # with the key, and without
_RATE = 256 * 1024  # bytes a second; the body furthest behind it may lose its place,
_LAG = 1.0  # where it is behind by more seconds than this


class LargeBodies:
    """Those that are read or worked on."""

    def __init__(self) -> None:
        self._inside: dict[bool, list[BoundedProtocol | None]] = {True: [], False: []}

    @contextmanager
    def place(self, scope: Scope, keyed: bool) -> Iterator[bool]:
        """A place until the block ends; yields whether there was one."""
        inside, connection = self._inside[keyed], scope.get("state", {}).get(CONNECTION)
        if len(inside) >= _PLACES[keyed] and not _drop_slowest(inside):
            yield False
            return
        inside.append(connection)
        try:
            yield True
        finally:
            if connection in inside:
                inside.remove(connection)


def _drop_slowest(inside: list[BoundedProtocol | None]) -> bool:
    slowest = max(filter(None, inside), key=lambda connection: connection.lag(_RATE), default=None)
    if slowest is None or slowest.lag(_RATE) <= _LAG:
        return False
    turned_away["too slow: a large body, for another"] += 1
    inside.remove(slowest)
    slowest.drop(408, "the body came too slowly while others waited")
    return True
