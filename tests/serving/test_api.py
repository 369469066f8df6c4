from __future__ import annotations

import asyncio
import base64
import io
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mercato.catalogue import images as pictures
from mercato.data.mining import mine
from mercato.data.query_rules import RULES
from mercato.data.schema import PRODUCTS
from mercato.search.policy import Effort, RetrievalPolicy
from mercato.serving.access import AREAS, KeyRing, SharedRate
from mercato.serving.guard import RequestGuard
from mercato.serving.prometheus import Metrics
from tests.support.served import WRITE, event, ids, search, server, wait_until
from tests.support.small_market import KEY, TrigramEncoder, make_market, picture, products


def all_pages(client, between=lambda: None, **body) -> list[dict]:
    hits, cursor, query_ids = [], None, set()
    while True:
        page = search(client, **body, cursor=cursor)
        hits += page["hits"]
        query_ids.add(page["query_id"])
        cursor = page["cursor"]
        if cursor is None:
            assert len(query_ids) == 1
            return hits
        between()


# -- searching ---------------------------------------------------------------------------------------------------------


def test_a_search_finds_and_explains(client):
    page = search(client, query="red chair", location={"latitude": 51.5, "longitude": -0.1}, page_size=3)
    first = page["hits"][0]
    assert first["product"]["title"] == "red chair" and first["position"] == 1
    assert first["cosine"] == pytest.approx(1, abs=1e-5) and first["bm25"] > 0
    assert first["found_by"] == ["ann", "text"] and first["distance_km"] < 10
    assert first["product"]["images"] == ["/v1/images/0/p00"]
    assert page["total"] == 48 and page["query_id"] and page["cursor"] and page["took_ms"] > 0
    assert [hit["cosine"] for hit in page["hits"]] == sorted((h["cosine"] for h in page["hits"]), reverse=True)


def test_a_query_with_a_typo_still_finds(client):
    assert search(client, query="red chiar", page_size=1)["hits"][0]["product"]["title"] == "red chair"


def test_the_modes_differ_as_they_say(client):
    semantic = search(client, query="chair", mode="semantic", page_size=48)
    text = search(client, query="chair", mode="text", page_size=48)
    assert (
        all(hit["found_by"] == ["ann"] and hit["bm25"] == 0 for hit in semantic["hits"]) and len(semantic["hits"]) == 48
    )
    assert {hit["product"]["title"].split()[1] for hit in text["hits"]} == {"chair"} and text["cursor"] is None
    assert [hit["bm25"] for hit in text["hits"]] == sorted((hit["bm25"] for hit in text["hits"]), reverse=True)


@pytest.mark.parametrize(
    ("filters", "keeps"),
    [
        ({"category": "Home > Furniture"}, lambda row: row["category"].startswith("Home > Furniture")),
        ({"category": "Home"}, lambda row: row["category"].startswith("Home >")),
        ({"price_min": 20, "price_max": 30}, lambda row: 20 <= row["price"] <= 30),
        ({"condition": ["used"]}, lambda row: row["condition"] == "used"),
        ({"country": "es"}, lambda row: row["country"] == "es"),
        ({"seller_id": "s3"}, lambda row: row["seller_id"] == "s3"),
        ({"attributes": {"colour": "blue"}}, lambda row: ("colour", "blue") in row["attributes"]),
        ({"price_min": 1000}, lambda row: False),
    ],
)
def test_filters_are_kept_and_counted(client, filters, keeps):
    wanted = {row["product_id"] for row in products() if keeps(row)}
    page = search(client, query="red chair", mode="semantic", filters=filters, page_size=100)
    assert set(ids(page)) == wanted and page["total"] == len(wanted)


def test_a_radius_in_miles_is_one_in_kilometres(client):
    here = {"latitude": 51.5, "longitude": -0.1}
    miles = search(client, query="chair", mode="semantic", location=here, radius_miles=2, page_size=100)
    kilometres = search(client, query="chair", mode="semantic", location=here, radius_km=3.218688, page_size=100)
    assert ids(miles) == ids(kilometres) and 0 < miles["total"] < 24
    assert all(hit["distance_km"] <= 3.2187 for hit in miles["hits"])


def test_an_empty_query_browses_newest_first(client):
    hits = all_pages(client, query="  ", filters={"country": "gb"}, page_size=5)
    created = [hit["product"]["created_at"] for hit in hits]
    assert len(hits) == 24 and created == sorted(created, reverse=True)


@pytest.mark.parametrize("mode", ["hybrid", "semantic", "text"])
@pytest.mark.parametrize("page_size", [1, 7, 24])
def test_the_pages_together_are_the_ranking(client, mode, page_size):
    whole = search(client, query="red chair", mode=mode, page_size=100)
    hits = all_pages(client, query="red chair", mode=mode, page_size=page_size)
    assert [hit["product"]["product_id"] for hit in hits] == ids(whole)
    assert [hit["position"] for hit in hits] == list(range(1, len(hits) + 1))


def test_pages_are_whole_beyond_a_radius(start):
    client = start(policy=RetrievalPolicy(pages=(Effort(ef_search=96, candidates=100, min_cosine=0.4),)))
    whole = search(client, query="red chair", page_size=100)
    beyond = [hit for hit in whole["hits"] if hit["cosine"] < 0.4]
    assert 0 < len(beyond) < len(whole["hits"]) and all(hit["found_by"] == ["text"] for hit in beyond)
    hits = all_pages(client, query="red chair", page_size=3)
    assert [hit["product"]["product_id"] for hit in hits] == ids(whole)


def test_upserts_between_pages_neither_repeat_nor_hide(start):
    client = start()
    before = ids(search(client, query="red chair", page_size=100))
    numbers = iter(range(100))

    def write_some():
        names = [f"new{next(numbers)}" for _ in range(3)]
        titles = ("red chair", "green lamp", "reddish chair")
        new = [{"product_id": name, "title": title} for name, title in zip(names, titles, strict=True)]
        assert client.post("/v1/products", json={"products": new}, headers=WRITE).status_code == 200
        wait_until(lambda: names[0] in ids(search(client, query="red chair", page_size=100)))

    shown = [h["product"]["product_id"] for h in all_pages(client, write_some, query="red chair", page_size=10)]
    assert len(shown) == len(set(shown))
    assert [product_id for product_id in shown if not product_id.startswith("new")] == before


@pytest.mark.parametrize("page_size", [1, 10, 100])
def test_a_model_number_is_found_first(tmp_path, page_size):
    rows = [{"product_id": f"p{n:03}", "title": f"xr radio {n % 7}"} for n in range(299)]
    rows.insert(150, {"product_id": "sought", "title": "a radio in its box with odd things, XR-5521, and no remote"})
    with server(make_market(tmp_path / "market", rows), open_depth=1000) as client:
        assert "sought" not in ids(search(client, query="radio 5521", mode="semantic", page_size=10))
        first = search(client, query="radio 5521", page_size=page_size)["hits"][0]
        assert first["product"]["product_id"] == "sought" and first["exact"] and "text" in first["found_by"]
        shown = [hit["product"]["product_id"] for hit in all_pages(client, query="radio 5521", page_size=page_size)]
        assert sorted(shown) == sorted(row["product_id"] for row in rows)


def test_a_rule_s_pin_says_that_it_is_one(start, market):
    (market.path / RULES).write_text('[[rules]]\nquery = "red chair"\npin = ["p40"]\nbury = ["p00"]')
    first, second, *_ = search(start(), query="red chair")["hits"]
    assert (first["product"]["product_id"], first["placed_by"], first["found_by"]) == ("p40", "pin", [])
    assert first["rank_score"] is None and first["places"] is None and first["bm25"] == 0
    assert second["product"]["product_id"] != "p00" and second["placed_by"] is None


def test_what_only_words_found_follows_what_is_near_enough(start):
    client = start(policy=RetrievalPolicy(pages=(Effort(ef_search=96, candidates=100, min_cosine=0.9),)))
    first_page = search(client, query="red chair", page_size=6)["hits"]
    assert {hit["found_by"] == ["text"] for hit in first_page} == {True, False}
    assert all(hit["cosine"] < 0.9 for hit in first_page if "ann" not in hit["found_by"])
    assert all(hit["found_by"] == ["ann"] for hit in search(client, query="red chair", mode="semantic")["hits"])


def test_a_last_page_that_is_not_all_says_so(start):
    client = start(policy=RetrievalPolicy(deepest=10))
    first = search(client, query="red chair", page_size=7)
    last = search(client, query="red chair", page_size=7, cursor=first["cursor"])
    assert not first["truncated"] and last["truncated"] and last["cursor"] is None and len(last["hits"]) == 3


def test_a_cursor_outlives_the_server(market):
    with server(market) as client:
        first = search(client, query="red chair", page_size=20)
    with server(market) as client:
        rest = search(client, query="red chair", page_size=100, cursor=first["cursor"])
        assert ids(first) + ids(rest) == ids(search(client, query="red chair", page_size=100))
        assert rest["query_id"] == first["query_id"]


# -- refusing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"query": "x", "colour": "red"}, "colour"),
        ({"query": "x", "filters": {"size": 3}}, "filters.size"),
        ({"query": "x" * 513}, "query"),
        ({"query": "\x00"}, "query"),
        ({"query": 7}, "query"),
        ({"query": "x", "page_size": 101}, "page_size"),
        ({"query": "x", "country": "Germany"}, "country"),
        ({"query": "x", "mode": "magic"}, "mode"),
        ({"query": "x", "radius_km": 5}, "location"),
        (
            {"query": "x", "radius_km": 5, "radius_miles": 5, "location": {"latitude": 1, "longitude": 1}},
            "radius_miles",
        ),
        ({"query": "x", "location": {"latitude": 91, "longitude": 0}}, "location.latitude"),
        ({"query": "x", "filters": {"price_min": 5, "price_max": 1}}, "price_min"),
        ({"query": "x", "filters": {"category": " > "}}, "filters.category"),
        ({"query": "x", "filters": {"seller_id": ""}}, "filters.seller_id"),
    ],
)
def test_a_wrong_field_is_named(client, body, field):
    answer = client.post("/v1/search", json=body)
    assert answer.status_code == 422 and field in answer.json()["detail"]


@pytest.mark.parametrize(
    "raw", [b'{"query": "\\ud800"}', b'{"\\udfff": 1}', b"{", b"", b"[1]", b'{"query": NaN}', b"\xff" * 9]
)
def test_a_body_that_is_no_request_is_refused(client, raw):
    answer = client.post("/v1/search", content=raw, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422) and answer.json()["detail"]


@pytest.mark.parametrize("declared", [True, False])
def test_a_query_of_a_megabyte_is_too_large(client, declared):
    body = b'{"query": "' + b"a" * 2**20 + b'"}'
    content = body if declared else iter([body[:1000], body[1000:]])
    answer = client.post("/v1/search", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 413 and "64 kB" in answer.json()["detail"]


def test_a_forged_cursor_is_refused(client):
    cursor = search(client, query="red chair", page_size=3)["cursor"]
    for forged in ("garbage", cursor[:-4] + "AAAA", "é" * 20, "A" + cursor):
        answer = client.post("/v1/search", json={"query": "red chair", "cursor": forged})
        assert answer.status_code == 400 and "cursor" in answer.json()["detail"], forged
    answer = client.post("/v1/search", json={"query": "blue chair", "cursor": cursor})
    assert answer.status_code == 400 and "another search" in answer.json()["detail"]


@pytest.mark.parametrize("product_id", ["a/images/0", "a/queries", "p00/", "1/a", "10 % ?#&", "商品/é"])
def test_every_id_reaches_its_own_product(start, product_id):
    client, address = start(), quote(product_id, safe="")
    image = {"base64": base64.b64encode(picture("red", "PNG")).decode()}
    body = {"products": [{"product_id": product_id, "title": "red chair", "images": [image]}]}
    assert client.post("/v1/products", json=body, headers=WRITE).status_code == 200
    found = client.get(f"/v1/products/{address}").json()
    assert found["product_id"] == product_id
    assert client.get(found["images"][0]).headers["content-type"] == "image/png"
    assert client.delete(f"/v1/products/{address}", headers=WRITE).status_code == 200
    assert client.get(f"/v1/products/{address}").status_code == 404
    assert client.get("/v1/products/p00").status_code == 200


@pytest.mark.parametrize("product_id", ["a\nb", "a\x00", " a", "a/../b", "x" * 257])
def test_what_can_be_no_id_is_refused_with_its_place(client, product_id):
    body = {"products": [{"product_id": "fine", "title": "t"}, {"product_id": product_id, "title": "t"}]}
    answer = client.post("/v1/products", json=body, headers=WRITE)
    assert answer.status_code == 422 and answer.json()["detail"].startswith("products.1.product_id: ")
    assert client.get("/v1/products/fine").status_code == 404
    thing = {"object": {"object_id": product_id}}
    answer = client.post("/v1/events", json={"events": [event(event_attributes=thing)]})
    assert answer.status_code == 200
    assert (answer.json().get("set_aside") is None) == (product_id == " a"), "events are read as tables are, trimmed"


def test_writes_need_the_key(client):
    body = {"products": [{"product_id": "n", "title": "t"}]}
    for headers in ({}, {"X-API-Key": "wrong"}, {"X-API-Key": KEY + "0"}, {"X-API-Key": ""}):
        assert client.post("/v1/products", json=body, headers=headers).status_code == 401
        assert client.delete("/v1/products/p00", headers=headers).status_code == 401
    assert client.get("/v1/products/n").status_code == 404 and client.get("/v1/products/p00").status_code == 200


def test_past_capacity_the_answer_is_503_with_retry_after(start):
    release = threading.Event()

    class Slow(TrigramEncoder):
        def encode_queries(self, queries, country=None):
            release.wait(120)
            return super().encode_queries(queries, country)

    client = start(Slow(), searches=2, waiting=2)
    with ThreadPoolExecutor(12) as pool:
        waiting = [pool.submit(client.post, "/v1/search", json={"query": "red chair"}) for _ in range(12)]
        wait_until(lambda: sum(future.done() for future in waiting) == 8)
        assert client.get("/healthz").status_code == 200
        release.set()
        answers = [future.result() for future in waiting]
    assert sorted(answer.status_code for answer in answers) == [200] * 4 + [503] * 8
    assert all(answer.headers["retry-after"] == "1" for answer in answers if answer.status_code == 503)
    wait_until(lambda: client.post("/v1/search", json={"query": "red chair"}).status_code == 200)


def test_embedding_keeps_no_search_waiting(start):
    begun, release = threading.Event(), threading.Event()

    class Slow(TrigramEncoder):
        def encode_products(self, rows):
            begun.set()
            release.wait(120)
            return super().encode_products(rows)

    client = start(Slow(), searches=1, waiting=0)
    body = {"products": [{"product_id": "n", "title": "lamp"}]}
    with ThreadPoolExecutor(4) as pool:
        embedding = [pool.submit(client.post, "/v1/embed", json=body, headers=WRITE) for _ in range(4)]
        assert begun.wait(120)
        assert client.post("/v1/search", json={"query": "red chair"}).status_code == 200
        release.set()
        assert {answer.result().status_code for answer in embedding} == {200}


def test_a_large_body_without_the_key_is_not_read_for_embedding(client):
    body = {"queries": ["x"], "padding": "a" * 2**21}
    assert client.post("/v1/embed", json=body).status_code == 413
    assert client.post("/v1/embed", json=body, headers=WRITE).status_code == 422


def test_large_bodies_are_let_in_a_few_at_a_time():
    inside, release, statuses = [], asyncio.Event(), []

    async def app(scope, receive, send):
        inside.append(scope["caller"] is not None)
        await release.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        if message["type"] == "http.response.start":
            statuses.append((message["status"], dict(message["headers"]).get(b"retry-after")))

    async def post(guard, size, keyed, path="/v1/events"):
        headers = [(b"transfer-encoding", b"chunked") if size is None else (b"content-length", str(size).encode())]
        headers += [(b"x-api-key", KEY.encode())] if keyed else []
        await guard({"type": "http", "method": "POST", "path": path, "headers": headers}, receive, send)

    async def crowd():
        guard = RequestGuard(app, KeyRing(list, KEY), AREAS, Metrics(), SharedRate(1e9, 1e9))
        posts = [post(guard, size, keyed=False) for size in [500_000] * 20 + [None] * 3 + [100] * 30]
        posts += [post(guard, 30_000_000, keyed=True, path="/v1/products") for _ in range(6)]
        waiting = [asyncio.create_task(one) for one in posts]
        while len(inside) + len(statuses) < len(waiting):
            await asyncio.sleep(0)
        assert (inside.count(False), inside.count(True)) == (16 + 30, 4)
        assert statuses == [(503, b"1")] * 9
        release.set()
        await asyncio.gather(*waiting)
        await post(guard, 500_000, keyed=False)  # the places are free again
        assert statuses[-1][0] == 200

    asyncio.run(crowd())


@pytest.mark.parametrize("path", ["/v1/products", "/v1/embed"])
def test_a_picture_of_too_many_pixels_is_refused_by_its_header(client, monkeypatch, path):
    out = io.BytesIO()
    Image.new("1", (4000, 3001)).save(out, "PNG")
    monkeypatch.setattr(pictures, "read_image", lambda *_: pytest.fail("it was decoded"))
    image = {"base64": base64.b64encode(out.getvalue()).decode()}
    answer = client.post(path, json={"products": [{"product_id": "n", "title": "t", "images": [image]}]}, headers=WRITE)
    assert answer.status_code == 400 and "products.0.images.0.base64" in answer.json()["detail"]
    assert "12,000,000" in answer.json()["detail"]


def test_a_search_that_takes_too_long_is_given_up(start):
    release = threading.Event()

    class Stuck(TrigramEncoder):
        def encode_queries(self, queries, country=None):
            release.wait(120)
            return super().encode_queries(queries, country)

    answer = start(Stuck(), timeout_seconds=0.05).post("/v1/search", json={"query": "red chair"})
    release.set()
    assert answer.status_code == 503 and "retry-after" in answer.headers


# -- products ----------------------------------------------------------------------------------------------------------


def test_an_upsert_comes_back_whole_and_is_found_and_a_delete_is_final(start):
    client = start()
    new = {
        "product_id": "a/b ü?",
        "title": "purple wardrobe",
        "price": 5.5,
        "created_at": "2024-06-01T10:00:00+02:00",
        "attributes": {"colour": "purple"},
        "images": [{"base64": base64.b64encode(picture("purple", "PNG")).decode()}],
        "latitude": 51.5,
        "longitude": -0.1,
    }
    assert client.post("/v1/products", json={"products": [new]}, headers=WRITE).json() == {"accepted": 1}
    got = client.get("/v1/products/a%2Fb%20%C3%BC%3F").json()
    assert got["title"] == "purple wardrobe" and got["created_at"].startswith("2024-06-01T08:00:00")
    image = client.get(got["images"][0])
    assert image.headers["content-type"] == "image/png" and image.content == picture("purple", "PNG")
    wait_until(lambda: ids(search(client, query="purple wardrobe", page_size=1)) == ["a/b ü?"])
    assert search(client, query="wardrobe", mode="text", filters={"attributes": {"colour": "purple"}})["hits"]
    assert client.delete("/v1/products/a%2Fb%20%C3%BC%3F", headers=WRITE).json() == {"accepted": 1}
    assert "a/b ü?" not in ids(search(client, query="purple wardrobe"))
    assert client.get(got["images"][0]).status_code == 404
    wait_until(lambda: search(client, query="x")["total"] == 48)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("price", "NaN"),
        ("price", '"cheap"'),
        ("price", "-1"),
        ("price", "1e999"),
        ("created_at", '"0001-01-01T00:00:00+23:00"'),
        ("latitude", "120"),
        ("title", '""'),
        ("colour", "1"),
        ("images", '[{"base64": "!"}]'),
        ("images", '[{"base64": "AAAA"}]'),
        ("images", '[{"path": "/etc/passwd"}]'),
        ("image_embeddings", "[[NaN]]"),
        ("image_embeddings", "[[1e300]]"),
        ("image_embeddings", "[[1, 2], [1]]"),
        ("image_embeddings", "[[]]"),
    ],
)
def test_a_wrong_product_is_refused_whole_and_named(client, field, value):
    bad = f'{{"product_id": "bad", "title": "t", "{field}": {value}}}'
    raw = f'{{"products": [{{"product_id": "good", "title": "t"}}, {bad}]}}'
    answer = client.post("/v1/products", content=raw, headers=WRITE | {"content-type": "application/json"})
    assert answer.status_code in (400, 422) and f"products.1.{field}" in answer.json()["detail"]
    assert client.get("/v1/products/good").status_code == 404


@pytest.mark.parametrize("path", ["/v1/products", "/v1/embed"])
def test_image_vectors_of_another_length_are_refused(start, path):
    client = start(image_dimension=3)
    for length, status in ((2, 422), (3, 200)):
        new = [{"product_id": "good", "title": "t"}, {"product_id": "n", "title": "t"}]
        new[1]["image_embeddings"] = [[1.0] * length] * 2
        answer = client.post(path, json={"products": new}, headers=WRITE)
        assert answer.status_code == status, answer.text
        if status == 422:
            assert "products.1.image_embeddings: vectors of 2 numbers" in answer.json()["detail"]
            assert client.get("/v1/products/good").status_code == 404


def test_a_language_is_kept_in_lower_case(start):
    client = start()
    client.post(
        "/v1/products", json={"products": [{"product_id": "n", "title": "t", "language": " ES "}]}, headers=WRITE
    )
    assert client.get("/v1/products/n").json()["language"] == "es"


def test_a_product_twice_in_one_request_is_refused(client):
    twice = {"products": [{"product_id": "n", "title": "t"}] * 2}
    answer = client.post("/v1/products", json=twice, headers=WRITE)
    assert answer.status_code == 422 and "products.1.product_id" in answer.json()["detail"]


def test_a_product_that_cannot_be_embedded_hinders_no_other(start, caplog):
    client = start()
    titles = {"n1": "orange hammock", "n2": "unembeddable", "n3": "orange hammocks"}
    new = [{"product_id": product_id, "title": title} for product_id, title in titles.items()]
    client.post("/v1/products", json={"products": new}, headers=WRITE)
    wait_until(lambda: set(ids(search(client, query="orange hammock", page_size=2))) == {"n1", "n3"})
    assert any("n2" in record.getMessage() for record in caplog.records)
    assert "mercato_index_failures 1.0" in client.get("/metrics").text


def test_images_stay_inside_the_market(start, market):
    rows = products()[:2]
    (market.path / "photos").mkdir()
    (market.path / "photos" / "a.png").write_bytes(picture("blue", "PNG"))
    (market.path.parent / "outside.png").write_bytes(picture("red", "PNG"))
    rows[0]["images"] = [{"bytes": None, "path": "photos/a.png"}]
    rows[1]["images"] = [{"bytes": None, "path": "../outside.png"}, {"bytes": None, "path": "/etc/passwd"}]
    pq.write_table(pa.Table.from_pylist(rows, schema=PRODUCTS), market.path / "products.parquet")
    client = start()
    assert client.get("/v1/images/0/p00").headers["content-type"] == "image/jpeg"
    for address in ("0/p01", "1/p01"):
        assert client.get(f"/v1/images/{address}").status_code == 400
    for address in ("0/..%2F..%2Fetc%2Fpasswd", "-1/p00", "..%2F0/p00", "9/p00"):
        assert client.get(f"/v1/images/{address}").status_code in (404, 422)
    for address in ("/page/..%2Fapi.py", "/page/%2e%2e/api.py", "/page//etc/passwd"):
        assert client.get(address).status_code == 404


# -- the rest ----------------------------------------------------------------------------------------------------------


def test_events_are_taken_and_reach_the_table(start, market):
    client = start(flush_seconds=0.05)
    events = [event("search"), event(client_id="c")]
    assert client.post("/v1/events", json={"events": events}, headers=WRITE).json() == {"accepted": 2}
    wait_until(lambda: market.has("events"))
    rows = market.frame("events").to_dicts()
    assert [row["client_id"] for row in rows] == [None, "c"]
    assert [row["action_name"] for row in rows] == ["search", "click"]
    assert rows[1]["product_id"] == "p00" and rows[1]["position"] == 1


def test_times_and_countries_out_of_this_world_do_not_reach_the_log(start, market):
    client = start(flush_seconds=0.05)
    now = datetime.now(UTC)
    told = [now - timedelta(hours=2), now + timedelta(minutes=2)]
    wild = ["9998-01-01T00:00:00Z", now + timedelta(minutes=10), now - timedelta(hours=30), "1970-01-01T00:00:00Z"]
    events = [event(timestamp=str(moment)) for moment in told + wild]
    countries = ["gb", "GB", "Germany", "4?", 7, None]
    for country, each in zip(countries, events, strict=True):
        each["event_attributes"] = each["event_attributes"] | {"country": country}
    answer = client.post("/v1/events", json={"events": events}, headers=WRITE)
    assert answer.status_code == 200, answer.text
    no_country = "country: is not a two-letter lower-case ISO 3166-1 code"
    assert answer.json() == {"accepted": 6, "set_aside": [f"events.{n}.{no_country}" for n in (2, 3, 4)]}
    wait_until(lambda: market.has("events"))
    rows = market.frame("events").to_dicts()
    assert [row["timestamp"] for row in rows[:2]] == told
    assert all(abs(row["timestamp"] - now) < timedelta(minutes=1) for row in rows[2:])
    assert [row["country"] for row in rows] == ["gb", "gb", None, None, None, None]


def test_a_shop_reports_a_reply(start, market):
    client = start(flush_seconds=0.05)
    assert client.post("/v1/events", json={"events": [event("seller_reply")]}).status_code == 200
    wait_until(lambda: market.has("events"))
    (row,) = market.frame("events").to_dicts()
    assert (row["action_name"], row["query_id"], row["product_id"]) == ("seller_reply", "q1", "p00")


@pytest.mark.parametrize("wrong", [{"timestamp": "yesterday"}, {"action_name": 3}, {"session_id": "x" * 5000}])
def test_a_wrong_event_is_named_and_none_is_taken(start, market, wrong):
    client = start(flush_seconds=0.05)
    answer = client.post("/v1/events", json={"events": [event(), event(**wrong)]})
    assert answer.status_code == 400 and f"events.1.{next(iter(wrong))}" in answer.json()["detail"]
    assert client.post("/v1/events", json={"events": [event("search")]}).status_code == 200
    wait_until(lambda: market.has("events"))
    assert market.frame("events")["action_name"].to_list() == ["search"]


def test_embed_gives_the_encoders_vectors(client):
    vectors = client.post("/v1/embed", json={"queries": ["red chair", "lamp"], "country": "gb"}).json()["vectors"]
    assert np.array_equal(np.float32(vectors), TrigramEncoder().encode_queries(["red chair", "lamp"]))
    body = {"products": [{"product_id": "n", "title": "lamp"}]}
    assert client.post("/v1/embed", json=body).status_code == 401
    vectors = client.post("/v1/embed", json=body, headers=WRITE).json()["vectors"]
    assert np.shape(vectors) == (1, 48)
    assert client.post("/v1/embed", json={}).status_code == 422


def test_the_market_tells_what_a_page_needs(client):
    told = client.get("/v1/market").json()
    assert (told["name"], told["currency"], told["products"], told["model"]["dimension"]) == ("Small", "EUR", 48, 48)
    assert {"Home", "Home > Furniture", "Home > Furniture > Chairs"} <= set(told["categories"])
    assert set(told["conditions"]) == {"new", "used"} and set(told["countries"]) == {"gb", "es"}
    assert set(told["attributes"]["colour"]) == {"red", "blue", "green", "yellow"}
    places = [(place["country"], place["latitude"], place["longitude"]) for place in told["places"]]
    assert sorted(places) == [("es", 40.4, -3.7), ("gb", 51.5, -0.1)]
    assert told["examples"] == ["red chair"]


def test_a_fault_of_the_server_is_told_as_any_other_error_and_nothing_of_it(start):
    class Broken(TrigramEncoder):
        def encode_queries(self, queries, country=None):
            raise RuntimeError(f"broken by {queries}")

    client = start(encoder=Broken())
    answer = client.post("/v1/search", json={"query": "a very private query"})
    assert answer.status_code == 500 and "server" in answer.json()["detail"] and "private" not in answer.text
    assert 'mercato_requests_total{method="POST",route="/v1/search",status="500"} 1.0' in client.get("/metrics").text


def test_health_metrics_page_and_docs(start):
    client = start()
    search(client, query="a very private query")
    assert client.get("/healthz").json() == {"status": "ok"} and client.get("/readyz").json() == {"status": "ready"}
    text = client.get("/metrics").text
    assert 'mercato_requests_total{method="POST",route="/v1/search",status="200"} 1.0' in text
    assert 'mercato_searches_ranked_total{stage="none"} 1.0' in text
    assert "mercato_index_size 48.0" in text and "mercato_outbox_depth 0.0" in text and "private" not in text
    for address in ("/", "/page/app.js", "/docs", "/openapi.json"):
        answer = client.get(address)
        assert answer.status_code == 200
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
    for address in ("/", "/page/app.js", "/page/base.css"):  # an upgrade never mixes old and new files
        answer = client.get(address)
        assert answer.headers["cache-control"] == "no-cache"
        again = client.get(address, headers={"if-none-match": answer.headers["etag"]})
        assert again.status_code == 304 and again.headers["cache-control"] == "no-cache"
    assert "/v1/search" in client.get("/docs").text and "https://" not in client.get("/docs").text


def test_a_server_behind_its_outbox_is_not_ready(start):
    client = start(outbox_bound=0)
    assert client.get("/readyz").status_code == 503
    answer = client.post("/v1/products", json={"products": [{"product_id": "n", "title": "t"}]}, headers=WRITE)
    assert answer.status_code == 503 and answer.headers["retry-after"]


def test_no_key_and_no_query_in_the_logs(start, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    client = start()
    search(client, query="a very private query")
    client.post("/v1/products", json={"products": [{"product_id": "n", "title": "unembeddable"}]}, headers=WRITE)
    client.post("/v1/products", json={}, headers={"X-API-Key": "a-wrong-secret"})
    wait_until(lambda: "product n could not be indexed" in caplog.text)
    written = caplog.text + "".join(capfd.readouterr())
    assert not [secret for secret in (KEY, "a very private query", "a-wrong-secret") if secret in written]


def test_what_the_server_logs_mine_reads_back(start, market):
    """Three shoppers engage with p00 for "red chair" and pass p01 by; a fourth query stays below the privacy floor."""
    client = start(flush_seconds=0.05)
    before = datetime.now(UTC) - timedelta(minutes=5)
    p01 = {"object": {"object_id": "p01"}, "position": {"ordinal": 2}}
    events = []
    for shopper in range(3):
        who = {"session_id": f"s{shopper}", "query_id": f"q{shopper}"}
        for minute, action in enumerate(("search", "impression", "click", "message", "seller_reply")):
            events.append(event(action, timestamp=str(before + timedelta(minutes=minute)), **who))
        events.append(event("impression", timestamp=str(before), event_attributes=p01, **who))
    events.append(event("click", user_query="my own secret", query_id="q9", session_id="s9", timestamp=str(before)))
    assert client.post("/v1/events", json={"events": events}, headers=WRITE).json() == {"accepted": len(events)}
    wait_until(lambda: market.has("events") and len(market.frame("events")) == len(events))
    mine(market)
    pairs = market.frame("pairs").sort("product_id")
    assert pairs.select("query", "product_id", "label", "weight").rows() == [
        ("red chair", "p00", 1, 3.0),
        ("red chair", "p01", 0, 3.0),
    ]
