"""Requests of any kind to a real server: wild bodies, paths, query strings, headers and methods never fault it."""

from __future__ import annotations

import copy
import json
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.support.chaos import times
from tests.support.served import event
from tests.support.small_market import KEY
from tests.support.sockets import request, status
from tests.support.verb_server import serving

pytestmark = pytest.mark.chaos

PRODUCT = {
    "product_id": "p00",
    "title": "red chair",
    "description": "old",
    "category": "Home > Furniture",
    "price": 3.5,
    "currency": "EUR",
    "condition": "new",
    "created_at": "2024-06-01T10:00:00Z",
    "country": "es",
    "language": "es",
    "latitude": 40.4,
    "longitude": -3.7,
    "seller_id": "s1",
    "attributes": {"colour": "red"},
    "images": ["data:image/png;base64,iVBORw0KGgo="],
}
FILTERS = {"category": "Home", "price_min": 1, "price_max": 9.5, "conditions": ["new"], "seller_id": "s1"}
SEARCH = {
    "query": "red chair",
    "country": "es",
    "location": {"latitude": 40.4, "longitude": -3.7},
    "radius_miles": 50,
    "filters": FILTERS | {"attributes": {"colour": "red"}},
    "mode": "hybrid",
    "page_size": 5,
    "cursor": "AAAA",
}
BODIES: dict[tuple[str, str], Any] = {
    ("POST", "/v1/search"): SEARCH,
    ("POST", "/v1/explain"): {"query": "red chair", "country": "es", "product_id": "p00"},
    ("POST", "/v1/products"): {"products": [PRODUCT]},
    ("POST", "/v1/events"): {"events": [event(client_id="c", user_query="red"), event("search")]},
    ("POST", "/v1/embed"): {"queries": ["red chair"], "country": "es"},
    ("POST", "/v1/embed "): {"products": [PRODUCT]},
    ("GET", "/v1/images/0/p00"): None,
    ("GET", "/v1/predicted-queries/p00"): None,
    ("GET", "/v1/products/p00"): None,
    ("DELETE", "/v1/products/p00"): None,
    ("GET", "/v1/market"): None,
    ("GET", "/healthz"): None,
    ("GET", "/readyz"): None,
    ("GET", "/metrics"): None,
    ("GET", "/openapi.json"): None,
    ("GET", "/docs"): None,
    ("GET", "/"): None,
    ("GET", "/page/index.html"): None,
}
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "QUERY", "BREW"]
NUMBERS = [0, -1, 1e308, -1e-320, 2**31, 2**63, 2**64, -(2**70), 10**400, float("nan"), float("inf")]
TEXTS = [
    "",
    " ",
    "\0",
    "\ud800",
    "é" * 300,
    "水" * 5_000,
    "' OR 1=1 --",
    "../../etc/passwd",
    "%00",
    "-",
    "NaN",
    "1e400",
]
TEXTS += [
    "9999-99-99T99:99:99Z",
    "0000-01-01T00:00:00Z",
    "9999-12-31T23:59:59-23:59",
    "data:image/png;base64,AAAA",
    "٣",
]
NAMES = ["content-type", "accept", "accept-encoding", "x-api-key", "x-forwarded-for", "range", "if-none-match", "host"]
NAMES += ["if-modified-since", "expect", "transfer-encoding", "content-length", "content-encoding", "cookie", "origin"]
NAMES += ["upgrade", "connection", "forwarded", "content-disposition", "user-agent", "authorization"]

texts = st.sampled_from(TEXTS) | st.text(max_size=20)
wild = st.recursive(
    st.none() | st.booleans() | st.sampled_from(NUMBERS) | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, each in inner for place in places(each, (*at, key)))]


def changed(value: Any, at: tuple[Any, ...], new: Any) -> Any:
    if not at:
        return new
    value = copy.copy(value)
    value[at[0]] = changed(value[at[0]], at[1:], new)
    return value


@st.composite
def bodies(draw: st.DrawFn, body: Any) -> bytes:
    """JSON that is right but for some places, or anything."""
    for _ in range(draw(st.integers(0, 3))):
        body = changed(body, draw(st.sampled_from(places(body))), draw(wild))
    content = json.dumps(body, ensure_ascii=draw(st.booleans())).encode(errors="surrogatepass")
    match draw(st.integers(0, 7)):
        case 0:
            return draw(st.binary(max_size=40))
        case 1:
            at = draw(st.integers(0, len(content)))
            return content[:at] + draw(st.binary(max_size=4)) + content[at:]
        case 2:
            return b"[" * 100_000 if draw(st.booleans()) else content[: len(content) // 2]
    return content


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A request in bytes: a right one, of which some parts are wild."""
    (method, path), right = draw(st.sampled_from([*BODIES.items()]))
    path = path.strip()
    content = draw(bodies(right)) if right is not None or draw(st.integers(0, 9)) == 0 else b""
    if draw(st.integers(0, 4)) == 0:
        method = draw(st.sampled_from(METHODS))
    if draw(st.integers(0, 3)) == 0:
        given_part = draw(texts)
        path = path.rpartition("/")[0] + "/" + quote(given_part, safe="/%", errors="surrogatepass")
    if draw(st.integers(0, 3)) == 0:
        names = st.sampled_from(["k", "q", "page", "cursor", ""]) | texts
        pairs = draw(st.lists(st.tuples(names, st.sampled_from(NUMBERS).map(repr) | texts), max_size=3))
        path += "?" + "&".join(f"{quote(a, errors='replace')}={quote(b, errors='replace')}" for a, b in pairs)
    fields = [f"x-api-key: {KEY}"] if draw(st.booleans()) else []
    if draw(st.integers(0, 2)) == 0:
        values = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=30) | st.sampled_from(
            ["chunked", "0", "-1", "bytes=0-", "bytes=9-1,,", "W/", "gzip", "100-continue", "text/plain", "h2c", "*"]
        )
        fields += [f"{name}: {value}" for name, value in draw(st.lists(st.tuples(st.sampled_from(NAMES), values)))]
    head, _, rest = request(method, path, content, "connection: close").partition(b"\r\n")
    own = "".join(f"{field}\r\n" for field in fields).encode("latin-1")
    return head + b"\r\n" + own + rest


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    limits = ("--connections", "200", "--per-address", "200", "--request-seconds", "0.5", "--idle-seconds", "0.5")
    with serving(tmp_path_factory.mktemp("wild"), *limits) as server:  # which must say nothing of a fault, either
        yield server


def test_no_request_faults_the_server(served):
    seen = set()

    @given(sent=requests())
    @settings(
        max_examples=times(300, 20_000),
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def answers(sent: bytes) -> None:
        with served.client.connect(sent, seconds=60) as connection:
            received = b""
            try:
                while part := connection.recv(65_536):
                    received += part
            except ConnectionError:
                pass
        served.client.opened.clear()
        seen.add(status(received))
        assert status(received) < 500 or status(received) == 503, (sent[:2_000], received[:500])

    answers()
    assert {200, 400, 401, 404, 405, 422} <= seen
    assert served.client.search()[0] == 200
