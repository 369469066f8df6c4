"""The embedded engine: a sealed Qdrant Edge shard and columns, and a log of what is written since, in this process."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from itertools import chain, islice
from pathlib import Path
from threading import Condition, Lock, Thread
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from filelock import Timeout

from mercato.disk import Disk, bytes_in
from mercato.errors import MercatoError
from mercato.heap import give_back
from mercato.retrieval.engines.qdrant_edge.build import build, compact, seal
from mercato.retrieval.engines.qdrant_edge.elsewhere import Elsewhere
from mercato.retrieval.engines.qdrant_edge.examining import examine
from mercato.retrieval.engines.qdrant_edge.freezing import freeze
from mercato.retrieval.engines.qdrant_edge.generations import (
    current,
    drop,
    fingerprints,
    named,
    next_generation,
    stamp,
    successor,
    swap,
    sweep,
)
from mercato.retrieval.engines.qdrant_edge.log import Entry, LogWriter
from mercato.retrieval.engines.qdrant_edge.opened import Opened
from mercato.retrieval.engines.qdrant_edge.shard import AT_ONCE, ENGINE, Points, mean_tokens
from mercato.retrieval.engines.qdrant_edge.snapshot import EdgeSnapshot
from mercato.retrieval.expression import Filters
from mercato.retrieval.hybrid import HybridIndex
from mercato.retrieval.protocol import Capabilities, FrozenIndex, Generations, IndexRecord

log = logging.getLogger("mercato.retrieval")

CAPABILITIES = Capabilities(flush=True, compaction=True, one_owner=True, text=True)

_REOPEN_AGAIN_SECONDS = 30.0  # a reader that could not open what a compaction made tries again

_SAMPLED = 256  # records whose texts tell the average length


def open_index(url: str, read_only: bool, fingerprint: str | None) -> EdgeIndex:
    """See `mercato.retrieval.open.open_index`."""
    return EdgeIndex(_folder(url), read_only, fingerprint)


def generations(url: str) -> Generations:
    """See `mercato.retrieval.open.generations`."""
    served, *standby = fingerprints(_folder(url))
    return Generations(served, *standby)


def swap_index(url: str, fingerprint: str | None) -> None:
    """See `mercato.retrieval.open.swap_index`."""
    swap(_folder(url), fingerprint)


def drop_standby(url: str) -> None:
    """See `mercato.retrieval.open.drop_standby`."""
    drop(_folder(url))


def examine_index(url: str) -> list[str]:
    """See `mercato.retrieval.open.examine_index`."""
    return examine(_folder(url))


def freeze_index(url: str) -> AbstractContextManager[FrozenIndex]:
    """See `mercato.retrieval.open.freeze_index`."""
    return freeze(_folder(url))


def build_index(
    url: str, records: Iterable[IndexRecord], dimension: int, fingerprint: str, standby: bool
) -> dict[str, Any]:
    """See `mercato.retrieval.open.build_index`. BM25's average document length is that of the first 256 records."""
    if standby:
        current(_folder(url))
    with next_generation(_folder(url), standby=standby) as fresh:
        coming = iter(records)
        first = list(islice(coming, _SAMPLED))
        tokens = mean_tokens(record.text for record in first)
        points = Points(dimension, tokens)
        entries = (points.entry(record) for record in chain(first, coming))
        meta = {
            "engine": ENGINE,
            "dimension": dimension,
            "count": build(fresh, dimension, entries),
            "mean_tokens": tokens,
            "fingerprint": fingerprint,
            "built_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "log": f"log-{uuid4().hex[:12]}",
            "segment": 1,
        }
        seal(fresh, meta)
    return meta


class EdgeIndex(HybridIndex):
    """An open generation of the index in `folder`, and those that compactions make of it, served or standing by."""

    def __init__(self, folder: Path, read_only: bool = False, fingerprint: str | None = None) -> None:
        self._folder = folder
        self._stamp = stamp(folder)
        opened = Opened.found(lambda: current(folder) if fingerprint is None else named(folder, fingerprint))
        try:
            self._log = None if read_only else LogWriter(folder / opened.meta["log"])
        except BaseException as error:
            opened.close()
            if isinstance(error, Timeout):
                raise MercatoError(
                    f"{folder} is open elsewhere, and an embedded index has one owner: close it there first (a running "
                    "`mercato serve`?), or build a new generation, which needs no lock"
                ) from None
            raise
        self._opened: Opened | None = opened
        self._fingerprint: str = opened.meta["fingerprint"]
        self._dimension: int = opened.meta["dimension"]
        self._searching = Condition()
        self._writing = Lock()
        self._compacting, self._elsewhere = Lock(), Elsewhere("the index could not be compacted")
        self._reopening, self._reopen_from = Lock(), 0.0

    @property
    def capabilities(self) -> Capabilities:
        """All of them: it lives in this process, beside no other."""
        return CAPABILITIES

    @property
    def dimension(self) -> int:
        """The length of its vectors."""
        return self._dimension

    @property
    def fingerprint(self) -> str:
        """What `build_index` was told about the run that made the vectors."""
        return self._fingerprint

    def __len__(self) -> int:
        with self.snapshot() as snapshot:
            return snapshot.size

    @contextmanager
    def snapshot(self) -> Iterator[EdgeSnapshot]:
        """Hold the open generation; a compaction in between changes nothing for the block."""
        if self._log is None:
            self._notice_compaction()
        with self._searching:
            opened = self._open()
            opened.searches += 1
        try:
            opened.follow()
            yield EdgeSnapshot(opened)
        finally:
            with self._searching:
                opened.searches -= 1
                self._searching.notify_all()

    def count(self, filters: Filters) -> int:
        """See `mercato.retrieval.protocol.Index.count`."""
        with self.snapshot() as snapshot:
            return snapshot.count(filters)

    # Writing

    def upsert(self, records: Iterable[IndexRecord]) -> None:
        """See `mercato.retrieval.protocol.Index.upsert`. Survives kill -9 from here on, a power cut after `flush`."""
        points = self._open().points
        self._write([points.entry(record) for record in records])

    def delete(self, product_ids: Iterable[str]) -> None:
        """See `mercato.retrieval.protocol.Index.delete`."""
        self._write([Entry(product_id) for product_id in product_ids])

    def flush(self) -> None:
        """See `mercato.retrieval.protocol.Index.flush`."""
        with self._writing:
            self._open()
            if self._log is not None:
                self._log.flush()

    @property
    def uncompacted(self) -> int:
        """See `mercato.retrieval.protocol.Index.uncompacted`."""
        with self.snapshot() as snapshot:
            return snapshot.uncompacted

    def compact(self) -> None:
        """Build a generation that holds every row, its graph too, and go on with it: served or standing by, as it was.

        What came in since the graph was built is searched row by row, so call this now and then. Another process builds
        the generation from the sealed one and the log, while searches and writes go on here: these lie in the log's
        next segment, which the new generation goes on with. The old generation's files go once nobody holds it.
        Raises a MercatoError where the disk has no room for a copy of the index; where a newer generation has been
        built meanwhile: open the index again to get it; and
        where the index is closed meanwhile: that process ends at once, and nothing is left of what it made.
        """
        with self._compacting, ExitStack() as held:
            old = self._open()
            if not Disk(self._folder).has_room(bytes_in(old.generation)):
                raise MercatoError(f"{self._folder}: its disk has no room for a copy, which a compaction is")
            if successor(self._folder, old.meta["log"]) == old.generation:  # else the last one could not be opened
                with next_generation(self._folder, instead_of=old.generation) as fresh:
                    with self._writing:
                        self._open()
                        upto = self._own().rotate()
                    if old.living <= AT_ONCE:
                        compact(old.generation, fresh, upto)
                    else:
                        self._elsewhere.run(compact.__module__, str(old.generation), str(fresh), str(upto))
                    held.enter_context(self._writing)
                    self._open()
            else:
                held.enter_context(self._writing)
                self._open()
            self._go_on_with(self._successor(old))
        sweep(self._folder)
        del old
        give_back()

    def close(self) -> None:
        """See `mercato.retrieval.protocol.Index.close`."""
        self._elsewhere.stop()
        with self._compacting, self._reopening, self._writing:
            if self._opened is None:
                return
            if self._log is not None:
                self._log.close()
            self._go_on_with(None)
        self._sweep()  # it may have been dropped

    def _write(self, entries: list[Entry]) -> None:
        with self._writing:
            self._open()
            self._own().append(entries)

    def _own(self) -> LogWriter:
        if self._log is None:
            raise MercatoError(f"{self._folder} was opened to be read: write where it has its owner")
        return self._log

    def _notice_compaction(self) -> None:
        """Where other generations are named, see which goes on with this one's log; searches go on meanwhile."""
        due = time.monotonic() >= self._reopen_from and stamp(self._folder) != self._stamp
        if due and self._reopening.acquire(blocking=False):
            Thread(target=self._follow_compaction, name="index-compacted", daemon=True).start()

    def _follow_compaction(self) -> None:
        """Go on with what a compaction has made of the open generation, where one has."""
        try:
            seen, old = stamp(self._folder), self._opened
            if old is not None and successor(self._folder, old.meta["log"]) != old.generation:
                self._go_on_with(self._successor(old))
                self._sweep()
                del old
                give_back()
            self._stamp = seen
        except Exception as error:  # dropped, or a full disk: what is open goes on
            log.info("%s: goes on with what is open: %s", self._folder, error)
            self._reopen_from = time.monotonic() + _REOPEN_AGAIN_SECONDS
        finally:
            self._reopening.release()

    def _sweep(self) -> None:
        """Whoever lets go of a generation last removes it, where he may write to the folder."""
        with suppress(PermissionError):
            sweep(self._folder)

    def _successor(self, old: Opened) -> Opened:
        new = Opened.found(lambda: successor(self._folder, old.meta["log"]))
        try:
            new.follow()
        except BaseException:
            new.close()
            raise
        return new

    def _open(self) -> Opened:
        if self._opened is None:
            raise MercatoError("the index is closed")
        return self._opened

    def _go_on_with(self, new: Opened | None) -> None:
        """Searches that come from now on go to `new`; what was open is closed once those under way in it have ended."""
        with self._searching:
            old, self._opened = self._opened, new
            if old is None:
                return
            self._searching.wait_for(lambda: old.searches == 0)
        old.close()


def _folder(url: str) -> Path:
    return Path(unquote(urlsplit(url).path) if "://" in url else url)
