"""The transactional outbox: what the index has still to learn, worked by claim, acknowledge and retry.

A job is written in the transaction of its product (`enqueue`). A worker *claims* due jobs: it holds a *lease* on each
(a visibility timeout), which its heartbeats extend, and no other worker gets that product until it is acknowledged, put
off for a retry, or the lease expires. The model is procrastinate's job manager. Delivery is at least once, and one
product's versions are worked in order; where a worker slept through its lease and went on, its acknowledgement finds
that out and the product is worked once more.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from mercato.catalogue.database import Database
from mercato.catalogue.tables import OUTBOX, PRODUCTS

LEASE_SECONDS = 60.0
LONGEST_WAIT = 3600.0  # seconds, of a lease or a retry: who waits for longer was written by a clock that was set back
_NO_LEASE = {"worker": None, "lease_expires_at": None, "leased_version": None}
_CHUNK = 500  # products named in one statement


@dataclass(frozen=True)
class OutboxJob:
    """One product to bring to the index: `operation` is "upsert" or "delete"; `attempts` is how many have failed."""

    product_id: str
    version: int
    operation: str
    attempts: int
    worker: str  # that holds it


class Outbox:
    """The outbox of one catalogue. Several processes may work it, each under a worker's name of its own."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._latest = 0.0  # moment at which jobs were claimed

    def claim(self, worker: str, limit: int, lease_seconds: float = LEASE_SECONDS) -> list[OutboxJob]:
        """Lease up to `limit` due jobs to a worker, oldest first; they stay in the outbox until `ack`.

        A job whose product was written again while it was held goes to its holder at once, and to others only when the
        holder is done with the version before: else an old vector could overwrite a new one.
        """
        now = time.time()
        free = sa.or_(
            OUTBOX.c.lease_expires_at.is_(None),
            OUTBOX.c.lease_expires_at <= now,
            sa.and_(OUTBOX.c.worker == worker, OUTBOX.c.leased_version < OUTBOX.c.version),
        )
        due = (
            sa.select(OUTBOX.c.product_id, OUTBOX.c.version, OUTBOX.c.operation, OUTBOX.c.attempts)
            .where(OUTBOX.c.not_before <= now, free)
            .order_by(OUTBOX.c.not_before, OUTBOX.c.version)
            .limit(limit)
            .with_for_update(skip_locked=True)  # PostgreSQL; in SQLite writers take turns
        )
        with self._database.write() as connection:
            if now < self._latest:
                _set_right(connection, now)
            self._latest = now
            jobs = [OutboxJob(*row, worker) for row in connection.execute(due)]
            if jobs:
                lease = {"worker": worker, "lease_expires_at": now + lease_seconds, "leased_version": OUTBOX.c.version}
                claimed = OUTBOX.c.product_id.in_([job.product_id for job in jobs])
                connection.execute(sa.update(OUTBOX).where(claimed).values(lease))
        return jobs

    def heartbeat(self, jobs: Sequence[OutboxJob], lease_seconds: float = LEASE_SECONDS) -> None:
        """Extend the leases of jobs that are still being worked on; one that was lost or is done stays as it is."""
        self._change(jobs, sa.update(OUTBOX).values(lease_expires_at=time.time() + lease_seconds))

    def ack(self, jobs: Sequence[OutboxJob]) -> None:
        """Remove jobs that are done; one whose product was written again since stays, and is free to be claimed.

        Of a job whose lease went to another worker nobody knows who wrote to the index last: it is worked anew.
        """
        if jobs:
            with self._database.write() as connection:
                lost = _lost(connection, jobs)
                self._work_anew(connection, lost)  # first: whoever writes takes a number before all else
                _change(connection, jobs, sa.delete(OUTBOX).where(OUTBOX.c.version == sa.bindparam("of")))
                _change(connection, jobs, sa.update(OUTBOX).values(_NO_LEASE | {"since": OUTBOX.c.version}))

    def retry(self, job: OutboxJob, reason: str, delay_seconds: float) -> None:
        """Put a job that failed back, with the reason, to be claimed again after a while, of an hour at most.

        Where its product was written again since, the new version keeps its own chance, and waits since that write. A
        lost lease changes nothing.
        """
        later = {
            "attempts": OUTBOX.c.attempts + 1,
            "reason": reason,
            "not_before": time.time() + min(delay_seconds, LONGEST_WAIT),
        }
        with self._database.write() as connection:
            failed = sa.update(OUTBOX).where(OUTBOX.c.version == job.version).values(later)
            _change(connection, [job], failed)
            anew = sa.update(OUTBOX).where(OUTBOX.c.version != job.version).values(since=OUTBOX.c.version)
            _change(connection, [job], anew)
            _change(connection, [job], sa.update(OUTBOX).values(_NO_LEASE))

    def release(self, worker: str) -> None:
        """Drop every lease of a worker that is known not to run: its jobs can be claimed at once.

        A worker calls it for its own name as it starts (what an earlier life of it held) and as it ends. What waits
        for a moment that only a clock since set back could have named (or that of a backup's machine) is due at once.
        """
        with self._database.write() as connection:
            _set_right(connection, time.time())
            connection.execute(sa.update(OUTBOX).where(OUTBOX.c.worker == worker).values(_NO_LEASE))

    def depth(self) -> int:
        """How many products the outbox holds, those that failed before left out."""
        with self._database.read() as connection:
            wanted = sa.select(sa.func.count()).select_from(OUTBOX).where(OUTBOX.c.attempts == 0)
            return int(connection.execute(wanted).scalar_one())

    def failures(self) -> list[tuple[str, int, str]]:
        """The products that could not be embedded: id, attempts, reason."""
        with self._database.read() as connection:
            columns = (OUTBOX.c.product_id, OUTBOX.c.attempts, OUTBOX.c.reason)
            return [(*row,) for row in connection.execute(sa.select(*columns).where(OUTBOX.c.attempts > 0))]

    def oldest(self) -> int | None:
        """The number of the oldest write that waits, those that failed thrice left out; None: there is none.

        A product that was written again waits since the first write that no index has seen; where that failed, since it
        was written again: else one that fails, and is written time and again, would be the oldest for ever.
        """
        with self._database.read() as connection:
            wanted = sa.select(sa.func.min(OUTBOX.c.since)).where(OUTBOX.c.attempts < 3)
            found: int | None = connection.execute(wanted).scalar()
        return found

    def replay(self, after: int = 0) -> None:
        """Put products written or deleted through the API, after that write, in the outbox again for an index's sake.

        Others may write meanwhile.
        """
        wanted = sa.select(PRODUCTS.c.product_id).where(PRODUCTS.c.written_via_api.is_(True))
        if after:
            wanted = wanted.where(PRODUCTS.c.version > after)
        with self._database.read() as connection:
            ids = connection.execute(wanted).scalars().all()
        self.put_again(ids)

    def put_again(self, product_ids: Sequence[str]) -> None:
        """Put products in the outbox, as what they are now: written or deleted, for an index that lacks them."""
        for start in range(0, len(product_ids), _CHUNK):
            with self._database.write() as connection:
                self._enqueue_present(connection, product_ids[start : start + _CHUNK])

    def enqueue(self, connection: sa.Connection, product_ids: Sequence[str], operation: str) -> None:
        """Name the products' present versions in the outbox, within the transaction that wrote them.

        A row that already waits there is replaced, but for its lease: who holds it works on the version before.
        """
        now = time.time()
        for start in range(0, len(product_ids), _CHUNK):
            some = product_ids[start : start + _CHUNK]
            wanted = sa.select(PRODUCTS.c.product_id, PRODUCTS.c.version).where(PRODUCTS.c.product_id.in_(some))
            anew = {"operation": operation, "not_before": now, "attempts": 0, "reason": None}
            rows = [
                {"product_id": product_id, "version": version, "since": version} | anew
                for product_id, version in connection.execute(wanted)
            ]
            insert = self._database.insert(OUTBOX)
            names = ("version", "operation", "not_before", "attempts", "reason")
            replaced = {name: insert.excluded[name] for name in names}
            replaced["since"] = sa.case((OUTBOX.c.attempts > 0, insert.excluded["since"]), else_=OUTBOX.c.since)
            connection.execute(insert.on_conflict_do_update(index_elements=["product_id"], set_=replaced), rows)

    def _work_anew(self, connection: sa.Connection, product_ids: Sequence[str]) -> None:
        """Enqueue products under new versions, so that no job that is held now can acknowledge them."""
        for start in range(0, len(product_ids), _CHUNK):
            these = PRODUCTS.c.product_id.in_(product_ids[start : start + _CHUNK])
            (number,) = self._database.numbers(connection, 1)
            connection.execute(sa.update(PRODUCTS).where(these).values(version=number))
            self._enqueue_present(connection, product_ids[start : start + _CHUNK])

    def _enqueue_present(self, connection: sa.Connection, product_ids: Sequence[str]) -> None:
        """Enqueue what these products, no more than one statement may name, are now: written or deleted."""
        wanted = sa.select(PRODUCTS.c.product_id, PRODUCTS.c.deleted).where(PRODUCTS.c.product_id.in_(product_ids))
        rows = connection.execute(wanted).all()
        self.enqueue(connection, [product_id for product_id, deleted in rows if not deleted], "upsert")
        self.enqueue(connection, [product_id for product_id, deleted in rows if deleted], "delete")

    def _change(self, jobs: Sequence[OutboxJob], change: sa.Update) -> None:
        if jobs:
            with self._database.write() as connection:
                _change(connection, jobs, change)


def _set_right(connection: sa.Connection, now: float) -> None:
    """Free what waits for a moment that nobody who reads this clock would have named."""
    never_tried = (OUTBOX.c.not_before > now, OUTBOX.c.attempts == 0)
    put_off = (OUTBOX.c.not_before > now + LONGEST_WAIT,)
    for waiting in (never_tried, put_off):
        connection.execute(sa.update(OUTBOX).where(*waiting).values(not_before=now))
    leased = (OUTBOX.c.worker > "", OUTBOX.c.lease_expires_at > now + LONGEST_WAIT)
    connection.execute(sa.update(OUTBOX).where(*leased).values(_NO_LEASE))


def _lost(connection: sa.Connection, jobs: Sequence[OutboxJob]) -> list[str]:
    """The products of these jobs that another worker has claimed since, or claimed and is done with."""
    held: dict[str, str | None] = {}
    ids = sorted({job.product_id for job in jobs})
    for start in range(0, len(ids), _CHUNK):
        some = OUTBOX.c.product_id.in_(ids[start : start + _CHUNK])
        held |= {
            row[0]: row[1] for row in connection.execute(sa.select(OUTBOX.c.product_id, OUTBOX.c.worker).where(some))
        }
    # a row that nobody holds is claimed again anyway
    return sorted({job.product_id for job in jobs if held.get(job.product_id, "gone") not in (None, job.worker)})


def _change(connection: sa.Connection, jobs: Sequence[OutboxJob], change: sa.Update | sa.Delete) -> None:
    """Change the rows of those jobs whose lease still stands: same worker, same leased version."""
    same = (
        OUTBOX.c.product_id == sa.bindparam("id"),
        OUTBOX.c.worker == sa.bindparam("by"),
        OUTBOX.c.leased_version == sa.bindparam("of"),
    )
    connection.execute(change.where(*same), [{"id": j.product_id, "by": j.worker, "of": j.version} for j in jobs])
