from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import qdrant_edge as qdrant
from filelock import FileLock, Timeout

from mercato.errors import MercatoError
from mercato.retrieval.engines.qdrant_edge import index as engine
from mercato.retrieval.engines.qdrant_edge import opened
from mercato.retrieval.engines.qdrant_edge.build import compact
from mercato.retrieval.engines.qdrant_edge.generations import Held
from mercato.retrieval.expression import Expression
from mercato.retrieval.open import build_index, open_index
from mercato.retrieval.protocol import IndexRecord


def lamps(*names):
    return [IndexRecord(name, np.array([1.0, len(name)]), title="lamp") for name in names]


def served(folder):
    with open_index(folder) as index:
        return {hit.product_id for hit in index.search(Expression(text="lamp"), 10)}


def open_files():
    return len([*Path("/proc/self/fd").iterdir()])


def generations(folder):
    return [path.name for path in folder.glob("generation-*")]


def test_a_build_that_fails_leaves_the_old_generation_served(tmp_path):
    build_index(tmp_path, lamps("a"), 2)
    before = sorted(path.name for path in tmp_path.iterdir())

    def broken():
        yield from lamps("b", "c")
        raise RuntimeError("the encoder ran out of memory")

    with pytest.raises(RuntimeError):
        build_index(tmp_path, broken(), 2)
    with pytest.raises(MercatoError, match="field vector: 2 numbers"):
        build_index(tmp_path, lamps("b"), 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert served(tmp_path) == {"a"}


def test_a_first_build_that_fails_leaves_no_index(tmp_path):
    with pytest.raises(MercatoError, match="field vector"):
        build_index(tmp_path / "index", lamps("b"), 3)
    with pytest.raises(MercatoError, match="holds no index"):
        open_index(tmp_path / "index")


def test_a_reader_keeps_its_generation_while_the_next_takes_its_place(tmp_path):
    build_index(tmp_path, lamps("a"), 2)
    with open_index(tmp_path) as old:
        meta = build_index(tmp_path, lamps("b", "c", "b"), 2, fingerprint="f")
        assert (meta["count"], meta["dimension"], meta["fingerprint"]) == (2, 2, "f")
        assert served(tmp_path) == {"b", "c"}
        build_index(tmp_path, lamps("d"), 2)
        assert len(generations(tmp_path)) == 2  # the one that is held and the one that is served
        assert old.search(Expression(text="lamp"), 5)[0].product_id == "a"
        old.upsert(lamps("e"))
        old.flush()
        assert len(old) == 2
    build_index(tmp_path, lamps("g"), 2)
    assert len(generations(tmp_path)) == 1
    assert served(tmp_path) == {"g"}


def test_an_index_has_one_owner(tmp_path):
    build_index(tmp_path, lamps("a"), 2)
    program = f"from mercato.retrieval.open import open_index; open_index({str(tmp_path)!r})"
    with open_index(tmp_path):
        with pytest.raises(MercatoError, match="one owner"):
            open_index(tmp_path)
        other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert "one owner" in other.stderr
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_what_a_killed_build_has_left_is_cleared_by_the_next(tmp_path):
    (tmp_path / ".generation-dead.x1").mkdir()
    build_index(tmp_path, lamps("a"), 2)
    assert not (tmp_path / ".generation-dead.x1").exists()


def test_a_generation_is_held_before_anybody_may_sweep_it_away(tmp_path, monkeypatch):
    held, real = [], Held.of

    def of(generation):
        with pytest.raises(Timeout):
            FileLock(tmp_path / "changing").acquire(timeout=0)
        held.append(generation)
        return real(generation)

    with monkeypatch.context() as patch:
        patch.setattr(Held, "of", of)
        build_index(tmp_path, lamps("a"), 2)
    assert len(held) == 1 and served(tmp_path) == {"a"}


def test_a_lock_that_was_cleared_before_it_was_held_is_made_again(tmp_path, monkeypatch):
    flock, times = fcntl.flock, []

    def cleared_at_first(file, how):
        flock(file, how)
        times.append(how)
        if len(times) == 1:
            (tmp_path / "lock").unlink()

    monkeypatch.setattr(opened.fcntl, "flock", cleared_at_first)
    held = opened._locked(tmp_path / "lock")
    assert (tmp_path / "lock").stat().st_ino == os.fstat(held).st_ino and len(times) == 2
    os.close(held)


def test_what_killed_writers_of_the_pointer_have_left_is_cleared(tmp_path):
    build_index(tmp_path, lamps("a"), 2)
    (tmp_path / ".current.x1").touch()
    build_index(tmp_path, lamps("b"), 2)
    assert not [*tmp_path.glob(".current.*")] and served(tmp_path) == {"b"}


@pytest.mark.parametrize("compacted", [False, True])
def test_a_generation_is_on_the_disk_whole_before_it_takes_the_place_of_another(tmp_path, monkeypatch, compacted):
    """A power cut takes what was not synced; the log that a generation was made of is removed."""
    order, fsync, rename = [], os.fsync, Path.rename

    def synced(file):
        order.append(("sync", Path(f"/proc/self/fd/{file}").readlink()))
        fsync(file)

    def renamed(self, target):
        order.append(("rename", Path(target)))
        return rename(self, target)

    build_index(tmp_path, lamps("a"), 2)
    with open_index(tmp_path) as index:
        index.upsert(lamps("b"))
        monkeypatch.setattr(os, "fsync", synced)
        monkeypatch.setattr(Path, "rename", renamed)
        if compacted:
            index.compact()
    if not compacted:
        build_index(tmp_path, lamps("a"), 2)
    monkeypatch.undo()
    (generation,) = tmp_path.glob("generation-*")
    named, pointed = (order.index(("rename", tmp_path / name)) for name in (generation.name, "current"))
    before = {Path(*path.relative_to(tmp_path).parts[1:]) for _, path in order[:named] if tmp_path in path.parents}
    assert {path.relative_to(generation) for path in generation.rglob("*")} <= before
    assert ("sync", tmp_path) in order[named:pointed] and ("sync", tmp_path) in order[pointed:]


def test_an_index_of_another_engine_version_must_be_built_again(tmp_path):
    build_index(tmp_path, lamps("a"), 2)
    (meta,) = tmp_path.glob("generation-*/meta.json")
    meta.write_text(meta.read_text().replace("qdrant-edge ", "qdrant-edge 0."))
    with pytest.raises(MercatoError, match="build the index again"):
        open_index(tmp_path)


def test_urls(tmp_path):
    build_index(f"file://{tmp_path}/my%20index", lamps("a"), 2)
    assert served(tmp_path / "my index") == {"a"}
    assert served(str(tmp_path / "my index")) == {"a"}
    for url, why in (
        ("http://localhost:6333/products", "no cluster engine yet"),
        ("https://example.com", "no cluster engine yet"),
        ("s3://bucket/index", "a folder or a file:// URL"),
        (str(tmp_path / "nowhere"), "holds no index"),
    ):
        with pytest.raises(MercatoError, match=why):
            open_index(url)
    with pytest.raises(MercatoError, match="at least 1"):
        build_index(tmp_path, [], 0)


def test_an_opening_that_fails_leaves_nothing_open(tmp_path, monkeypatch):
    build_index(tmp_path, lamps("a"), 2)
    before, files = {*tmp_path.rglob("*")}, open_files()
    monkeypatch.setattr(qdrant.EdgeShard, "load", lambda _: (_ for _ in ()).throw(RuntimeError("too many open files")))
    for _ in range(3):
        with pytest.raises(MercatoError, match=r"shard cannot be read: too many open files: `mercato index "):
            open_index(tmp_path)
    assert {*tmp_path.rglob("*")} - before <= {*tmp_path.glob("generation-*/lock")}
    assert open_files() == files


def test_an_owner_whose_log_cannot_be_opened_leaves_nothing_open(tmp_path, monkeypatch):
    build_index(tmp_path, lamps("a"), 2)
    files = open_files()
    with monkeypatch.context() as failing:
        failing.setattr(engine, "LogWriter", lambda _: (_ for _ in ()).throw(OSError("no space left")))
        with pytest.raises(OSError, match="no space"):
            open_index(tmp_path)
    assert open_files() == files and not list(tmp_path.glob("generation-*/open-*"))


def test_a_compaction_that_takes_up_the_last_opens_nothing_that_was_closed(tmp_path, monkeypatch):
    build_index(tmp_path, lamps("a"), 2)
    index = open_index(tmp_path)
    with monkeypatch.context() as failing:
        failing.setattr(opened, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EMFILE, "too many")))
        with pytest.raises(OSError, match="too many"):
            index.compact()
    found, closing = index._successor, threading.Thread(target=index.close)

    def closed_meanwhile(old):
        closing.start()
        return found(old)

    monkeypatch.setattr(index, "_successor", closed_meanwhile)
    index.compact()
    closing.join()
    with pytest.raises(MercatoError, match="closed"):
        index.search(Expression(text="lamp"), 5)


def test_a_compaction_whose_result_cannot_be_opened_is_taken_up_by_the_next(tmp_path, monkeypatch):
    build_index(tmp_path, lamps("a"), 2)
    with open_index(tmp_path) as index:
        index.upsert(lamps("b"))
        with monkeypatch.context() as failing:
            failing.setattr(opened, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EMFILE, "too many")))
            with pytest.raises(OSError, match="too many"):
                index.compact()
        index.upsert(lamps("c"))
        assert len(index) == 3
        for _ in range(2):
            index.compact()
            assert len(index) == 3 and len(generations(tmp_path)) == 1
    assert served(tmp_path) == {"a", "b", "c"}


def test_a_compaction_that_came_too_late_leaves_nothing(tmp_path):
    build_index(tmp_path, lamps("a"), 2)
    with open_index(tmp_path) as index:

        def overtaken(*arguments):
            build_index(tmp_path, lamps("z"), 2)
            return compact(*arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(engine, "compact", overtaken)
            with pytest.raises(MercatoError, match="newer generation"):
                index.compact()
        assert len(generations(tmp_path)) == 2
    assert len(generations(tmp_path)) == 1 and served(tmp_path) == {"z"}
