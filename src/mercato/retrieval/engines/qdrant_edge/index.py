"""The embedded engine: one Qdrant Edge shard in this process, one owner at a time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from io import SEEK_CUR
from itertools import chain, islice
from pathlib import Path
from threading import Condition, Lock
from typing import Any, Self, TypeVar
from urllib.parse import unquote, urlsplit

import qdrant_edge as qdrant
from filelock import FileLock

from mercato.errors import MercatoError
from mercato.files import write_atomic
from mercato.retrieval.engines.qdrant_edge.generations import current, hold_current, next_generation, sweep
from mercato.retrieval.engines.qdrant_edge.shard import Points, build_graph, create, mean_tokens, point_id
from mercato.retrieval.engines.qdrant_edge.snapshot import EdgeSnapshot
from mercato.retrieval.expression import Filters
from mercato.retrieval.hybrid import HybridIndex
from mercato.retrieval.protocol import Capabilities, IndexRecord

T = TypeVar("T")

ENGINE = f"qdrant-edge {version('qdrant-edge-py')}, words 2"  # an index of another engine or other words is refused
CAPABILITIES = Capabilities(flush=True, compaction=True, one_owner=True, text=True)

_BATCH = 256  # points an update: the engine holds the GIL for about 15 ms of it


def open_index(url: str) -> EdgeIndex:
    """See `mercato.retrieval.open.open_index`."""
    return EdgeIndex(_folder(url))


def build_index(url: str, records: Iterable[IndexRecord], dimension: int, fingerprint: str) -> dict[str, Any]:
    """See `mercato.retrieval.open.build_index`. BM25's average document length is that of the first 256 records."""
    with next_generation(_folder(url)) as fresh:
        batches = _batches(records)
        first = next(batches, [])
        tokens = mean_tokens(record.text for record in first)
        points = Points(dimension, tokens)
        shard = create(fresh / "shard", dimension)
        try:
            for batch in chain([first], batches):
                shard.update(qdrant.UpdateOperation.upsert_points([points.point(record) for record in batch]))
            count = shard.count(qdrant.CountRequest(exact=True))
        finally:
            shard.close()
        build_graph(fresh / "shard")
        meta = {
            "engine": ENGINE,
            "dimension": dimension,
            "count": count,
            "mean_tokens": tokens,
            "fingerprint": fingerprint,
            "built_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        write_atomic(fresh / "meta.json", json.dumps(meta, indent=2))
    return meta


@dataclass
class _Opened:
    generation: Path
    lock: FileLock
    meta: dict[str, Any]
    shard: qdrant.EdgeShard
    searches: int = 0  # under way

    @classmethod
    def current(cls, folder: Path) -> Self:
        generation, lock = hold_current(folder)
        try:
            meta = json.loads((generation / "meta.json").read_text())
            if meta["engine"] != ENGINE:
                raise MercatoError(f"{folder} was built by {meta['engine']}, this is {ENGINE}: build the index again")
            return cls(generation, lock, meta, qdrant.EdgeShard.load(str(generation / "shard")))
        except BaseException:
            lock.release()
            raise


class EdgeIndex(HybridIndex):
    """An open generation of the index in `folder`; it stays with that generation until it is closed or compacted."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        opened = _Opened.current(folder)
        self._opened: _Opened | None = opened
        self._fingerprint: str = opened.meta["fingerprint"]
        self._points = Points(opened.meta["dimension"], opened.meta["mean_tokens"])
        self._searching = Condition()
        self._writing = Lock()
        self._compacting = Lock()
        self._journal: list[qdrant.UpdateOperation] | None = None

    @property
    def capabilities(self) -> Capabilities:
        """All of them: it lives in this process, beside no other."""
        return CAPABILITIES

    @property
    def dimension(self) -> int:
        """The length of its vectors."""
        return self._points.dimension

    @property
    def fingerprint(self) -> str:
        """What `build_index` was told about the run that made the vectors."""
        return self._fingerprint

    def __len__(self) -> int:
        with self.snapshot() as snapshot:
            return int(snapshot.shard.info().points_count)

    @contextmanager
    def snapshot(self) -> Iterator[EdgeSnapshot]:
        """Hold the open generation; a compaction in between changes nothing for the block."""
        with self._searching:
            opened = self._open()
            opened.searches += 1
        try:
            yield EdgeSnapshot(opened.shard, self._points)
        finally:
            with self._searching:
                opened.searches -= 1
                self._searching.notify_all()

    def count(self, filters: Filters) -> int:
        """See `mercato.retrieval.protocol.Index.count`; exact up to about 20,000."""
        with self.snapshot() as snapshot:
            return snapshot.count(filters)

    # Writing

    def upsert(self, records: Iterable[IndexRecord]) -> None:
        """See `mercato.retrieval.protocol.Index.upsert`. Survives kill -9 from here on, a power cut after `flush`."""
        points = [self._points.point(record) for record in records]
        for batch in _batches(points):
            self._write(qdrant.UpdateOperation.upsert_points(batch))

    def delete(self, product_ids: Iterable[str]) -> None:
        """See `mercato.retrieval.protocol.Index.delete`."""
        for batch in _batches(product_ids):
            self._write(qdrant.UpdateOperation.delete_points([point_id(product_id) for product_id in batch]))

    def flush(self) -> None:
        """See `mercato.retrieval.protocol.Index.flush`."""
        with self._writing:
            self._open().shard.flush()

    def compact(self) -> None:
        """Build a generation whose graph holds every row, and go on with it.

        What came in since the graph was built is searched row by row (5 ms at 200k rows), so call this now and then.
        A copy of the shard is optimised in another process while searches and writes go on here; the writes are then
        repeated on the copy, and the two change places. The old generation's files are gone when this returns. Raises a
        MercatoError where a newer generation has been built meanwhile: open the index again to get it.
        """
        with self._compacting, ExitStack() as held:
            with next_generation(self._folder) as fresh:
                try:
                    with self._writing:
                        old = self._open()
                        old.shard.flush()
                        shutil.copy2(old.generation / "meta.json", fresh)
                        shutil.copytree(old.generation / "shard", fresh / "shard", copy_function=_copy_sparse)
                        self._journal = []
                    build_graph(fresh / "shard")
                    held.enter_context(self._writing)  # searches go on, writes wait for the new generation
                    if current(self._folder) != old.generation:
                        raise MercatoError(f"{self._folder} has got a newer generation meanwhile: open it again")
                    _repeat(self._journal, fresh / "shard")
                finally:
                    self._journal = None
            self._go_on_with(_Opened.current(self._folder))
        sweep(self._folder)

    def close(self) -> None:
        """See `mercato.retrieval.protocol.Index.close`."""
        with self._writing:
            self._go_on_with(None)

    def _write(self, operation: qdrant.UpdateOperation) -> None:
        with self._writing:
            self._open().shard.update(operation)
            if self._journal is not None:
                self._journal.append(operation)

    def _open(self) -> _Opened:
        if self._opened is None:
            raise MercatoError("the index is closed")
        return self._opened

    def _go_on_with(self, new: _Opened | None) -> None:
        """Searches that come from now on go to `new`; what was open is closed once those under way in it have ended."""
        with self._searching:
            old, self._opened = self._opened, new
            if old is None:
                return
            self._searching.wait_for(lambda: old.searches == 0)
        old.shard.close()
        old.lock.release()


def _folder(url: str) -> Path:
    return Path(unquote(urlsplit(url).path) if "://" in url else url)


def _copy_sparse(source: str, target: str) -> None:
    """Copy a file, leaving holes where it has zeros: the engine allocates its files 32 MB ahead."""
    zeros = bytes(1 << 20)
    with Path(source).open("rb") as old, Path(target).open("wb") as new:
        while block := old.read(len(zeros)):
            if block == zeros[: len(block)]:
                new.seek(len(block), SEEK_CUR)
            else:
                new.write(block)
        new.truncate()


def _repeat(operations: list[qdrant.UpdateOperation], path: Path) -> None:
    shard = qdrant.EdgeShard.load(str(path))
    try:
        for operation in operations:
            shard.update(operation)
        shard.flush()
    finally:
        shard.close()


def _batches(items: Iterable[T]) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, _BATCH)):
        yield batch
