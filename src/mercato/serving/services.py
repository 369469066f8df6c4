"""Services: what the routes of one server work with, and the settings that it runs under."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Annotated

from fastapi import Depends, Request

from mercato.catalogue.events import Stranger
from mercato.catalogue.ledger import GenerationLedger
from mercato.catalogue.query_ids import QuerySigner
from mercato.catalogue.store import Catalogue
from mercato.data.market import Market
from mercato.disk import Disk
from mercato.errors import FullError
from mercato.search.market_info import MarketInfo
from mercato.search.paging import CURSOR_SECONDS
from mercato.serving.access import AREAS, Area, SharedRate, TokenBucket
from mercato.serving.connections import turned_away
from mercato.serving.deployment import Deployments
from mercato.serving.executor import BoundedExecutor
from mercato.serving.prometheus import Metrics
from mercato.serving.proxies import NetworkNames

FULL = "the server's disk is full: nothing is written until there is room again"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a server runs; the defaults suit one small machine."""

    api_key: str | None = field(default=None, repr=False)  # the server's own, with every scope; None: it has none
    opened: tuple[Area, ...] = AREAS  # what needs no key
    open_embeddings: float = 32.0  # texts a second that are embedded for those without a key, all together
    open_events: tuple[float, float] = (100.0, 1000.0)  # a second without a key: of one address, and all together
    open_rate: float = 100.0  # searches and products a second that one address reads without a key
    open_depth: int = 240  # products that a search without a key shows on all its pages
    open_event_bytes: tuple[float, float] = (51_200.0, 512_000.0)  # of their bodies, likewise: 512 an event
    searches: int = 2  # run at once; more wait for one another, and the loop for them
    waiting: int = 64  # and wait at most, for searches and for writes each
    timeout_seconds: float = 10.0
    logged: float = 0.1  # the share of the searches whose hits' features are kept for later training
    outbox_bound: int = 100_000  # products waiting to be embedded beyond which writes are refused


class Services:
    """One process's deployments, executors and metrics, over what it was given and does not close."""

    def __init__(
        self,
        market: Market,
        info: MarketInfo,
        deployments: Deployments,
        catalogue: Catalogue,
        wake: Callable[[], None],
        settings: Settings,
        disks: Sequence[Disk] = (),
    ) -> None:
        """`disks` are those that writes go to."""
        self.disks = disks
        self.market, self.market_info = market, info
        self.deployments, self.catalogue = deployments, catalogue
        self.ledger = GenerationLedger(catalogue)
        self.wake, self.settings, self.metrics = wake, settings, Metrics()
        self.reading = BoundedExecutor("search", settings.searches, settings.waiting, settings.timeout_seconds)
        self.writing = BoundedExecutor("write", 2, settings.waiting, settings.timeout_seconds)
        # Apart: searches must not wait for an embedding, nor an embedding for explanations, which anyone may ask for.
        self.embedding = BoundedExecutor("embed", 1, 8, settings.timeout_seconds)
        self.explaining = BoundedExecutor("explain", 1, 4, settings.timeout_seconds)
        self.query_ids = QuerySigner(catalogue.settings.secret("query id"))
        self.networks = NetworkNames(catalogue.settings.secret("network"))
        self.open_embeddings = TokenBucket(settings.open_embeddings)
        self.open_events = SharedRate(*settings.open_events)
        self.open_reads = SharedRate(settings.open_rate, None)
        self._add_metrics()

    def close(self) -> None:
        """Finish what runs and refuse the rest."""
        for executor in (self.reading, self.writing, self.embedding, self.explaining):
            executor.close()

    @property
    def behind(self) -> bool:
        """Whether more products wait to be embedded than the settings allow."""
        return self.catalogue.outbox.depth() >= self.settings.outbox_bound

    @property
    def has_room(self) -> bool:
        """Whether there is room on every disk that is written to."""
        return all(disk.has_room() for disk in self.disks)

    def check_room(self, for_anybody: bool = False) -> None:
        """Raises a FullError where there is none; for anybody, who must not end the shop's writes, twice as early."""
        if not all(disk.has_room(disk.kept_free if for_anybody else 0) for disk in self.disks):
            raise FullError(FULL)

    def stranger(self, address: str) -> Stranger:
        """Who sends events from an address without a key. A query id holds for as long as what it led to can count."""
        lifetime = timedelta(hours=self.market.config.engagement.window_hours, seconds=CURSOR_SECONDS)
        return Stranger(self.networks.of(address), self.query_ids, lifetime)

    def _add_metrics(self) -> None:
        gauge, outbox = self.metrics.gauge, self.catalogue.outbox
        gauge("mercato_outbox_depth", "Products not yet in the index and on its disk", outbox.depth)
        gauge("mercato_index_failures", "Products that could not be embedded", lambda: len(outbox.failures()))
        gauge("mercato_index_size", "Products in the index", self._index_size)
        if self.disks:
            least = "Bytes free on the fullest of the disks that are written to"
            gauge("mercato_disk_free_bytes", least, lambda: min(disk.free for disk in self.disks))
        cached = self.deployments.cached
        self.metrics.count("mercato_query_cache_hits", "Query vectors found in the cache", lambda: cached()[0])
        away = "mercato_connections_turned_away"
        self.metrics.count(away, "Connections closed, or not taken, by this side", turned_away.total)
        self.metrics.count("mercato_query_cache_misses", "Query vectors computed", lambda: cached()[1])

    def _index_size(self) -> int:
        with self.deployments.using() as deployment:
            return len(deployment.index)


async def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


Served = Annotated[Services, Depends(_services)]  # the parameter by which a route gets them
