"""Query prediction over HTTP."""

from __future__ import annotations

import pytest

from tests.support.served import WRITE
from tests.support.small_market import COLOURS, THINGS, HeadedEncoder


@pytest.fixture
def headed(start):
    return start(HeadedEncoder())


def predicted(client, product_id: str, **parameters) -> list[dict]:
    answer = client.get(f"/v1/predicted-queries/{product_id}", params=parameters)
    assert answer.status_code == 200, answer.text
    return answer.json()["queries"]


def test_a_products_most_probable_queries(headed):
    first = predicted(headed, "p00")
    assert len(first) == 10 and first[0]["query"] == "red chair"
    assert [entry["probability"] for entry in first] == sorted((e["probability"] for e in first), reverse=True)
    assert predicted(headed, "p00", k=2) == first[:2]
    whole = predicted(headed, "p00", k=100)
    assert len(whole) == len(COLOURS) * len(THINGS)
    assert sum(entry["probability"] for entry in whole) == pytest.approx(1, abs=1e-5)
    assert headed.get("/v1/market").json()["model"]["queries"] == len(whole)


def test_a_product_is_read_as_it_was_last_written(headed):
    body = {"products": [{"product_id": "a/b", "title": "green mirror"}]}
    assert headed.post("/v1/products", json=body, headers=WRITE).status_code == 200
    assert predicted(headed, "a/b", k=1)[0]["query"] == "green mirror"
    body["products"][0]["title"] = "blue lamp"
    assert headed.post("/v1/products", json=body, headers=WRITE).status_code == 200
    assert predicted(headed, "a/b", k=1)[0]["query"] == "blue lamp"


def test_what_is_not_there_is_said(headed, client):
    assert "no such product" in headed.get("/v1/predicted-queries/nobody").json()["detail"]
    answer = client.get("/v1/predicted-queries/p00")  # a server whose model has no head
    assert answer.status_code == 404 and "head.queries" in answer.json()["detail"]
    assert client.get("/v1/market").json()["model"]["queries"] == 0


@pytest.mark.parametrize("k", [0, 101, "many"])
def test_a_wrong_k_is_named(headed, k):
    answer = headed.get("/v1/predicted-queries/p00", params={"k": k})
    assert answer.status_code == 422 and answer.json()["detail"].startswith("k: ")
