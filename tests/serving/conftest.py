from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from small_market import KEY, TrigramEncoder, make_market

from mercato.data.market import Market
from mercato.retrieval.index import open_index
from mercato.serving.api import Settings, create_app
from mercato.serving.catalogue import Catalogue
from mercato.serving.seeding import seed


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


@contextmanager
def application(market: Market, encoder=None, **settings) -> Iterator[FastAPI]:
    """The application over the market's files; it holds their index until the block ends."""
    catalogue = Catalogue.open(market.path / "catalogue.sqlite")
    seed(catalogue, market)
    with closing(catalogue), open_index(market.path / "index") as index:
        yield create_app(market, encoder or TrigramEncoder(), index, catalogue, Settings(api_key=KEY, **settings))


@contextmanager
def server(market: Market, *given, **settings) -> Iterator[TestClient]:
    """Serve the market's files until the block ends."""
    with (
        application(market, *given, **settings) as app,
        TestClient(app, raise_server_exceptions=False) as client,
    ):
        yield client


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
