"""Paging: an opaque signed cursor says which search goes on, and what of it has been shown.

What a search finds changes between two pages: products come, go and change, the index is swapped, another process
answers. So a page is not a place in an order, it is what comes first of what has not been shown yet. The signature
keeps a client from asking for what the server never offered.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import struct
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import orjson

from mercato.errors import ExpiredError, MercatoError

CURSOR_SECONDS = 3600  # that a cursor is good for
_SIGNATURE = 16  # bytes of HMAC-SHA256 kept
_HASH = 8  # bytes by which a shown product is known: two of a thousand are alike with a chance of 10^-14
_HEAD = struct.Struct("<12s16sIIH")  # query id, search, time of the search, time it was written, pages shown
_FORMAT = b"2"  # signed too: a cursor of another layout is none of this server


@dataclass(frozen=True)
class Cursor:
    """Where a search stands: its id, under which all its pages are logged, when it began, the pages and the products
    shown.
    """

    query_id: str  # 24 hexadecimal digits
    as_of: int  # seconds since 1970; on all its pages listings have their age then
    pages: int
    shown: frozenset[bytes]

    def and_shown(self, product_ids: Iterable[str]) -> Cursor:
        """After one more page."""
        return Cursor(self.query_id, self.as_of, self.pages + 1, self.shown | frozenset(map(shown_as, product_ids)))


def shown_as(product_id: str) -> bytes:
    """What a cursor remembers of a product that was shown."""
    return hashlib.blake2b(product_id.encode(), digest_size=_HASH).digest()


def digest(search: object) -> bytes:
    """Name a search (any JSON value: everything that decides its ranking) so that a cursor can say whose it is."""
    return hashlib.sha256(orjson.dumps(search, option=orjson.OPT_SORT_KEYS)).digest()[:16]


class CursorSigner:
    """Writes and reads cursors under one key; replicas that share the key read each other's."""

    def __init__(self, key: bytes, clock: Callable[[], float] = time.time) -> None:
        self._key, self._clock = key, clock

    def encode(self, cursor: Cursor, search: bytes) -> str:
        """The text (URL-safe) of a cursor in the search of this digest."""
        head = _HEAD.pack(bytes.fromhex(cursor.query_id), search, cursor.as_of, int(self._clock()), cursor.pages)
        body = head + b"".join(sorted(cursor.shown))
        return base64.urlsafe_b64encode(self._sign(body) + body).decode().rstrip("=")

    def decode(self, text: str, search: bytes) -> Cursor:
        """Read a cursor back.

        Raises:
            ExpiredError: its time is over.
            MercatoError: it was not written under this key, or belongs to another search.
        """
        try:
            raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise MercatoError("cursor: not a cursor of this server; start again without one") from None
        signature, body = raw[:_SIGNATURE], raw[_SIGNATURE:]
        if not hmac.compare_digest(signature, self._sign(body)) or len(body) < _HEAD.size:
            raise MercatoError("cursor: not a cursor of this server; start again without one")
        query_id, owner, as_of, written, pages = _HEAD.unpack_from(body)
        if not hmac.compare_digest(owner, search):
            raise MercatoError("cursor: belongs to another search; start again without one")
        if self._clock() - written > CURSOR_SECONDS:
            raise ExpiredError("cursor: too old; start again without one")
        shown = frozenset(body[at : at + _HASH] for at in range(_HEAD.size, len(body), _HASH))
        return Cursor(query_id.hex(), as_of, pages, shown)

    def _sign(self, body: bytes) -> bytes:
        return hmac.digest(self._key, _FORMAT + body, "sha256")[:_SIGNATURE]
