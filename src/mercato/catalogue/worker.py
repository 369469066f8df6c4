"""The ingestion worker: outbox jobs into the indexes, what is logged into its tables, and the indexes kept compact."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Self

from mercato.catalogue.indexing import finite_vectors
from mercato.catalogue.ledger import GenerationLedger
from mercato.catalogue.log_mover import LogMover
from mercato.catalogue.outbox import LEASE_SECONDS, OutboxJob
from mercato.catalogue.products import Product
from mercato.catalogue.store import Catalogue
from mercato.catalogue.tidying import tidy
from mercato.data.market import Market
from mercato.data.schema import LOGGED
from mercato.disk import Disk
from mercato.retrieval.protocol import Index, record_from_product
from mercato.runs.encoder import Encoder

log = logging.getLogger("mercato.ingestion")

_LONGEST_DELAY = 9  # of a job that fails again and again, as a power of two: 512 seconds
_COMPACT_AGAIN_SECONDS = 300.0  # after one that failed
_COMPACT_LEAST, _COMPACT_SHARE = 1_000, 0.2  # rows, and of the products: a small index is compacted by its share


@dataclass(frozen=True)
class Target:
    """A generation to write to, and the encoder of the run that made its vectors."""

    encoder: Encoder
    index: Index


class IngestionWorker:
    """The background worker of a server, a few threads. What it has not done when its process dies, the next one does.

    What is logged goes into tables of the folder `market`. Where one of `disks` is full, nothing more is indexed.
    `name` is what it holds leases under, and no other living worker of this catalogue may have it: as it starts, it
    takes back at once what an earlier life of it held. As a context manager it runs until the block ends.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        targets: Sequence[Target],
        market: Path,
        name: str,
        batch: int = 32,
        flush_seconds: float = 10.0,
        compact_after: int = 20_000,
        disks: Sequence[Disk] = (),
    ) -> None:
        self._catalogue, self._targets, self._batch = catalogue, tuple(targets), batch
        self._ledger = GenerationLedger(catalogue)
        self._name, self._disks = name, disks
        self._market, self._movers = market, [LogMover(catalogue, market, table) for table in LOGGED]
        self._compact_after, self._compact_from = compact_after, 0.0
        self._claimed: list[OutboxJob] = []  # being worked on
        self._searchable: set[OutboxJob] = set()  # in the index but not yet on its disk: acknowledged only then
        self._guard = Lock()
        self._turn = Lock()  # to write to the targets, or to change which these are
        self._products = _Loop("ingestion", self.drain, pause_seconds=1.0)
        self._compaction = _Loop("compaction", self.compact, pause_seconds=2.0)
        self._tidying = _Loop("tidying", self.tidy, pause_seconds=60.0)
        self._loops = (
            self._products,
            *(_Loop("moving", mover.move, pause_seconds=flush_seconds) for mover in self._movers),
            self._tidying,
            self._compaction,
            _Loop("settling", self.settle, pause_seconds=2.0, goes_on=False),
            _Loop("heartbeat", self.heartbeat, pause_seconds=LEASE_SECONDS / 4),
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Take up what an earlier process left and begin; a new index gets all that the API wrote since it was made."""
        self._catalogue.outbox.release(self._name)
        self.retarget(self._targets)
        for mover in self._movers:
            mover.recover()
        for loop in self._loops:
            loop.start()

    def wake(self) -> None:
        """Say that the outbox has something."""
        self._products.wake()

    def retarget(self, targets: Sequence[Target]) -> None:
        """Write to these from now on, and to no other; when this returns, one that is not among them may be closed.

        What one of them has missed is in the outbox again by then.
        """
        fingerprints = [target.index.fingerprint for target in targets]
        self._ledger.lapse(fingerprints)
        with self._turn:
            self._settle()  # a job that is acknowledged was done for all targets, so none is left half done here
            self._targets = tuple(targets)
        self._ledger.follow(fingerprints)
        self.wake()

    def stop(self) -> None:
        """End the threads; what was logged is moved, what waits in the outbox stays there, free for any worker.

        A compaction under way is not waited for, it may take minutes: its thread ends as its index is closed.
        """
        self._compaction.end()
        for loop in self._loops:
            if loop is not self._compaction:
                loop.stop()
        try:
            for mover in self._movers:
                while mover.move():
                    pass
        finally:  # whatever became of what was logged
            self.settle()
            self._catalogue.outbox.release(self._name)

    def drain(self) -> int:
        """Make one batch of the outbox searchable; returns how many jobs it worked on."""
        if not all(disk.has_room() for disk in self._disks):
            return 0
        with self._turn:
            jobs = self._catalogue.outbox.claim(self._name, self._batch)
            with self._guard:
                self._claimed = jobs
            done = self._work(jobs)
            with self._guard:
                self._searchable.update(done)
                self._claimed = []
        return len(jobs)

    def settle(self) -> int:
        """Bring every index to its disk and acknowledge the jobs that are there; returns how many that were.

        A flush costs several syncs of the disk, so it is shared by all that was written meanwhile.
        """
        with self._turn:
            return self._settle()

    def _settle(self) -> int:
        with self._guard:
            settled = list(self._searchable)
        if settled:
            for target in self._targets:
                if target.index.capabilities.flush:
                    target.index.flush()
            self._catalogue.outbox.ack(settled)
            with self._guard:
                self._searchable.difference_update(settled)
        return len(settled)

    def compact(self) -> None:
        """Compact the indexes in which enough was written since the last time, by whoever that was.

        That takes minutes where they are large; jobs are worked on and acknowledged meanwhile.
        """
        for target in self._targets if time.monotonic() >= self._compact_from else ():
            if self._compaction.ended:
                return
            try:
                if target.index.capabilities.compaction and self._is_due(target.index):
                    target.index.compact()
            except Exception as error:  # a full disk: the index goes on as it is, and so does every other
                if self._compaction.ended or target not in self._targets:
                    continue  # it was closed meanwhile; whoever opens it again compacts it
                log.error("an index could not be compacted: %s: %s", type(error).__name__, error)
                self._compact_from = time.monotonic() + _COMPACT_AGAIN_SECONDS

    def _is_due(self, index: Index) -> bool:
        share = max(_COMPACT_LEAST, _COMPACT_SHARE * len(index))
        return index.uncompacted >= min(self._compact_after, share)

    def tidy(self) -> None:
        """Merge what was moved into files by hour and day, and remove what is older than the market keeps."""
        tidy(Market.open(self._market), self._movers, datetime.now(UTC), lambda: self._tidying.ended)

    def heartbeat(self) -> None:
        """Extend the leases of all that is claimed and not yet acknowledged."""
        with self._guard:
            held = [*self._claimed, *self._searchable]
        self._catalogue.outbox.heartbeat(held)

    def _work(self, jobs: Sequence[OutboxJob]) -> list[OutboxJob]:
        """Bring these jobs to the indexes; returns those done. One that fails is put off and hinders no other."""
        if not jobs:
            return []
        try:
            written = self._catalogue.products.load([job.product_id for job in jobs if job.operation == "upsert"])
            products = [product.row() for product in written]
            deleted = [job.product_id for job in jobs if job.operation == "delete"]
            errors = [error for each in self._targets if (error := _write(each, products, deleted)) is not None]
        except Exception as error:
            errors = [error]
        if not errors:
            return list(jobs)
        if len(jobs) > 1:
            return [done for job in jobs for done in self._work([job])]
        self._put_off(jobs[0], errors[0])
        return []

    def _put_off(self, job: OutboxJob, error: Exception) -> None:
        """Note why a job failed, to be tried again ever later; where not even that can be done, once its lease ends."""
        log.warning("product %s could not be indexed (attempt %d)", job.product_id, job.attempts + 1)
        try:
            seconds = 2.0 ** min(job.attempts, _LONGEST_DELAY)
            self._catalogue.outbox.retry(job, f"{type(error).__name__}: {error}", seconds)
        except Exception as failed:
            log.error("product %s could not be put off: %s", job.product_id, type(failed).__name__)


def _write(target: Target, products: Sequence[Product], deleted: Sequence[str]) -> Exception | None:
    """Embed and index products for one target, and delete there; what went wrong must not keep it from another."""
    try:
        if deleted:
            target.index.delete(deleted)
        if products:
            target.index.upsert(map(record_from_product, products, finite_vectors(target.encoder, products)))
    except Exception as error:
        return error
    return None


class _Loop:
    """Calls `work` in a thread, when woken or after a pause; where it `goes_on`, at once while it returns over 0."""

    def __init__(self, name: str, work: Callable[[], int | None], pause_seconds: float, goes_on: bool = True) -> None:
        self._name, self._work, self._pause, self._goes_on = name, work, pause_seconds, goes_on
        self._woken, self.ended = Event(), False
        self._thread = Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        self._woken.set()

    def end(self) -> None:
        """Begin nothing any more."""
        self.ended = True
        self._woken.set()

    def stop(self) -> None:
        self.end()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self.ended:
            self._woken.clear()
            try:
                did = self._work()
            except Exception as error:  # a full disk, a locked database: say so, and try again after the pause
                log.error("%s: %s; trying again", self._name, type(error).__name__)
                did = 0
            if not (did and self._goes_on) and not self.ended:
                self._woken.wait(self._pause)
