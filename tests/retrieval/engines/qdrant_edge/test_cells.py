"""Cells hold every row once, and its vector as bytes."""

from __future__ import annotations

import numpy as np
import pytest

from mercato.retrieval.engines.qdrant_edge import cells
from mercato.retrieval.engines.qdrant_edge.cells import clustered
from mercato.retrieval.engines.qdrant_edge.columns import Columns, ColumnsWriter
from mercato.retrieval.engines.qdrant_edge.log import Entry


def drawn(length):
    vectors = np.random.default_rng(length).normal(size=(length, 8)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("first", [None, 0, 0.3, 0.7, 1])  # of the rows: they have had cells before
@pytest.mark.parametrize("length", [0, 1, 3, 700])
def test_every_row_is_in_the_cell_of_the_nearest_centre(length, first):
    random, vectors = np.random.default_rng(length), drawn(length)
    of = clustered(vectors, None if first is None else clustered(vectors[: int(first * length)]))
    assert sorted(of.rows_N) == list(range(length)) and (of.ends_C[-1:] == length).all()
    cell = np.repeat(np.arange(len(of.ends_C)), np.diff(of.ends_C, prepend=0))
    np.testing.assert_array_equal(cell, (vectors[of.rows_N] @ of.centres_Cd.T).argmax(axis=1) if length else [])
    places = random.permutation(length)
    exact = vectors[of.rows_N[places]] @ np.full(8, 8**-0.5, np.float32)
    np.testing.assert_allclose(of.cosines(np.full(8, 8**-0.5, np.float32), places), exact, atol=0.01)


def test_a_compaction_compares_new_rows_alone_until_there_are_twice_as_many(tmp_path, monkeypatch):
    nearest, compared, vectors = cells._nearest, [], drawn(2000)

    def counted(vectors_Nd, centres_Cd):
        compared.append(len(vectors_Nd))
        return nearest(vectors_Nd, centres_Cd)

    monkeypatch.setattr(cells, "_nearest", counted)
    before, centres = None, []
    for number, (start, end) in enumerate(((0, 800), (800, 900), (900, 1500), (1500, 1700), (1700, 2000))):
        compared.clear()
        (tmp_path / f"{number}").mkdir()
        writer = ColumnsWriter(tmp_path / f"{number}", begin=before)
        writer.append(Entry(f"p{row}", vectors[row]) for row in range(start, end))
        writer.seal()
        before = Columns(tmp_path / f"{number}", 8)
        centres.append(len(before.cells().centres_Cd))
        assert (sum(compared) == end - start) == (number in (1, 2, 4))
    assert centres == [113, 113, 113, 164, 164]


def test_rows_that_came_later_are_found_as_those_that_were_there():
    vectors = drawn(4000)
    found = []
    for number in (None, 2100):
        of = clustered(vectors, number and clustered(vectors[:number]))
        recalls = []
        for query in drawn(50):
            left_C = np.diff(of.ends_C, prepend=0)
            nearest_C = np.argsort(-(of.centres_Cd @ query))
            among = np.isin(np.repeat(np.arange(len(left_C)), left_C), nearest_C[np.cumsum(left_C[nearest_C]) <= 600])
            best = np.argsort(-(vectors @ query))[:20]
            recalls.append(np.isin(best, of.rows_N[among]).mean())
        found.append(np.mean(recalls))
    assert found[1] >= found[0] - 0.02 and found[0] > 0.9
