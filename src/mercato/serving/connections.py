"""The connections of a process: how many it holds, of one address too, and how long each may wait for its client.

A connection waits for its client, or its client waits for an answer. Where there is no place for another, the one that
has waited for its client the longest makes room: whoever holds connections and asks nothing stops nobody who does.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from mercato.serving.proxies import Proxies, share

log = logging.getLogger("mercato.serving")

turned_away: Counter[str] = Counter()  # by this process, by why

_RESERVED = 128  # file descriptors that are not connections': the index's, the catalogue's
_LOG_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a process allows its clients."""

    connections: int = 512
    per_address: int = 64  # connections of one address; behind a trusted proxy, requests at once
    request_seconds: float = 10.0  # for the head of a request, and again for its body, beside what its length allows
    idle_seconds: float = 30.0  # between requests, and for a client to read what it was sent
    proxies: Proxies = field(default_factory=Proxies)


DEFAULTS = Limits()


class Connection(Protocol):
    """One client's."""

    deadline: float  # while it waits for its client: the loop's time at which that ends

    def give_up(self) -> None:
        """Close it: its client took too long."""

    def make_room(self) -> None:
        """Close it at once: another needs its place."""


class Connections:
    """Those that a process holds."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limits: Limits) -> None:
        self._loop, self.limits = loop, limits
        self._places = limits.connections
        self._held: dict[Connection, str | None] = {}  # whose they are; None: a proxy's, or one that is being closed
        self._waiting: dict[Connection, None] = {}  # for their clients, the longest first
        self._leaving: set[Connection] = set()
        self._of_address: Counter[str] = Counter()
        self._told = turned_away.copy()

    def start(self) -> None:
        """See what the process has file descriptors for, and look at deadlines from now on."""
        self._places = _affordable(self.limits.connections)
        self._watch(self._loop.time())

    @property
    def full(self) -> bool:
        """Whether all places are taken."""
        return len(self._held) >= self._places

    def make_room(self) -> bool:
        """Close the connection that has waited for its client the longest; False: none waits, nor is being closed."""
        if not self._leaving and (longest := next(iter(self._waiting), None)):
            self._evict(longest, "for a newer one")
        return bool(self._leaving)

    def take(self, connection: Connection, address: str) -> bool:
        """Give one just accepted a place; False: its address has too many already, all of them at work."""
        counted = None if address in self.limits.proxies else share(address)
        if counted is not None:
            if self._of_address[counted] >= self.limits.per_address:
                own = next((each for each in self._waiting if self._held[each] == counted), None)
                if own is None:
                    return False
                self._evict(own, "for a newer one of its address")
            self._of_address[counted] += 1
        self._held[connection] = counted
        connection.deadline = self._loop.time() + self.limits.request_seconds
        self.wait(connection)
        return True

    def wait(self, connection: Connection) -> None:
        """From now on it waits for its client, until its deadline."""
        self._waiting.pop(connection, None)
        if connection in self._held and connection not in self._leaving:
            self._waiting[connection] = None

    def work(self, connection: Connection) -> None:
        """From now on its client waits."""
        self._waiting.pop(connection, None)

    def release(self, connection: Connection) -> None:
        """It is closed."""
        self._uncount(connection)
        self._held.pop(connection, None)
        self._waiting.pop(connection, None)
        self._leaving.discard(connection)

    @contextmanager
    def request(self, client: str) -> Iterator[bool]:
        """Count a request that a proxy forwards for a client; yields whether the client may have one more."""
        counted = share(client)
        self._of_address[counted] += 1
        try:
            yield self._of_address[counted] <= self.limits.per_address
        finally:
            self._less(counted)

    def _evict(self, connection: Connection, why: str) -> None:
        turned_away[why] += 1
        self._waiting.pop(connection)
        self._leaving.add(connection)
        self._uncount(connection)
        connection.make_room()

    def _uncount(self, connection: Connection) -> None:
        counted = self._held.get(connection)
        if counted is not None:
            self._held[connection] = None
            self._less(counted)

    def _less(self, counted: str) -> None:
        self._of_address[counted] -= 1
        if not self._of_address[counted]:
            del self._of_address[counted]

    def _watch(self, tell_at: float) -> None:
        """Give up what is past its deadline, again and again, and say now and then what was turned away."""
        now = self._loop.time()
        for connection in [each for each in self._waiting if each.deadline < now]:
            connection.give_up()
        if now >= tell_at and turned_away != self._told:
            counts = "; ".join(f"{count:,} {why}" for why, count in (turned_away - self._told).most_common())
            log.warning("connections turned away: %s", counts)
            self._told, tell_at = turned_away.copy(), now + _LOG_SECONDS
        often = min(1.0, self.limits.request_seconds / 4, self.limits.idle_seconds / 4)
        self._loop.call_later(often, self._watch, tell_at)


def _affordable(connections: int) -> int:
    """As many connections as this process may open files for, where it cannot be allowed more."""
    opened = len(list(Path("/dev/fd").iterdir()))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = opened + _RESERVED + connections
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return connections
    places = max(1, soft - opened - min(_RESERVED, soft // 4))
    log.warning("%d connections at once and no more: the limit of open files (ulimit -n) is %d", places, soft)
    return min(connections, places)
