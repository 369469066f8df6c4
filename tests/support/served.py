"""A server over a small market, and the few words in which the tests speak to it."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

from fastapi import FastAPI
from fastapi.testclient import TestClient

from mercato.catalogue.seeding import seed
from mercato.catalogue.store import Catalogue
from mercato.catalogue.worker import IngestionWorker, Target
from mercato.data.market import Market
from mercato.retrieval.open import open_index
from mercato.search.market_info import market_info
from mercato.search.rules import MarketRules
from mercato.serving.app import create_app
from mercato.serving.deployment import Deployment, Deployments
from mercato.serving.services import Services, Settings
from tests.support.small_market import KEY, TrigramEncoder

WRITE = {"X-API-Key": KEY}
FAST = 1e6  # searches a second of one address: a test asks as fast as it can


@contextmanager
def application(
    market: Market,
    encoder=None,
    flush_seconds=10.0,
    policy=None,
    ranker=None,
    image_dimension=0,
    disks=(),
    **settings,
) -> Iterator[FastAPI]:
    """The application over the market's files; it holds their index until the block ends."""
    encoder = encoder or TrigramEncoder()
    with (
        closing(Catalogue.open(market.path / "catalogue.sqlite")) as catalogue,
        open_index(market.path / "index") as index,
    ):
        seed(catalogue, market)
        info = market_info(market, catalogue.products.documents())
        own = {
            "policy": policy,
            "ranker": ranker,
            "rules": MarketRules(market.path),
            "image_dimension": image_dimension,
        }
        deployments = Deployments(Deployment(encoder, index, catalogue, **own))
        targets = [Target(encoder, index)]
        how = {"flush_seconds": flush_seconds, "disks": disks}
        with IngestionWorker(catalogue, targets, market.path, "server", **how) as ingestion:
            settings = Settings(**{"api_key": KEY, "open_rate": FAST} | settings)
            yield create_app(Services(market, info, deployments, catalogue, ingestion.wake, settings, disks))


@contextmanager
def server(market: Market, *given, **settings) -> Iterator[TestClient]:
    """Serve the market's files until the block ends."""
    with (
        application(market, *given, **settings) as app,
        TestClient(app, raise_server_exceptions=False) as client,
    ):
        yield client


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def search(client, **body) -> dict:
    answer = client.post("/v1/search", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def ids(page: dict) -> list[str]:
    return [hit["product"]["product_id"] for hit in page["hits"]]


def wait_until(condition, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def event(action="click", **fields) -> dict:
    return {
        "action_name": action,
        "query_id": "q1",
        "session_id": "s1",
        "user_query": "red chair",
        "timestamp": "2024-06-01T10:00:00Z",
        "event_attributes": {"object": {"object_id": "p00"}, "position": {"ordinal": 1}},
    } | fields
