"""Whatever the OpenAPI description allows, and much that it does not: never a fault, and answers as described."""

from __future__ import annotations

import threading
import time

import pytest
import uvicorn
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode, openapi
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.support.chaos import times
from tests.support.served import application, free_port
from tests.support.small_market import KEY, HeadedEncoder, make_market

pytestmark = pytest.mark.chaos

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
ROUTES = [
    "POST /v1/search",
    "POST /v1/explain",
    "POST /v1/products",
    "GET /v1/images/{position}/{product_id}",
    "GET /v1/predicted-queries/{product_id}",
    "GET /v1/products/{product_id}",
    "DELETE /v1/products/{product_id}",
    "POST /v1/events",
    "POST /v1/embed",
    "GET /v1/market",
    "GET /healthz",
    "GET /readyz",
    "GET /metrics",
]


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    """The description that a real server gives of itself."""
    market = make_market(tmp_path_factory.mktemp("fuzz") / "market")
    with application(market, HeadedEncoder(), flush_seconds=0.1) as app:
        port = free_port()
        server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
        thread = threading.Thread(target=server.run)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield openapi.from_url(f"http://127.0.0.1:{port}/openapi.json")
        server.should_exit = True
        thread.join()


def test_every_route_is_fuzzed(described):
    operations = [found.ok() for found in described.get_all_operations()]
    assert {f"{operation.method.upper()} {operation.path}" for operation in operations} == set(ROUTES)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["right", "wrong"])
@pytest.mark.parametrize("route", ROUTES)
def test_a_route_answers_as_described(described, route, mode):
    method, path = route.split()
    operation = described[path][method]
    takes = operation.definition.raw.keys() & {"requestBody", "parameters"}
    if mode == GenerationMode.NEGATIVE and not takes:
        pytest.skip("takes nothing that could be wrong")

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=times(30, 600) if takes else 1,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def answers(case):
        case.headers = {**(case.headers or {}), "X-API-Key": KEY}
        case.call_and_validate(checks=CHECKS)

    answers()
