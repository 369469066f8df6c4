"""Keyset paging: an opaque signed cursor says where a page ended, and the next one starts behind its last hit.

Paging by key instead of by offset means that products written between two pages neither repeat a hit nor hide one.
The signature keeps a client from asking for a depth or a query that the server never offered.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from dataclasses import astuple, dataclass

import orjson

from mercato.errors import MercatoError

_SIGNATURE = 16  # bytes of HMAC-SHA256 kept


@dataclass(frozen=True)
class Position:
    """The last hit shown (its place in the order), how many were shown, and the id that the whole search logs under."""

    exact: bool
    score: float
    product_id: str
    shown: int
    query_id: str


def digest(search: object) -> str:
    """Name a search (any JSON value: everything that decides its ranking) so that a cursor can say whose it is."""
    return hashlib.sha256(orjson.dumps(search, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


class CursorSigner:
    """Writes and reads cursors under one key; replicas that share the key read each other's."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def encode(self, position: Position, search: str) -> str:
        """The cursor text (URL-safe) of a position in the search of this digest."""
        body = orjson.dumps([*astuple(position), search])
        return base64.urlsafe_b64encode(self._sign(body) + body).decode().rstrip("=")

    def decode(self, cursor: str, search: str) -> Position:
        """Read a cursor back.

        Raises:
            MercatoError: it was not written under this key, or belongs to another search.
        """
        try:
            raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise MercatoError("cursor: not a cursor of this server; start again without one") from None
        signature, body = raw[:_SIGNATURE], raw[_SIGNATURE:]
        if not hmac.compare_digest(signature, self._sign(body)):
            raise MercatoError("cursor: not a cursor of this server; start again without one")
        *position, owner = orjson.loads(body)
        if not hmac.compare_digest(owner, search):
            raise MercatoError("cursor: belongs to another search; start again without one")
        return Position(*position)

    def _sign(self, body: bytes) -> bytes:
        return hmac.digest(self._key, body, "sha256")[:_SIGNATURE]
