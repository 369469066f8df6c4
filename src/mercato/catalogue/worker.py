"""From acknowledged to searchable: the outbox into the index, the events into their table, the index kept compact."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from threading import Event, Lock, Thread

import numpy as np

from mercato.catalogue.events import EventMover
from mercato.catalogue.store import Catalogue, Product, Task
from mercato.errors import MercatoError
from mercato.retrieval.protocol import Index, record_from_product
from mercato.runs.encoder import Encoder

log = logging.getLogger("mercato.ingestion")


class Ingestion:
    """The background threads of a server. What they have not done when a process dies, the next one does."""

    def __init__(
        self,
        catalogue: Catalogue,
        encoder: Encoder,
        index: Index,
        events: Path,
        batch: int = 32,
        flush_seconds: float = 10.0,
        compact_after: int = 20_000,
    ) -> None:
        self._catalogue, self._encoder, self._index, self._batch = catalogue, encoder, index, batch
        self._events = EventMover(catalogue, events)
        self._compact_after, self._written = compact_after, 0
        self._searchable: set[Task] = set()  # in the index but not yet on its disk: the outbox keeps them until then
        self._guard = Lock()
        self._products = _Loop("ingestion", self.drain, pause_seconds=1.0)
        self._flush = _Loop("events", self._events.move, pause_seconds=flush_seconds)
        self._upkeep = _Loop("upkeep", self.maintain, pause_seconds=2.0)

    def start(self) -> None:
        """Take up what an earlier process left and begin."""
        self._events.recover()
        for loop in (self._products, self._flush, self._upkeep):
            loop.start()

    def wake(self) -> None:
        """Say that the outbox has something."""
        self._products.wake()

    def stop(self) -> None:
        """End the threads; the events are moved, what waits in the outbox stays there."""
        for loop in (self._products, self._flush, self._upkeep):
            loop.stop()
        while self._events.move():
            pass
        self.settle()

    def drain(self) -> int:
        """Make one batch of the outbox searchable; returns how many tasks it took."""
        with self._guard:
            known = set(self._searchable)
        due = self._catalogue.take(self._batch + len(known))
        tasks = [task for task in due if task not in known][: self._batch]
        gone = [task for task in tasks if task.operation == "delete"]
        if gone:
            self._index.delete([task.product_id for task in gone])
        written = self._embed([task for task in tasks if task.operation == "upsert"])
        with self._guard:
            self._searchable.update(gone + written)
        return len(tasks)

    def settle(self) -> int:
        """Bring the index to its disk and take what is there out of the outbox; returns how many tasks that were.

        A flush costs several syncs of the disk, so it is shared by all that was written meanwhile.
        """
        with self._guard:
            settled = list(self._searchable)
        if settled:
            self._index.flush()
            self._catalogue.done(settled)
            with self._guard:
                self._searchable.difference_update(settled)
        return len(settled)

    def maintain(self) -> int:
        """Settle, and compact the index when enough was written since the last time."""
        self._written += self.settle()
        if self._written >= self._compact_after:  # rows that its graph lacks are searched one by one
            self._written = 0
            self._index.compact()
        return 0

    def _embed(self, tasks: Sequence[Task]) -> list[Task]:
        """Embed and index these tasks' products; returns those done. One that fails is noted and hinders no other."""
        if not tasks:
            return []
        try:
            products = product_rows(self._catalogue.full([task.product_id for task in tasks]))
            if products:
                vectors = self._encoder.encode_products(products)
                if not np.isfinite(vectors).all():
                    raise MercatoError("the model gave a vector that is not finite")
                records = [record_from_product(p, vector) for p, vector in zip(products, vectors, strict=True)]
                self._index.upsert(records)
            return list(tasks)
        except Exception as error:
            if len(tasks) > 1:
                return [done for task in tasks for done in self._embed([task])]
            (task,) = tasks
            self._catalogue.failed(task, f"{type(error).__name__}: {error}", min(2.0**task.attempts, 600.0))
            log.warning("product %s could not be indexed (attempt %d)", task.product_id, task.attempts + 1)
            return []


def product_rows(products: Sequence[Product]) -> list[Product]:
    """Products as the catalogue keeps them, their time a datetime."""
    return [p | {"created_at": p["created_at"] and datetime.fromisoformat(p["created_at"])} for p in products]


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
