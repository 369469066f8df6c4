"""Query ids: signed where a search is answered, so that events of searches can be told from invented ones.

A query id is the search's name (24 hexadecimal digits), a hyphen and, in URL-safe Base64, when the search began, a
digest of its query and a signature of them all. Replicas that share the key know each other's.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from mercato.data.normalize import normalize

_FORMAT = b"query id 1"  # signed too: an id of another layout is none of this server's
_BODY = struct.Struct("<I6s")  # seconds since 1970 and the query's digest
_SIGNATURE = 11  # bytes: with the body's whole groups of three
_TEXT = re.compile(r"([0-9a-f]{24})-([A-Za-z0-9_-]{28})")
_AHEAD = 300  # seconds that the clock of a replica may be ahead


@dataclass(frozen=True)
class Search:
    """What a query id says of its search."""

    begun: int  # seconds since 1970
    digest: bytes

    def asked_for(self, query: str) -> bool:
        """Whether its query was this one, in normal form."""
        return self.digest == _digest(query)


class QuerySigner:
    """Writes and reads query ids under one key."""

    def __init__(self, key: bytes, clock: Callable[[], float] = time.time) -> None:
        self._key, self._clock = key, clock

    def sign(self, name: str, begun: int, query: str) -> str:
        """The query id of a search; the same for the same search. `name` is 24 hexadecimal digits."""
        body = _BODY.pack(begun, _digest(query))
        return f"{name}-{base64.urlsafe_b64encode(body + self._sign(name, body)).decode()}"

    def read(self, query_id: str | None, lifetime: timedelta) -> Search | None:
        """The search of a query id; None where it was not signed under this key, or began longer ago."""
        parts = _TEXT.fullmatch(query_id or "")
        if parts is None:
            return None
        raw = base64.urlsafe_b64decode(parts[2])
        body, signature = raw[: _BODY.size], raw[_BODY.size :]
        if not hmac.compare_digest(signature, self._sign(parts[1], body)):
            return None
        begun, digest = _BODY.unpack(body)
        return Search(begun, digest) if -_AHEAD <= self._clock() - begun <= lifetime.total_seconds() else None

    def _sign(self, name: str, body: bytes) -> bytes:
        return hmac.digest(self._key, _FORMAT + name.encode() + body, "sha256")[:_SIGNATURE]


def _digest(query: str) -> bytes:
    return hashlib.blake2b(normalize(query).encode(), digest_size=6).digest()
