"""Access: whose key came with a request, what it may do, and how often."""

from __future__ import annotations

import asyncio
import hmac
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from mercato.catalogue.keys import PREFIX, SCOPES, ApiKey, Scope
from mercato.errors import MercatoError
from mercato.serving.proxies import share

_LOG = logging.getLogger(__name__)

Area = Literal["search", "embed", "events", "metrics", "docs"]
AREAS: tuple[Area, ...] = get_args(Area)  # what may be open to those without a key

_SCOPE_OF: dict[Area, Scope] = {
    "search": "read",
    "embed": "read",
    "events": "write",
    "metrics": "admin",
    "docs": "read",
}
_AREA_OF: dict[str, Area] = {
    "/v1/embed": "embed",
    "/v1/events": "events",
    "/metrics": "metrics",
    "/docs": "docs",
    "/openapi.json": "docs",
}
_WRITES = ("POST", "PUT", "PATCH", "DELETE")


@dataclass(frozen=True)
class Caller:
    """Who sent a request with a valid key."""

    key_id: str
    scopes: frozenset[Scope]
    bucket: TokenBucket | None = None  # None: no limit

    def may(self, scope: Scope) -> bool:
        """Whether the key has the scope."""
        return scope in self.scopes


def needed(method: str, path: str, opened: Collection[Area]) -> Scope | None:
    """The scope that a request needs; None: it is for everyone. `/healthz`, `/readyz` and the page always are."""
    if (path == "/v1/products" or path.startswith("/v1/products/")) and method in _WRITES:
        return "write"
    area = _AREA_OF.get(path) or ("search" if path.startswith("/v1/") else None)
    return None if area is None or area in opened else _SCOPE_OF[area]


class TokenBucket:
    """Lets so many through in a second, and a second's worth at once (at least one)."""

    def __init__(self, rate: float, now: Callable[[], float] = time.monotonic) -> None:
        self.rate, self._now = rate, now
        self._most = max(1.0, rate)
        self._tokens, self._at = self._most, now()

    def take(self, count: float = 1.0) -> float:
        """Take some, and return 0; or take none, and return in how many seconds there will be enough."""
        now = self._now()
        self._tokens = min(self._most, self._tokens + (now - self._at) * self.rate)
        self._at = now
        wanted = min(count, self._most)  # who takes more than fit waits for a full bucket, and owes the rest
        if self._tokens >= wanted:
            self._tokens -= count
            return 0.0
        return (wanted - self._tokens) / self.rate


class SharedRate:
    """Lets through so much in a second of each address, and so much of all of them together."""

    def __init__(
        self, of_each: float, of_all: float | None, addresses: int = 10_000, now: Callable[[], float] = time.monotonic
    ) -> None:
        """`of_all` None: all together are bounded by nothing. `addresses` are remembered, those that came last; the
        bound on all holds whatever is forgotten.
        """
        self.of_each, self._most, self._now = of_each, addresses, now
        self._all = None if of_all is None else TokenBucket(of_all, now)
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def take(self, address: str, count: float) -> float:
        """As `TokenBucket.take`, of an address and of all."""
        own = share(address)
        bucket = self._buckets.setdefault(own, TokenBucket(self.of_each, self._now))
        self._buckets.move_to_end(own)
        if len(self._buckets) > self._most:
            self._buckets.popitem(last=False)
        return bucket.take(count) or (self._all.take(count) if self._all else 0.0)


class KeyRing:
    """The keys as one process knows them: those of the catalogue, read again after `fresh` seconds, and the server's.

    So a key that is made or revoked opens or closes within that time, without a restart.
    """

    def __init__(self, load: Callable[[], Sequence[ApiKey]], server_key: str | None, fresh: float = 1.0) -> None:
        self._load, self._fresh = load, fresh
        self._server = None if server_key is None else server_key.encode()
        self._keys: dict[str, tuple[ApiKey, Caller]] = {}
        self._read_at, self._turn = -math.inf, asyncio.Lock()

    async def caller(self, key: bytes) -> Caller | None:
        """Whose key it is; None: nobody's."""
        if self._server is not None and hmac.compare_digest(key, self._server):
            return Caller("server", frozenset(SCOPES))
        prefix, _, rest = key.decode("latin-1").partition("_")
        key_id, _, secret = rest.partition("_")
        if prefix != PREFIX or not secret:
            return None
        await self._refresh()
        known = self._keys.get(key_id)
        return known[1] if known is not None and known[0].matches(secret) else None

    async def _refresh(self) -> None:
        """Read the keys anew in a thread of its own: a catalogue may be slow, or another machine's."""
        async with self._turn:
            if time.monotonic() - self._read_at < self._fresh:
                return
            self._read_at = time.monotonic()
            try:
                found = await asyncio.to_thread(self._load)
            except MercatoError as error:  # what was known holds until they can be read again
                _LOG.warning("%s", error)
                return
            self._keys = {key.key_id: self._known(key) for key in found if key.revoked_at is None}

    def _known(self, key: ApiKey) -> tuple[ApiKey, Caller]:
        before = self._keys.get(key.key_id)
        if before is not None and before[0] == key:
            return before  # with what is left in its bucket
        return key, Caller(key.key_id, key.scopes, None if key.rate is None else TokenBucket(key.rate))
