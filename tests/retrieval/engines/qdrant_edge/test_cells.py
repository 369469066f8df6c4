"""Cells hold every row once, and its vector as bytes."""

from __future__ import annotations

import numpy as np
import pytest

from mercato.retrieval.engines.qdrant_edge.cells import clustered


@pytest.mark.parametrize("length", [0, 1, 3, 700])
def test_every_row_is_in_the_cell_of_the_nearest_centre(length):
    random = np.random.default_rng(length)
    vectors = random.normal(size=(length, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cells = clustered(vectors)
    assert sorted(cells.rows_N) == list(range(length)) and (cells.ends_C[-1:] == length).all()
    cell = np.repeat(np.arange(len(cells.ends_C)), np.diff(cells.ends_C, prepend=0))
    np.testing.assert_array_equal(cell, (vectors[cells.rows_N] @ cells.centres_Cd.T).argmax(axis=1) if length else [])
    places = random.permutation(length)
    exact = vectors[cells.rows_N[places]] @ np.full(8, 8**-0.5, np.float32)
    np.testing.assert_allclose(cells.cosines(np.full(8, 8**-0.5, np.float32), places), exact, atol=0.01)
