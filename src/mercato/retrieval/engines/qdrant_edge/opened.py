"""An open generation: its sealed shard and columns, and the log followed behind them."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, Self
from uuid import uuid4

import numpy as np
import qdrant_edge as qdrant
from numpy.typing import NDArray

from mercato.copying import copy_sparse
from mercato.disk import allocate
from mercato.errors import MercatoError
from mercato.manifest import check, one_line
from mercato.retrieval.engines.qdrant_edge.columns import FOLDER, Columns
from mercato.retrieval.engines.qdrant_edge.fresh import Fresh
from mercato.retrieval.engines.qdrant_edge.generations import Held, hold, mend, read_meta
from mercato.retrieval.engines.qdrant_edge.log import Entry, LogReader
from mercato.retrieval.engines.qdrant_edge.masks import FilterMasks
from mercato.retrieval.engines.qdrant_edge.shard import ENGINE, Points
from mercato.retrieval.hybrid import Rows
from mercato.retrieval.signals import SignalColumns

SHARD = "shard"
_LINKED_FROM = 1 << 20  # bytes: the engine rewrites smaller files of a shard that it opens


class Opened:
    """One process's view of a generation. A product is a row: of the columns, or behind them of what is fresh.

    The shard's large files are hard links to the sealed ones, which nothing ever writes to: any number of processes
    open one generation.
    """

    def __init__(self, held: Held) -> None:
        generation = held.generation
        self.generation, self.searches = generation, 0  # searches under way
        with ExitStack() as closing:
            closing.callback(held.release)
            self.meta: dict[str, Any] = read_meta(generation)
            if self.meta["engine"] != ENGINE:
                raise MercatoError(
                    f"{generation.parent} was built by {self.meta['engine']}, this is {ENGINE}: build the index again"
                )
            again = mend(generation.parent)
            check(generation, again)  # before the engine maps what is not there any more
            with one_line(generation / FOLDER, again):
                self.columns = Columns(generation, self.meta["dimension"])
            self.fresh = Fresh(self.meta["dimension"])
            with one_line(generation / SHARD, again):
                self.shard = closing.enter_context(linked(generation))
            self._reader = LogReader(generation.parent / self.meta["log"], self.meta["segment"])
            closing.callback(self._reader.close)
            self.points = Points(self.meta["dimension"], self.meta["mean_tokens"])
            self.masks = FilterMasks(self.columns, self.fresh)
            self.alive_N = np.ones(len(self.columns), bool)  # which sealed rows have not been replaced or deleted
            self.alive_N[self.columns.whole("gone")] = False
            self.gone = 0  # rows that were alive when the generation was sealed, and are not now
            self._gone_terms: dict[int, int] = {}  # term → sealed rows that held it and are gone since
            self._following = Lock()
            self._closing = closing.pop_all()

    @classmethod
    def found(cls, find: Callable[[], Path]) -> Self:
        """The generation that `find` returns, which may be another one at any moment."""
        return cls(hold(find))

    @property
    def sealed(self) -> int:
        """The number of sealed rows: what is fresh is numbered from there on."""
        return len(self.columns)

    @property
    def count(self) -> int:
        """How many sealed rows were alive when they were sealed: the shard's points."""
        return int(self.meta["count"])

    @property
    def living(self) -> int:
        """The number of products."""
        return self.count - self.gone + self.fresh.living

    def follow(self) -> None:
        """Take in what was written since the last time, by whichever process."""
        with self._following:
            for entry in self._reader.news():
                if entry.deleted:
                    self.fresh.drop(entry.product_id)
                else:
                    self.fresh.add(entry)
                self._lose(entry)  # last: a search beside may find both rows, and never neither

    def frequencies(self, terms_T: NDArray[np.uint32]) -> NDArray[np.int64]:
        """How many living products hold each term, (T,)."""
        fresh = [self.fresh.frequency[term] - self._gone_terms.get(term, 0) for term in terms_T.tolist()]
        return self.columns.holders(terms_T) + np.array(fresh, np.int64)

    def idf(self, terms_T: NDArray[np.uint32]) -> NDArray[np.float64]:
        """Each term's inverse document frequency over the living products, (T,)."""
        holding_T = self.frequencies(terms_T)
        idf_T: NDArray[np.float64] = np.log1p((self.living - holding_T + 0.5) / (holding_T + 0.5))
        return idf_T

    def product_ids(self, rows_K: Rows) -> list[str]:
        """The ids of some rows."""
        sealed_K = rows_K < self.sealed
        ids = iter(self.columns.product_ids(rows_K[sealed_K]))
        others = iter(self.fresh.product_ids(rows_K[~sealed_K] - self.sealed))
        return [next(ids) if sealed else next(others) for sealed in sealed_K.tolist()]

    def signals(self, rows_K: Rows) -> SignalColumns:
        """What ranking reads of some rows."""
        sealed_K = rows_K < self.sealed
        if sealed_K.all():
            return self.columns.signals(rows_K)
        parts = self.columns.signals(rows_K[sealed_K]), self.fresh.signals(rows_K[~sealed_K] - self.sealed)
        return SignalColumns.joined(parts, np.argsort(~sealed_K, kind="stable"))

    def rows(self, product_ids: Sequence[str]) -> Rows:
        """The living row of each product, -1 where it has none: (P,)."""
        return np.array([self._row(product_id) for product_id in product_ids], np.int64)

    def close(self) -> None:
        """Let go of everything; ids, signals and vectors of rows may still be read."""
        self._closing.close()

    def _row(self, product_id: str) -> int:
        row = self.columns.row_of(product_id)
        sealed = -1 if row is None or not self.alive_N[row] else row  # first: it dies once there is a fresh one
        fresh = self.fresh.row_of.get(product_id)
        return sealed if fresh is None else self.sealed + fresh

    def _lose(self, entry: Entry) -> None:
        """The sealed row of a product, where it has one, is gone from here on."""
        row = self.columns.row_of(entry.product_id)
        if row is None or not self.alive_N[row]:
            return
        self.alive_N[row] = False
        self.gone += 1
        for term in self.columns.terms_of(row).tolist():
            self._gone_terms[term] = self._gone_terms.get(term, 0) + 1


@contextmanager
def linked(generation: Path) -> Iterator[qdrant.EdgeShard]:
    """Open a generation's shard in a folder of this process, which lies there until the block ends."""
    _clear_left(generation)
    folder = generation / f"open-{uuid4().hex[:12]}"
    file = folder.with_suffix(".lock")
    lock = _locked(file)  # before there is a folder to clear
    try:
        link(generation / SHARD, folder)
        shard = qdrant.EdgeShard.load(str(folder))
        try:
            yield shard
        finally:
            shard.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        file.unlink(missing_ok=True)
        os.close(lock)


def _locked(file: Path) -> int:
    """Make a lock file and hold it; who clears up what is left may remove it before it is held."""
    while True:
        lock = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if file.exists():
            return lock
        os.close(lock)


def _clear_left(generation: Path) -> None:
    """Remove the shards that killed processes had opened: whoever lives holds the lock of his own."""
    for lock in generation.glob("open-*.lock"):
        try:
            file = os.open(lock, os.O_RDWR)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            lock.unlink(missing_ok=True)
        except BlockingIOError:
            continue
        finally:
            os.close(file)


def link(source: Path, target: Path) -> None:
    """Make a shard of hard links to a sealed one's large files, and copies of its small ones."""
    for folder, _, names in os.walk(source):
        own = target / Path(folder).relative_to(source)
        own.mkdir(parents=True)
        for name in names:
            file = Path(folder) / name
            if file.stat().st_size < _LINKED_FROM:
                shutil.copy2(file, own / name)
            elif own.name == "wal":
                copy_sparse(file, own / name)
                allocate(own / name)
            else:
                os.link(file, own / name)
