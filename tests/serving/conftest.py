from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from fastapi.testclient import TestClient

from mercato.catalogue.store import Catalogue
from mercato.data.market import Market
from tests.support.served import server
from tests.support.small_market import make_market


@pytest.fixture(scope="session")
def built_market(tmp_path_factory) -> Market:
    return make_market(tmp_path_factory.mktemp("built") / "market")


@pytest.fixture
def market(built_market, tmp_path) -> Market:
    """A market of one's own."""
    return Market.open(shutil.copytree(built_market.path, tmp_path / "market"))


@pytest.fixture
def catalogue(tmp_path) -> Iterator[Catalogue]:
    catalogue = Catalogue.open(tmp_path / "catalogue.sqlite")
    yield catalogue
    catalogue.close()


@pytest.fixture
def start(market) -> Iterator[Callable[..., TestClient]]:
    """Start a server that the test may write to; it stops at the end of the test."""
    with ExitStack() as stack:
        yield lambda *given, **settings: stack.enter_context(server(market, *given, **settings))


@pytest.fixture(scope="session")
def client(built_market, tmp_path_factory) -> Iterator[TestClient]:
    """One server for all tests that only read."""
    copy = shutil.copytree(built_market.path, tmp_path_factory.mktemp("read") / "market")
    with server(Market.open(copy)) as client:
        yield client
