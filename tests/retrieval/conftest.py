"""One empty index a module; a test that writes into it takes out what it wrote."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mercato.retrieval.open import build_index, open_index
from mercato.retrieval.protocol import Index
from tests.support.catalogues import DIMENSION


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    folder = tmp_path_factory.mktemp("empty") / "index"
    build_index(folder, [], DIMENSION)
    with open_index(folder) as index:
        yield index
