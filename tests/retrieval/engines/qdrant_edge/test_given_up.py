"""A compaction or build whose index is closed or whose process is killed: its own process ends, and nothing is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from signal import SIGKILL
from threading import Thread
from types import ModuleType

import pytest

from mercato.errors import MercatoError
from mercato.retrieval.engines.qdrant_edge import build, shard
from mercato.retrieval.engines.qdrant_edge import index as engine
from mercato.retrieval.open import build_index, open_index
from mercato.retrieval.samples import DIMENSION, product
from tests.support.served import wait_until


def stall(folder: Path) -> Path:
    """Let a compaction wait for ever where it copies the shard, until what this returns is removed."""
    (shard,) = folder.glob("generation-*/shard")
    os.mkfifo(shard / "stalled")
    return shard / "stalled"


@contextmanager
def compacting(owner: int, folder: Path):
    """The process of the one compaction that `owner` has begun; it is gone when the block ends."""
    wait_until(lambda: [*folder.glob(".generation-*/shard")])
    with begun(owner, build) as child:
        yield child


@contextmanager
def begun(owner: int, module: ModuleType):
    """The one process of a module that `owner` begins; it is gone when the block ends."""

    def of_module() -> list[int]:
        threads = Path(f"/proc/{owner}/task").glob("*/children")
        children = [int(child) for thread in threads for child in thread.read_text().split()]
        return [child for child in children if module.__name__.encode() in Path(f"/proc/{child}/cmdline").read_bytes()]

    wait_until(of_module)
    (child,) = of_module()
    try:
        yield child
    finally:
        if runs(child):
            os.kill(child, SIGKILL)


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_closing_an_index_gives_its_compaction_up(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "AT_ONCE", 0)
    build_index(tmp_path, map(product, range(5)), DIMENSION)
    index, raised = open_index(tmp_path), []
    before, stalled = {*tmp_path.iterdir()}, stall(tmp_path)

    def compact():
        with pytest.raises(MercatoError) as error:
            index.compact()
        raised.append(str(error.value))

    index.upsert([product(5)])
    compaction = Thread(target=compact, daemon=True)
    compaction.start()
    with compacting(os.getpid(), tmp_path) as child:
        index.upsert([product(6)])
        index.close()
        assert not runs(child)
        compaction.join(60)
    assert raised == ["the index is closed"] and {*tmp_path.iterdir()} == before
    stalled.unlink()
    with open_index(tmp_path) as index:
        assert len(index) == 7
        index.compact()
        assert len(index) == 7 and index.uncompacted == 0


def test_an_index_that_is_closed_begins_no_compaction(tmp_path):
    build_index(tmp_path, [product(1)], DIMENSION)
    index = open_index(tmp_path)
    index.close()
    with pytest.raises(MercatoError, match="closed"):
        index.compact()


def test_the_process_of_a_compaction_ends_with_one_that_is_killed(tmp_path):
    build_index(tmp_path, map(product, range(5)), DIMENSION)
    program = f"""
from pathlib import Path
from mercato.retrieval.engines.qdrant_edge import index as engine
from mercato.retrieval.open import open_index
from tests.retrieval.engines.qdrant_edge.test_given_up import stall
engine.AT_ONCE = 0
index = open_index({str(tmp_path)!r})
stall(Path({str(tmp_path)!r}))
index.compact()
"""
    owner = subprocess.Popen([sys.executable, "-c", program])
    try:
        with compacting(owner.pid, tmp_path) as child:
            owner.kill()
            wait_until(lambda: not runs(child))
    finally:
        owner.kill()
        owner.wait()


def test_the_process_of_a_build_ends_with_one_that_is_killed(tmp_path):
    """It waits for ever here where it reads the shard."""
    program = f"""
import os
from mercato.retrieval.engines.qdrant_edge import build, shard
from mercato.retrieval.open import build_index
from mercato.retrieval.samples import DIMENSION, product
def stalled(path, points):
    (path / "edge_config.json").unlink()
    os.mkfifo(path / "edge_config.json")
    graph(path, points)
shard.AT_ONCE, graph, build.build_graph = 0, build.build_graph, stalled
build_index({str(tmp_path)!r}, [product(1)], DIMENSION)
"""
    owner = subprocess.Popen([sys.executable, "-c", program])
    try:
        with begun(owner.pid, shard) as child:
            owner.kill()
            wait_until(lambda: not runs(child))
    finally:
        owner.kill()
        owner.wait()


def test_a_compaction_whose_owner_is_gone_already_makes_nothing(tmp_path):
    command = [sys.executable, "-m", build.__name__, str(tmp_path / "old"), str(tmp_path / "fresh"), "2", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode and "the process that asked for this has ended" in done.stderr
