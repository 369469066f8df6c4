"""Readers of an embedded index: any number, in any process, that see what its owner writes."""

from __future__ import annotations

import subprocess
import sys
import time
from weakref import ref

import pytest

from mercato.errors import MercatoError
from mercato.retrieval.engines.qdrant_edge import index as edge
from mercato.retrieval.engines.qdrant_edge.index import EdgeIndex
from mercato.retrieval.expression import Expression
from mercato.retrieval.open import build_index, open_index, swap_index
from mercato.retrieval.samples import DIMENSION, QUERY, product


def found(index) -> set[str]:
    return {hit.product_id for hit in index.search(Expression(vector=QUERY, text="lamp"), 100)}


@pytest.fixture
def folder(tmp_path):
    build_index(tmp_path, [product(n) for n in range(5)], DIMENSION, "run 1")
    return tmp_path


def test_the_next_search_of_every_reader_sees_what_the_owner_wrote(folder):
    program = f"""
import sys
from mercato.retrieval.expression import Expression
from mercato.retrieval.open import open_index
with open_index({str(folder)!r}, read_only=True) as index:
    for _ in sys.stdin:
        print(*sorted(hit.product_id for hit in index.search(Expression(text="lamp"), 100)), flush=True)
"""
    command = [sys.executable, "-c", program]
    with (
        open_index(folder, read_only=True) as reader,
        open_index(folder) as owner,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other,
    ):

        def elsewhere() -> set[str]:
            other.stdin.write("\n")
            other.stdin.flush()
            return set(other.stdout.readline().split())

        assert found(reader) == elsewhere() == {"p0", "p1", "p2", "p3", "p4"} and len(reader) == 5
        owner.upsert([product(7), product(1, title="chair")])
        owner.delete(["p2"])
        assert found(owner) == found(reader) == {"p0", "p1", "p3", "p4", "p7"} and len(reader) == 5
        assert elsewhere() == {"p0", "p3", "p4", "p7"}
        for write in (lambda: reader.upsert([product(8)]), lambda: reader.delete(["p0"]), reader.compact):
            with pytest.raises(MercatoError, match="opened to be read"):
                write()
        reader.flush()
        other.stdin.close()


def test_what_the_old_generation_took_is_given_back_once_nobody_holds_it(folder, monkeypatch):
    held, alive = [], []
    monkeypatch.setattr(edge, "give_back", lambda: alive.append([one() is not None for one in held]))
    with open_index(folder) as owner, open_index(folder, read_only=True) as reader:
        held += [ref(owner._opened), ref(reader._opened)]
        owner.upsert([product(7)])
        owner.compact()
        assert alive == [[False, True]]
        until = time.monotonic() + 60
        while len(alive) < 2:
            assert found(reader) and time.monotonic() < until
        assert alive[1] == [False, False]


def test_a_reader_goes_on_with_the_owners_next_generation(folder):
    with open_index(folder) as owner, open_index(folder, read_only=True) as reader:
        owner.upsert([product(7)])
        owner.compact()
        owner.upsert([product(8)])
        until = time.monotonic() + 60
        while len(list(folder.glob("generation-*/open-*[0-9a-f]"))) != 2 or reader._opened.meta["segment"] != 2:
            assert found(reader) == {"p0", "p1", "p2", "p3", "p4", "p7", "p8"}, "in the old one too"
            assert time.monotonic() < until
        assert found(reader) == {"p0", "p1", "p2", "p3", "p4", "p7", "p8"}
        owner.compact()
        assert found(reader) == found(owner)
    with open_index(folder) as index:
        index.compact()
        assert len(list(folder.glob("generation-*"))) == 1 and len(list(folder.glob("log-*/0*"))) == 1


def test_whoever_lets_go_of_a_generation_last_removes_it(folder):
    with open_index(folder) as owner, open_index(folder, read_only=True) as reader:
        owner.upsert([product(7)])
        owner.compact()
        assert len(list(folder.glob("generation-*"))) == 2, "the reader has the old one"
        until = time.monotonic() + 60
        while len(list(folder.glob("generation-*"))) != 1 or len(list(folder.glob("log-*/0*"))) != 1:
            assert "p7" in found(reader)
            assert time.monotonic() < until
        build_index(folder, [product(9)], DIMENSION, "run 2")
        owner.close()
        assert len(list(folder.glob("generation-*"))) == 2
        reader.close()
        assert len(list(folder.glob("generation-*"))) == 1


def test_a_reader_stays_with_the_vectors_of_its_run(folder):
    with open_index(folder, read_only=True) as reader:
        build_index(folder, [product(9)], DIMENSION, "run 2")
        for _ in range(3):
            assert found(reader) == {"p0", "p1", "p2", "p3", "p4"} and reader.fingerprint == "run 1"
    with open_index(folder, read_only=True) as reader:
        assert found(reader) == {"p9"}


def test_a_reader_stays_with_its_generation_over_a_swap_and_follows_it_there(folder):
    build_index(folder, [product(9)], DIMENSION, "run 2", standby=True)
    with open_index(folder) as owner, open_index(folder, read_only=True) as reader:
        swap_index(folder)
        owner.upsert([product(7)])
        owner.compact()
        owner.upsert([product(8)])
        until = time.monotonic() + 60
        while reader._opened.meta["segment"] != 2:
            assert found(reader) == {"p0", "p1", "p2", "p3", "p4", "p7", "p8"}
            assert time.monotonic() < until
        assert found(reader) == found(owner) and reader.fingerprint == "run 1"


def test_a_reader_that_could_not_open_a_compacted_generation_tries_again_later(folder, monkeypatch):
    successor, tried = EdgeIndex._successor, []

    def on_a_full_disk(self, old):
        tried.append(old.generation)
        if len(tried) == 1:
            raise OSError(28, "No space left on device")
        return successor(self, old)

    with open_index(folder) as owner, open_index(folder, read_only=True) as reader:
        owner.upsert([product(7)])
        owner.compact()
        monkeypatch.setattr(EdgeIndex, "_successor", on_a_full_disk)
        until = time.monotonic() + 60
        while reader._reopen_from == 0:
            assert "p7" in found(reader) and time.monotonic() < until
        for _ in range(5):
            assert "p7" in found(reader), "in the old one"
            with reader._reopening:
                assert len(tried) == 1 and reader.uncompacted, "not at once"
        reader._reopen_from = 0.0
        while reader.uncompacted:
            assert "p7" in found(reader) and time.monotonic() < until
        assert len(tried) == 2 and found(reader) == found(owner)


def test_what_a_killed_reader_had_open_is_cleared_by_the_next(folder):
    program = f"""
import os
from mercato.retrieval.open import open_index
index = open_index({str(folder)!r}, read_only=True)
os.kill(os.getpid(), 9)
"""
    with open_index(folder, read_only=True) as living:
        assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
        assert len(list(folder.glob("generation-*/open-*[0-9a-f]"))) == 2
        with open_index(folder, read_only=True) as other:
            assert len(list(folder.glob("generation-*/open-*[0-9a-f]"))) == 2
            assert found(living) == found(other)
    assert not list(folder.glob("generation-*/open-*"))
