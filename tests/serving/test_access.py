"""Keys at the server: what each may do, how often, and what is open without one."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from contextlib import closing, redirect_stderr

import pytest

from mercato.catalogue.store import Catalogue
from mercato.errors import MercatoError
from mercato.serving.access import AREAS, KeyRing, SharedRate, TokenBucket, needed
from mercato.serving.audit import show_audit
from tests.support.served import server, wait_until
from tests.support.small_market import KEY

BODY = {"products": [{"product_id": "n", "title": "red chair"}]}
EVENT = {"action_name": "click", "session_id": "s", "timestamp": "2024-06-01T10:00:00Z"}
REQUESTS = {
    "upsert": ("POST", "/v1/products", BODY),
    "delete": ("DELETE", "/v1/products/p01", None),
    "search": ("POST", "/v1/search", {"query": "red chair"}),
    "product": ("GET", "/v1/products/p00", None),
    "embed": ("POST", "/v1/embed", {"queries": ["red chair"]}),
    "events": ("POST", "/v1/events", {"events": [EVENT]}),
    "metrics": ("GET", "/metrics", None),
    "docs": ("GET", "/docs", None),
    "openapi": ("GET", "/openapi.json", None),
    "page": ("GET", "/", None),
    "healthz": ("GET", "/healthz", None),
}
SCOPE = {
    **dict.fromkeys(["upsert", "delete", "events"], "write"),
    **dict.fromkeys(["search", "product", "embed", "docs", "openapi"], "read"),
    "metrics": "admin",
}


@pytest.fixture
def catalogue(market):
    with closing(Catalogue.open(market.path / "catalogue.sqlite")) as own:
        yield own


def status(client, name, key=None):
    method, path, body = REQUESTS[name]
    return client.request(method, path, json=body, headers={"X-API-Key": key} if key else {}).status_code


def test_each_scope_opens_its_own_and_nothing_else(market, catalogue):
    keys = {scope: catalogue.keys.add(scope, [scope])[1] for scope in ("read", "write", "admin")}
    with server(market, opened=()) as client:
        for name in REQUESTS:
            wanted = SCOPE.get(name)
            assert status(client, name) == (200 if wanted is None else 401), name
            assert status(client, name, "mk_00000000_wrong") == (200 if wanted is None else 401), name
            for scope, key in keys.items():
                allowed = wanted in (None, scope) and not (name == "delete" and scope != "write")
                assert status(client, name, key) == (200 if allowed else 403), (name, scope)
        assert status(client, "upsert", KEY) == 200, "the server's own may do everything"


@pytest.mark.parametrize("area", AREAS)
def test_an_area_that_is_open_needs_no_key_and_the_others_do(area):
    paths = {path for _, path, _ in REQUESTS.values()} - {"/", "/healthz"}
    opened = {path for path in paths if needed("GET", path, [area]) is None}
    own = {
        "search": {"/v1/search", "/v1/products", "/v1/products/p00", "/v1/products/p01"},
        "docs": {"/docs", "/openapi.json"},
    }
    assert opened == own.get(area, {f"/v1/{area}" if area in ("embed", "events") else f"/{area}"})
    assert needed("POST", "/v1/products", AREAS) == needed("DELETE", "/v1/products/a/b", AREAS) == "write"


def test_only_a_key_that_may_write_has_a_large_body_read(market, catalogue):
    keys = {scope: catalogue.keys.add(scope, [scope])[1] for scope in ("read", "write")}
    body = {"queries": ["x"], "padding": "a" * 2**21}
    with server(market) as client:
        answers = {
            scope: client.post("/v1/embed", json=body, headers={"X-API-Key": key}) for scope, key in keys.items()
        }
    assert {scope: answer.status_code for scope, answer in answers.items()} == {"read": 413, "write": 422}


def test_keys_are_made_and_revoked_while_it_serves(market, catalogue):
    with server(market) as client:
        made, key = catalogue.keys.add("shop", ["write"])
        wait_until(lambda: status(client, "upsert", key) == 200)
        catalogue.keys.revoke(made.key_id)
        wait_until(lambda: status(client, "upsert", key) == 401)


def test_a_key_is_held_to_its_rate_and_told_when_to_come_back(market, catalogue):
    _, slow = catalogue.keys.add("slow", ["write"], rate=0.001)
    _, fast = catalogue.keys.add("fast", ["write"])
    with server(market) as client:
        assert status(client, "search", slow) == 200
        answer = client.post("/v1/search", json={"query": "chair"}, headers={"X-API-Key": slow})
        assert answer.status_code == 429 and "0.001 requests a second" in answer.json()["detail"]
        assert 900 < int(answer.headers["retry-after"]) <= 1000
        assert [status(client, "search", key) for key in (fast, fast, KEY, None)] == [200] * 4


def test_embedding_without_a_key_is_bounded_for_all_together(market, catalogue):
    _, key = catalogue.keys.add("shop", ["read"])
    body = {"queries": ["red chair", "lamp"]}
    with server(market, open_embeddings=0.01) as client:
        assert client.post("/v1/embed", json=body).status_code == 200
        refused = client.post("/v1/embed", json=body)
        assert refused.status_code == 429 and int(refused.headers["retry-after"]) > 50
        for _ in range(3):
            assert client.post("/v1/embed", json=body, headers={"X-API-Key": key}).status_code == 200
        products = client.post("/v1/embed", json=BODY, headers={"X-API-Key": key})
        assert products.status_code == 401 and "may write" in products.json()["detail"]


def test_events_without_a_key_are_bounded_for_one_address_and_for_all(market, catalogue):
    _, key = catalogue.keys.add("shop", ["write"])

    def post(count, **headers):
        return client.post("/v1/events", json={"events": [EVENT] * count}, headers=headers)

    with server(market, open_events=(0.01, 1000.0)) as client:
        assert post(1).status_code == 200
        refused = post(1)
        assert refused.status_code == 429 and 0 < int(refused.headers["retry-after"]) <= 100
        assert [post(50, **{"X-API-Key": key}).status_code for _ in range(3)] == [200] * 3


def test_bytes_of_events_without_a_key_are_bounded_before_they_are_read(market, catalogue):
    _, key = catalogue.keys.add("shop", ["write"])
    wide = {"events": [EVENT | {"unknown": "a" * 5_000}]}

    def post(body, **headers):
        return client.post("/v1/events", json=body, headers=headers)

    with server(market, open_event_bytes=(50.0, 10_000.0)) as client:
        assert post(wide).status_code == 200
        refused = post({"not": "events"})
        assert refused.status_code == 429 and "bytes" in refused.json()["detail"]
        assert int(refused.headers["retry-after"]) >= 90, "what did not fit is owed"
        assert [post(wide, **{"X-API-Key": key}).status_code for _ in range(3)] == [200] * 3
        assert client.post("/v1/search", json={"query": "red"}).status_code == 200
    with server(market, open_event_bytes=(50.0, 10_000.0)) as client:
        chunks = iter([json.dumps({"events": [EVENT]}).encode()])
        json_in_chunks = {"content-type": "application/json"}
        assert client.post("/v1/events", content=chunks, headers=json_in_chunks).status_code == 200
        assert int(post(wide).headers["retry-after"]) > 20_000, "one in chunks counts as the largest"


def test_each_address_has_its_share_until_all_together_have_had_theirs():
    rate = SharedRate(10.0, 25.0, addresses=2, now=lambda: 0.0)
    assert [rate.take("a", 10), rate.take("b", 10), rate.take("a", 10)] == [0, 0, 1.0]
    assert rate.take("2001:db8::1", 4) == 0
    assert rate.take("2001:db8::2", 9) == pytest.approx(0.3), "of the same /64, which has 6 left"
    assert rate.take("c", 2) == pytest.approx(0.04), "its first, but all together have 1 left"


def test_only_the_addresses_that_came_last_are_remembered():
    rate = SharedRate(10.0, 1000.0, addresses=2, now=lambda: 0.0)
    assert [rate.take(address, 10) for address in ("a", "b", "c")] == [0, 0, 0]
    assert rate.take("c", 10) == 1.0
    assert rate.take("a", 10) == 0, "forgotten"


def test_writes_leave_a_line_without_content(market, catalogue, monkeypatch):
    made, key = catalogue.keys.add("Anna's laptop", ["write"])
    printed = io.StringIO()
    monkeypatch.setattr(logging.getLogger("mercato.audit"), "handlers", [])
    with redirect_stderr(printed):
        show_audit()
    with server(market) as client:
        for name in ("upsert", "delete", "search", "events"):
            assert status(client, name, key) == 200
        assert status(client, "delete", key) == 404
        assert status(client, "upsert") == 401
    lines = [json.loads(line) for line in printed.getvalue().splitlines()]
    assert [(line["audit"], line["key"], line["status"], line["count"]) for line in lines] == [
        ("POST /v1/products", made.key_id, 200, 1),
        ("DELETE /v1/products/{product_id}", made.key_id, 200, 1),
        ("DELETE /v1/products/{product_id}", made.key_id, 404, 0),
    ]
    assert not any(word in json.dumps(lines) for word in ("Anna", "p01", "red chair", key))


def test_a_bucket_fills_with_time_and_never_above_a_second_s_worth():
    now = 0.0
    bucket = TokenBucket(2.0, lambda: now)
    assert [bucket.take() for _ in range(3)] == [0, 0, 0.5]
    now = 0.5
    assert [bucket.take(), bucket.take()] == [0, 0.5]
    now = 100.0
    assert bucket.take(2) == 0 and bucket.take(9) == 1.0, "who wants more than fit waits for a full one"
    now = 101.0
    assert bucket.take(9) == 0 and bucket.take() == 4.0, "and owes the rest"
    now = 104.0
    assert bucket.take() == 1.0


def test_a_key_that_is_read_anew_has_no_new_share(tmp_path):
    with closing(Catalogue.open(tmp_path / "catalogue.sqlite")) as catalogue:
        _, key = catalogue.keys.add("shop", ["read"], rate=1)

        async def asked():
            ring = KeyRing(catalogue.keys.all, None, fresh=0.0)
            return [await ring.caller(key.encode()) for _ in range(2)]

        first, second = asyncio.run(asked())
    assert first.bucket is second.bucket is not None


def test_what_was_known_holds_while_the_catalogue_cannot_be_read(tmp_path):
    with closing(Catalogue.open(tmp_path / "catalogue.sqlite")) as catalogue:
        made, key = catalogue.keys.add("shop", ["read"])
        found = [made]

    def load():
        if not found:
            raise MercatoError("the keys cannot be read: disk I/O error")
        return [found.pop()]

    async def asked():
        ring = KeyRing(load, None, fresh=0.0)
        return [await ring.caller(key.encode()) for _ in range(2)], await ring.caller(b"\xff_\xfe")

    callers, nobody = asyncio.run(asked())
    assert [caller.key_id for caller in callers] == [made.key_id] * 2
    assert nobody is None


def test_one_address_reads_so_much_a_second_without_a_key_and_a_key_that_may_read_more(market, catalogue):
    """Searches and products together; pictures, of which a page has many, are not counted."""
    _, reads = catalogue.keys.add("shop", ["read"])
    _, writes = catalogue.keys.add("backend", ["write"])
    with server(market, open_rate=2.0) as client:
        assert [status(client, name) for name in ("search", "product", "search")] == [200, 200, 429]
        refused = client.get("/v1/products/p00")
        assert refused.status_code == 429 and 0 < int(refused.headers["retry-after"]) <= 1
        assert "one address gets 2 searches and products a second" in refused.json()["detail"]
        assert status(client, "product", writes) == 429
        assert [status(client, "search", reads) for _ in range(5)] == [200] * 5
        assert [client.get("/v1/images/0/p00").status_code for _ in range(5)] == [200] * 5
        assert status(client, "page") == status(client, "healthz") == 200


def test_a_search_without_a_key_ends_sooner_and_a_deep_cursor_needs_the_key(market, catalogue):
    _, reads = catalogue.keys.add("shop", ["read"])
    _, writes = catalogue.keys.add("backend", ["write"])

    def page(key=None, cursor=None):
        headers, body = {"X-API-Key": key} if key else {}, {"query": "", "page_size": 10}
        return client.post("/v1/search", json=body | ({"cursor": cursor} if cursor else {}), headers=headers)

    with server(market, open_depth=20) as client:
        assert page(None, page(reads, page(reads).json()["cursor"]).json()["cursor"]).status_code == 403, "just there"
    with server(market, open_depth=24) as client:
        for key, sizes in ((None, [10, 10, 4]), (writes, [10, 10, 4]), (reads, [10, 10, 10, 10, 8])):
            cursor, seen = None, []
            for size in sizes:
                found = page(key, cursor).json()
                seen += [hit["product"]["product_id"] for hit in found["hits"]]
                assert len(found["hits"]) == size and found["total"] == 48
                cursor = found["cursor"]
                assert (cursor is None) == (len(seen) == sum(sizes))
            assert found["truncated"] == (key is not reads) and len(set(seen)) == sum(sizes)
        cursor = page(reads, page(reads).json()["cursor"]).json()["cursor"]
        assert len(page(None, cursor).json()["hits"]) == 4, "what is left to the bound"
        cursor = page(reads, cursor).json()["cursor"]
        refused = page(None, cursor)
        assert refused.status_code == 403
        assert refused.json() == {"detail": "cursor: without a key that may read, a search shows 24 products"}


def test_a_search_without_a_key_that_ends_by_itself_is_whole(market):
    with server(market, open_depth=48) as client:
        found = client.post("/v1/search", json={"query": "", "page_size": 48}).json()
        assert (len(found["hits"]), found["cursor"], found["truncated"]) == (48, None, False)


def test_what_is_shared_by_all_may_be_without_a_bound():
    rate = SharedRate(10.0, None, addresses=2, now=lambda: 0.0)
    assert [rate.take(f"192.0.2.{n}", 10) for n in range(200)] == [0.0] * 200
    assert rate.take("192.0.2.199", 1) == 0.1
