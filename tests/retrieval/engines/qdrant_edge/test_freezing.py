"""An index that is held as it is, and copied, while its owner goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from mercato.errors import MercatoError
from mercato.retrieval.expression import Expression
from mercato.retrieval.open import build_index, freeze_index, open_index
from mercato.retrieval.samples import DIMENSION, product
from mercato.retrieval.testing.tools import ids


@pytest.fixture
def folder(tmp_path) -> Path:
    build_index(tmp_path / "index", [product(n) for n in range(3)], DIMENSION, "run 1")
    return tmp_path / "index"


def copied(frozen, to: Path) -> list[str]:
    for piece in frozen.files:
        piece.copy(to)
    with open_index(to) as index:
        assert index.fingerprint == "run 1"
        return sorted(ids(index.search(Expression(), 9)))


def test_what_is_written_later_is_not_in_it_also_where_it_is_compacted(folder, tmp_path):
    with open_index(folder) as index:
        index.upsert([product(3)])
        index.compact()
        index.upsert([product(4)])
        index.delete(["p0"])
        with freeze_index(folder) as frozen:
            index.upsert([product(5)])
            index.delete(["p1"])
            index.compact()
            index.upsert([product(6)])
            index.compact()
            assert copied(frozen, tmp_path / "copy") == ["p1", "p2", "p3", "p4"]
        assert sorted(ids(index.search(Expression(), 9))) == ["p2", "p3", "p4", "p5", "p6"]
    with open_index(folder):
        pass
    assert len([*folder.glob("generation-*")]) == 1, "nobody holds what was replaced any more"


def test_an_index_that_was_never_written_to_and_one_with_a_standby(folder, tmp_path):
    """The copy has no standby."""
    build_index(folder, [product(9)], DIMENSION, "run 2", standby=True)
    with freeze_index(folder) as frozen:
        assert copied(frozen, tmp_path / "copy") == ["p0", "p1", "p2"]
    assert len([*(tmp_path / "copy").glob("generation-*")]) == 1


def test_half_a_batch_at_the_end_of_the_log_is_left_out(folder, tmp_path):
    with open_index(folder) as index:
        index.upsert([product(3)])
    (log,) = folder.glob("log-*/00000001")
    whole = log.read_bytes()
    log.write_bytes(whole + whole[:-1])
    with freeze_index(folder) as frozen:
        for piece in frozen.files:
            piece.copy(tmp_path / "copy")
    (copy,) = (tmp_path / "copy").glob("log-*/00000001")
    assert copy.read_bytes() == whole


def test_a_log_in_whose_middle_a_compaction_began_is_copied_to_its_end(folder, tmp_path):
    with open_index(folder) as index:
        index.upsert([product(3)])
        index._own().rotate()
        index.upsert([product(4)])
        with freeze_index(folder) as frozen:
            assert copied(frozen, tmp_path / "copy") == ["p0", "p1", "p2", "p3", "p4"]


def test_where_there_is_no_index_that_is_said(tmp_path):
    with pytest.raises(MercatoError, match="holds no index"), freeze_index(tmp_path):
        pass
