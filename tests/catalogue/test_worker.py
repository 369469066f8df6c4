"""The ingestion worker over a real index: what it claims is searchable, flushed, and then acknowledged."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event, Thread

import numpy as np
import pytest
import sqlalchemy as sa

from mercato.catalogue import worker as module
from mercato.catalogue.outbox import OutboxJob
from mercato.catalogue.tables import OUTBOX
from mercato.catalogue.worker import IngestionWorker, Target
from mercato.errors import MercatoError
from mercato.retrieval.engines.qdrant_edge import index as engine
from mercato.retrieval.engines.qdrant_edge.build import compact
from mercato.retrieval.expression import Expression
from mercato.retrieval.open import build_index, open_index
from mercato.retrieval.samples import DIMENSION, product
from tests.support.served import wait_until
from tests.support.small_market import TrigramEncoder, make_market
from tests.support.stored import stored


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return make_market(tmp_path_factory.mktemp("built") / "market")


@pytest.fixture
def index(built):
    with open_index(built.path / "index") as index:
        yield index


@pytest.fixture
def worker(catalogue, index, tmp_path) -> Callable[[str], IngestionWorker]:
    targets = [Target(TrigramEncoder(), index)]
    return lambda name: IngestionWorker(catalogue, targets, tmp_path, name=name)


def best(index, title: str) -> str:
    (vector,) = TrigramEncoder().encode_queries([title])
    return index.search(Expression(vector=vector), 1)[0].product_id


def test_a_job_is_acknowledged_only_when_the_index_is_on_its_disk(catalogue, index, worker, monkeypatch):
    catalogue.products.upsert([stored("n", "orange hammock")])
    one = worker("one")
    assert one.drain() == 1 and one.drain() == 0
    assert best(index, "orange hammock") == "n" and catalogue.outbox.depth() == 1
    with monkeypatch.context() as full_disk:
        full_disk.setattr(index, "flush", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            one.settle()
    assert catalogue.outbox.depth() == 1
    assert one.settle() == 1 and catalogue.outbox.depth() == 0


def test_a_new_version_need_not_wait_for_the_flush_of_the_old_one(catalogue, index, worker):
    one = worker("one")
    for title in ("orange hammock", "purple xylophone"):
        catalogue.products.upsert([stored("n", title)])
        assert one.drain() == 1
        assert best(index, title) == "n"
    assert one.settle() == 2 and catalogue.outbox.depth() == 0


def test_a_deletion_that_fails_is_put_off_and_hinders_no_other_job(catalogue, index, worker, monkeypatch):
    catalogue.products.upsert([stored("n", "orange hammock"), stored("m", "velvet bassoon")])
    catalogue.products.delete("n")
    one = worker("one")
    monkeypatch.setattr(index, "delete", lambda _: 1 / 0)
    assert one.drain() == 2 and one.settle() == 1
    assert best(index, "velvet bassoon") == "m"
    assert catalogue.outbox.failures() == [("n", 1, "ZeroDivisionError: division by zero")]


def test_a_job_that_has_failed_for_weeks_fails_once_more_and_hinders_no_other(catalogue, index, worker):
    catalogue.products.upsert([stored("bad", "unembeddable thing"), stored("n", "orange hammock")])
    with catalogue.outbox._database.write() as connection:
        connection.execute(sa.update(OUTBOX).filter_by(product_id="bad").values(attempts=5_000))
    one = worker("one")
    assert one.drain() == 2 and best(index, "orange hammock") == "n"
    assert [(name, attempts) for name, attempts, _ in catalogue.outbox.failures()] == [("bad", 5_001)]
    assert one.drain() == 0, "it waits its turn"


def test_a_failure_that_cannot_be_noted_hinders_no_other_job(catalogue, index, worker, monkeypatch):
    monkeypatch.setattr(catalogue.outbox, "retry", lambda *_: 1 / 0)
    catalogue.products.upsert([stored("bad", "unembeddable thing"), stored("n", "orange hammock")])
    one = worker("one")
    assert one.drain() == 2 and one.settle() == 1 and best(index, "orange hammock") == "n"
    catalogue.products.upsert([stored("m", "purple xylophone")])
    assert one.drain() == 1 and best(index, "purple xylophone") == "m"


def test_a_server_that_starts_again_does_not_wait_for_leases(catalogue, worker):
    catalogue.products.upsert([stored("n", "orange hammock")])
    killed = worker("server")
    killed.drain()
    after, other = worker("server"), worker("other")
    assert other.drain() == 0
    after.start()
    after.stop()
    after.drain()
    after.settle()
    assert catalogue.outbox.depth() == 0


def test_a_worker_that_stops_leaves_its_jobs_to_others(catalogue, worker):
    catalogue.products.upsert([stored("bad", "unembeddable thing"), stored("n", "orange hammock")])
    one, other = worker("one"), worker("other")
    one.start()
    one.stop()
    catalogue.products.upsert([stored("bad", "embeddable thing")])
    other.drain()
    other.settle()
    assert catalogue.outbox.depth() == 0 and catalogue.outbox.failures() == []


def test_an_index_that_joins_misses_nothing_and_one_that_leaves_is_written_to_no_more(
    catalogue, index, worker, tmp_path
):
    """Also what was claimed, searchable and not acknowledged, when it joined; and deletes."""
    build_index(tmp_path / "other", [], TrigramEncoder.dimension, "other run")
    one = worker("one")
    one.retarget([Target(TrigramEncoder(), index)])
    for number, title in enumerate(("crimson accordion", "ivory harpsichord", "copper bagpipe")):
        catalogue.products.upsert([stored(f"j{number}", title)])
    catalogue.products.delete("j2")
    assert one.drain() == 3
    catalogue.products.upsert([stored("j1", "azure theremin")])
    with open_index(tmp_path / "other") as other:
        both = [Target(TrigramEncoder(), index), Target(TrigramEncoder(), other)]
        one.retarget(both)
        while one.drain() + one.settle():
            pass
        for each in (index, other):
            assert best(each, "crimson accordion") == "j0" and best(each, "azure theremin") == "j1"
        assert len(other) == 2 and catalogue.outbox.depth() == 0
        one.retarget(both[:1])
    catalogue.products.upsert([stored("j3", "copper bagpipe")])
    assert one.drain() == 1 and one.settle() == 1
    with open_index(tmp_path / "other") as other:
        assert len(other) == 2
        one.retarget([*both[:1], Target(TrigramEncoder(), other)])
        while one.drain() + one.settle():
            pass
        assert best(other, "copper bagpipe") == "j3", "it gets what it missed as it comes back"


def test_what_one_run_cannot_embed_is_searchable_in_the_index_of_another(catalogue, index, tmp_path):
    class Lenient(TrigramEncoder):
        def encode_products(self, products, *, as_of=None):
            return np.stack([self._vector(row["title"]) for row in products])

    build_index(tmp_path / "other", [], TrigramEncoder.dimension, "other run")
    catalogue.products.upsert([stored("bad", "unembeddable thing"), stored("good", "scarlet ukulele")])
    with open_index(tmp_path / "other") as other:
        targets = [Target(TrigramEncoder(), index), Target(Lenient(), other)]  # the one that fails comes first
        one = IngestionWorker(catalogue, targets, tmp_path, "one")
        one.drain()
        assert best(other, "unembeddable thing") == "bad" and best(index, "scarlet ukulele") == "good"
    assert [product_id for product_id, *_ in catalogue.outbox.failures()] == ["bad"]


def test_a_heartbeat_keeps_what_is_searchable_and_not_yet_flushed(catalogue, worker):
    catalogue.products.upsert([stored("n", "orange hammock")])
    one = worker("one")
    one.drain()
    held = OutboxJob("n", 1, "upsert", 0, "one")
    catalogue.outbox.heartbeat([held], lease_seconds=0)  # as if a minute had passed
    one.heartbeat()
    assert catalogue.outbox.claim("other", 9) == []
    catalogue.outbox.heartbeat([held], lease_seconds=0)
    assert catalogue.outbox.claim("other", 9) != []


def test_what_was_written_is_acknowledged_while_an_index_is_compacted(catalogue, index, tmp_path, monkeypatch):
    begun, built = Event(), Event()

    def slow(*compaction):
        begun.set()
        built.wait()
        compact(*compaction)

    monkeypatch.setattr(engine, "compact", slow)
    targets = [Target(TrigramEncoder(), index)]
    with IngestionWorker(catalogue, targets, tmp_path, "one", compact_after=1) as one:
        try:
            catalogue.products.upsert([stored("n", "orange hammock")])
            one.wake()
            assert begun.wait(60)
            catalogue.products.upsert([stored("m", "purple xylophone")])
            one.wake()
            wait_until(lambda: best(index, "purple xylophone") == "m" and catalogue.outbox.depth() == 0, 30)
        finally:
            built.set()


@pytest.mark.parametrize("closed_by", ["its end", "another target"])
def test_a_compaction_is_not_waited_for_and_that_its_index_was_closed_is_no_error(
    catalogue, index, tmp_path, monkeypatch, caplog, closed_by
):
    begun, closed, done = Event(), Event(), Event()

    def endless():
        begun.set()
        closed.wait()
        raise MercatoError("the index is closed")

    monkeypatch.setattr(index, "compact", endless)
    one = IngestionWorker(catalogue, [Target(TrigramEncoder(), index)], tmp_path, "one", compact_after=0)
    compaction = Thread(target=lambda: (one.compact(), done.set()), daemon=True)
    ended = Thread(target=one.stop if closed_by == "its end" else lambda: one.retarget([]), daemon=True)
    try:
        compaction.start()
        assert begun.wait(60)
        ended.start()
        ended.join(60)
        assert not ended.is_alive()
    finally:
        closed.set()
    assert done.wait(60) and not caplog.records


def test_a_worker_ends_while_an_index_is_compacted(catalogue, index, tmp_path, monkeypatch):
    begun, closed = Event(), Event()
    monkeypatch.setattr(index, "compact", lambda: (begun.set(), closed.wait()))
    one = IngestionWorker(catalogue, [Target(TrigramEncoder(), index)], tmp_path, "one", compact_after=0)
    one.start()
    try:
        assert begun.wait(60)
        ending = Thread(target=one.stop, daemon=True)
        ending.start()
        ending.join(60)
        assert not ending.is_alive()
    finally:
        closed.set()


def test_a_small_index_is_compacted_once_a_fifth_of_it_was_written_anew(catalogue, tmp_path, monkeypatch):
    """A product that is replaced is two rows: one that is gone and one that is fresh."""
    monkeypatch.setattr(module, "_COMPACT_LEAST", 10)
    build_index(tmp_path / "small", map(product, range(100)), DIMENSION)
    with open_index(tmp_path / "small") as small:
        one = IngestionWorker(catalogue, [Target(TrigramEncoder(), small)], tmp_path, "one")
        for written, left in ((range(9), 18), ([9], 0)):
            small.upsert(map(product, written))
            one.compact()
            assert small.uncompacted == left


def test_a_few_rows_are_not_worth_a_compaction(catalogue, tmp_path, monkeypatch):
    """However large a share of the index they are."""
    monkeypatch.setattr(module, "_COMPACT_LEAST", 10)
    build_index(tmp_path / "tiny", [], DIMENSION)
    with open_index(tmp_path / "tiny") as tiny:
        one = IngestionWorker(catalogue, [Target(TrigramEncoder(), tiny)], tmp_path, "one")
        for written, left in ((range(9), 9), ([9], 0)):
            tiny.upsert(map(product, written))
            one.compact()
            assert tiny.uncompacted == left and len(tiny) == max(written) + 1
