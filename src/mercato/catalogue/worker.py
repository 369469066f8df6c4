"""The ingestion worker: outbox jobs into the index, events into their table, and the index kept compact."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Self

import numpy as np

from mercato.catalogue.event_mover import EventMover
from mercato.catalogue.outbox import LEASE_SECONDS, OutboxJob
from mercato.catalogue.store import Catalogue
from mercato.errors import MercatoError
from mercato.retrieval.protocol import Index, record_from_product
from mercato.runs.encoder import Encoder

log = logging.getLogger("mercato.ingestion")

_INDEX = "index"  # the setting that names the index's content


class IngestionWorker:
    """The background worker of a server, a few threads. What it has not done when its process dies, the next one does.

    `name` is what it holds leases under, and no other living worker of this catalogue may have it: as it starts, it
    takes back at once what an earlier life of it held. As a context manager it runs until the block ends.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        encoder: Encoder,
        index: Index,
        events: Path,
        name: str,
        batch: int = 32,
        flush_seconds: float = 10.0,
        compact_after: int = 20_000,
    ) -> None:
        self._catalogue, self._encoder, self._index, self._batch = catalogue, encoder, index, batch
        self._name = name
        self._events = EventMover(catalogue, events)
        self._compact_after, self._written = compact_after, 0
        self._claimed: list[OutboxJob] = []  # being worked on; after an error they are tried again, not claimed again
        self._searchable: set[OutboxJob] = set()  # in the index but not yet on its disk: acknowledged only then
        self._guard = Lock()
        self._products = _Loop("ingestion", self.drain, pause_seconds=1.0)
        self._loops = (
            self._products,
            _Loop("events", self._events.move, pause_seconds=flush_seconds),
            _Loop("upkeep", self.maintain, pause_seconds=2.0),
            _Loop("heartbeat", self.heartbeat, pause_seconds=LEASE_SECONDS / 4),
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Take up what an earlier process left and begin; under a new index, with all that the API wrote."""
        settings, index = self._catalogue.settings, self._index.fingerprint
        if settings.get(_INDEX) != index:
            self._catalogue.outbox.replay()
            settings.set(_INDEX, index)
        self._events.recover()
        self._catalogue.outbox.release(self._name)
        for loop in self._loops:
            loop.start()

    def wake(self) -> None:
        """Say that the outbox has something."""
        self._products.wake()

    def stop(self) -> None:
        """End the threads; the events are moved, what waits in the outbox stays there, free for any worker."""
        for loop in self._loops:
            loop.stop()
        while self._events.move():
            pass
        self.settle()
        self._catalogue.outbox.release(self._name)

    def drain(self) -> int:
        """Make one batch of the outbox searchable; returns how many jobs it worked on."""
        if not self._claimed:
            self._claimed = self._catalogue.outbox.claim(self._name, self._batch)
        jobs = self._claimed
        deleted = [job for job in jobs if job.operation == "delete"]
        if deleted:
            self._index.delete([job.product_id for job in deleted])
        written = self._embed([job for job in jobs if job.operation == "upsert"])
        with self._guard:
            self._searchable.update(deleted + written)
            self._claimed = []
        return len(jobs)

    def settle(self) -> int:
        """Bring the index to its disk and acknowledge the jobs that are there; returns how many that were.

        A flush costs several syncs of the disk, so it is shared by all that was written meanwhile.
        """
        with self._guard:
            settled = list(self._searchable)
        if settled:
            if self._index.capabilities.flush:
                self._index.flush()
            self._catalogue.outbox.ack(settled)
            with self._guard:
                self._searchable.difference_update(settled)
        return len(settled)

    def maintain(self) -> int:
        """Settle, and compact the index when enough was written since the last time."""
        self._written += self.settle()
        if self._written >= self._compact_after:  # rows that its graph lacks are searched one by one
            self._written = 0
            if self._index.capabilities.compaction:
                self._index.compact()
        return 0

    def heartbeat(self) -> int:
        """Extend the leases of all that is claimed and not yet acknowledged."""
        with self._guard:
            held = [*self._claimed, *self._searchable]
        self._catalogue.outbox.heartbeat(held)
        return 0

    def _embed(self, jobs: Sequence[OutboxJob]) -> list[OutboxJob]:
        """Embed and index these jobs' products; returns those done. One that fails is put off and hinders no other."""
        if not jobs:
            return []
        try:
            stored = self._catalogue.products.load([job.product_id for job in jobs])
            products = [product.row() for product in stored]
            if products:
                vectors = self._encoder.encode_products(products)
                if not np.isfinite(vectors).all():
                    raise MercatoError("the model gave a vector that is not finite")
                records = [record_from_product(p, vector) for p, vector in zip(products, vectors, strict=True)]
                self._index.upsert(records)
            return list(jobs)
        except Exception as error:
            if len(jobs) > 1:
                return [done for job in jobs for done in self._embed([job])]
            (job,) = jobs
            self._catalogue.outbox.retry(job, f"{type(error).__name__}: {error}", min(2.0**job.attempts, 600.0))
            log.warning("product %s could not be indexed (attempt %d)", job.product_id, job.attempts + 1)
            return []


class _Loop:
    """Calls `work` in a thread: again at once while it returns more than 0, else when woken or after a pause."""

    def __init__(self, name: str, work: Callable[[], int], pause_seconds: float) -> None:
        self._name, self._work, self._pause = name, work, pause_seconds
        self._woken, self._ended = Event(), False
        self._thread = Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        self._woken.set()

    def stop(self) -> None:
        self._ended = True
        self._woken.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._ended:
            self._woken.clear()
            try:
                did = self._work()
            except Exception as error:  # a full disk, a locked database: say so, and try again after the pause
                log.error("%s: %s; trying again", self._name, type(error).__name__)
                did = 0
            if did == 0 and not self._ended:
                self._woken.wait(self._pause)
