from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mercato.catalogue.store import Catalogue


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "catalogue.sqlite"


@pytest.fixture
def catalogue(file) -> Iterator[Catalogue]:
    with closing(Catalogue.open(file)) as catalogue:
        yield catalogue
