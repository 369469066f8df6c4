"""The embedded engine: one Qdrant Edge shard in this process, one owner at a time.

Each part of the expression runs once over the shard; what only one of them found is then scored by the other,
restricted to those few ids. How the ANN part searches is decided per query by how many products the filters leave
(`_approach`), because a filtered graph search can silently find nothing.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from io import SEEK_CUR
from itertools import chain, islice
from pathlib import Path
from threading import Condition, Lock
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar
from uuid import UUID

import qdrant_edge as qdrant
from filelock import FileLock

from mercato.errors import MercatoError
from mercato.files import write_atomic
from mercato.retrieval.engines.qdrant_edge.generations import current, hold_current, next_generation, sweep
from mercato.retrieval.engines.qdrant_edge.payload import condition
from mercato.retrieval.engines.qdrant_edge.shard import Points, bm25_query, build_graph, create, mean_tokens, point_id
from mercato.retrieval.expression import Expression, Filters
from mercato.retrieval.protocol import Hit, IndexRecord, Part

T = TypeVar("T")
PointId = int | str | UUID

ENGINE = f"qdrant-edge {version('qdrant-edge-py')}, words 2"  # an index of another engine or other words is refused

# Measured at 200k × 128-d on 2 cores: an exact search costs .1 µs for each product that the filters leave; the graph
# costs .5 ms, up to 2.5 ms under a filter at twice the ef_search; the graph with ACORN 5 to 10 ms, whatever the filter.
_EXACT_BELOW = 30_000
_NARROW = 0.1  # filters that leave less than this part of the index make the plain graph search unreliable …
_EXACT_BELOW_WHEN_NARROW = 100_000  # … and there exact search is the cheaper of the two that remain up to here
_COUNT_EXACTLY_BELOW = 20_000

# A word is rare where so many products at most have it, and no more than this part of the index (or one product).
_RARE, _RARE_PART = 10, 0.001
_EXACT_WORDS = 16  # a query of more words names nothing by number, and to look for rare ones costs .1 ms a word

_BATCH = 256  # points an update: the engine holds the GIL for about 15 ms of it


def build(folder: Path, records: Iterable[IndexRecord], dimension: int, fingerprint: str) -> dict[str, Any]:
    """See `mercato.retrieval.protocol.build_index`. BM25's average document length is that of the first 256 records."""
    if dimension < 1:
        raise MercatoError(f"an index's dimension is at least 1, not {dimension}")
    with next_generation(folder) as fresh:
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


class _Found(NamedTuple):
    point: PointId
    product_id: str
    score: float  # the query's, or the value that it orders by


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


class EdgeIndex:
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
    def dimension(self) -> int:
        """The length of its vectors."""
        return self._points.dimension

    @property
    def fingerprint(self) -> str:
        """What `build_index` was told about the run that made the vectors."""
        return self._fingerprint

    def __len__(self) -> int:
        with self._reading() as shard:
            return int(shard.info().points_count)

    # Reading

    def search(self, expression: Expression, limit: int) -> list[Hit]:
        """See `mercato.retrieval.protocol.Index.search`."""
        if limit < 1:
            raise MercatoError(f"limit: at least 1 hit must be asked for, not {limit}")
        if expression.vector is not None and len(expression.vector) != self.dimension:
            raise MercatoError(
                f"vector: {len(expression.vector)} numbers, but the index's vectors have {self.dimension}: encode the "
                "query with the run that built the index"
            )
        with self._reading() as shard:
            return self._search(shard, expression, limit)

    def _search(self, shard: qdrant.EdgeShard, expression: Expression, limit: int) -> list[Hit]:
        where = condition(expression.filters)
        if expression.vector is None and expression.text is None:
            return _browse(shard, where, limit)

        nearest = None if expression.vector is None else qdrant.Query.Nearest(expression.vector.tolist())
        sought = [] if expression.text is None else self._points.words(expression.text)
        words = bm25_query(sought)
        ann = [] if nearest is None else _nearest(shard, nearest, where, limit, expression.ef_search)
        if expression.min_cosine is not None:
            ann = [found for found in ann if found.score >= expression.min_cosine]
        text = [] if words is None else _run(shard, words, limit, where)
        exact = [] if nearest is None or words is None else _exact(shard, sought, words, where)

        product_ids = {found.point: found.product_id for found in chain(ann, text, exact)}
        cosines = {found.point: found.score for found in ann}
        bm25s = {found.point: found.score for found in chain(text, exact)}
        by_ann, by_text, are_exact = set(cosines), set(bm25s), {found.point for found in exact}
        cosines |= _scores(shard, nearest, product_ids.keys() - by_ann)
        bm25s |= _scores(shard, words, product_ids.keys() - by_text)

        hits = []
        for point, product_id in product_ids.items():
            if nearest is not None and point not in cosines:
                continue  # deleted between the two queries
            ways: tuple[tuple[Part, Set[PointId]], ...] = (("ann", by_ann), ("text", by_text))
            found_by = tuple(part for part, points in ways if point in points)
            cosine = min(1.0, max(-1.0, cosines.get(point, 0.0)))
            hits.append(Hit(product_id, cosine, bm25s.get(point, 0.0), found_by, point in are_exact))
        if expression.order == "bm25":
            return sorted(hits, key=lambda hit: (-hit.bm25, -hit.cosine, hit.product_id))
        return sorted(hits, key=lambda hit: (not hit.exact, -hit.cosine, -hit.bm25, hit.product_id))

    def count(self, filters: Filters) -> int:
        """See `mercato.retrieval.protocol.Index.count`; exact up to about 20,000."""
        where = condition(filters)
        with self._reading() as shard:
            estimate = _estimate(shard, where)
            if estimate > _COUNT_EXACTLY_BELOW:
                return estimate
            return int(shard.count(qdrant.CountRequest(exact=True, filter=where)))

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

    def __enter__(self) -> Self:
        """Return the index itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def _write(self, operation: qdrant.UpdateOperation) -> None:
        with self._writing:
            self._open().shard.update(operation)
            if self._journal is not None:
                self._journal.append(operation)

    def _open(self) -> _Opened:
        if self._opened is None:
            raise MercatoError("the index is closed")
        return self._opened

    @contextmanager
    def _reading(self) -> Iterator[qdrant.EdgeShard]:
        with self._searching:
            opened = self._open()
            opened.searches += 1
        try:
            yield opened.shard
        finally:
            with self._searching:
                opened.searches -= 1
                self._searching.notify_all()

    def _go_on_with(self, new: _Opened | None) -> None:
        """Searches that come from now on go to `new`; what was open is closed once those under way in it have ended."""
        with self._searching:
            old, self._opened = self._opened, new
            if old is None:
                return
            self._searching.wait_for(lambda: old.searches == 0)
        old.shard.close()
        old.lock.release()


def _browse(shard: qdrant.EdgeShard, where: qdrant.Filter | None, limit: int) -> list[Hit]:
    newest = _run(shard, qdrant.OrderBy("created_at", qdrant.Direction.Desc), limit, where)
    newest.sort(key=lambda found: (-found.score, found.product_id))
    return [Hit(found.product_id, 0.0, 0.0, ()) for found in newest]


def _nearest(
    shard: qdrant.EdgeShard, nearest: qdrant.Query, where: qdrant.Filter | None, limit: int, ef_search: int
) -> list[_Found]:
    found = _run(shard, nearest, limit, where, _approach(shard, where, max(ef_search, limit)))
    if len(found) < limit:  # the graph may have lost its way; what is left is known only by looking at all of it
        found = _run(shard, nearest, limit, where, qdrant.SearchParams(exact=True))
    return found


def _exact(
    shard: qdrant.EdgeShard, sought: list[int], words: qdrant.Query, where: qdrant.Filter | None
) -> list[_Found]:
    """Find the products that hold every sought word, one of which is rare; there are at most `_RARE` of them."""
    if len(sought) > _EXACT_WORDS:
        return []
    rare = min(_RARE, max(1, int(_RARE_PART * _estimate(shard, None))))
    for word in sought:
        request = qdrant.QueryRequest(limit=rare + 1, query=bm25_query([word]))
        holders = {point.id for point in shard.query(request)}
        if len(holders) <= rare:
            break
    else:
        return []
    for other in sought:  # most are gone after the first
        if other != word:
            holders &= _scores(shard, bm25_query([other]), holders).keys()
    return _run(shard, words, len(holders), _among(holders, where)) if holders else []


def _among(points: Set[PointId], where: qdrant.Filter | None = None) -> qdrant.Filter:
    return qdrant.Filter(must=[qdrant.HasIdCondition(set(points)), *([] if where is None else [where])])


def _approach(shard: qdrant.EdgeShard, where: qdrant.Filter | None, ef_search: int) -> qdrant.SearchParams:
    """Choose by the filters' estimated cardinality (about 15 µs): exact, the graph, or the graph with ACORN."""
    total = _estimate(shard, None)
    left = total if where is None else _estimate(shard, where)
    narrow = left < _NARROW * total
    if left < (_EXACT_BELOW_WHEN_NARROW if narrow else _EXACT_BELOW):
        return qdrant.SearchParams(exact=True)
    if where is None:
        return qdrant.SearchParams(hnsw_ef=ef_search)
    acorn = qdrant.AcornSearchParams(enable=narrow, max_selectivity=_NARROW)
    return qdrant.SearchParams(hnsw_ef=2 * ef_search, acorn=acorn)


def _estimate(shard: qdrant.EdgeShard, where: qdrant.Filter | None) -> int:
    return int(shard.count(qdrant.CountRequest(exact=False, filter=where)))


def _scores(shard: qdrant.EdgeShard, query: qdrant.Query | None, points: Set[PointId]) -> dict[PointId, float]:
    """Score these points by `query`; those that share no token with a text query are absent."""
    if query is None or not points:
        return {}
    exact = qdrant.SearchParams(exact=True)
    request = qdrant.QueryRequest(limit=len(points), query=query, filter=_among(points), params=exact)
    return {point.id: point.score for point in shard.query(request)}


def _run(
    shard: qdrant.EdgeShard,
    query: qdrant.Query | qdrant.OrderBy,
    limit: int,
    where: qdrant.Filter | None,
    params: qdrant.SearchParams | None = None,
) -> list[_Found]:
    request = qdrant.QueryRequest(limit=limit, query=query, filter=where, params=params, with_payload=["product_id"])
    points = shard.query(request)
    scores = (point.score if point.order_value is None else point.order_value for point in points)
    return [
        _Found(point.id, (point.payload or {})["product_id"], score)
        for point, score in zip(points, scores, strict=True)
    ]


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
