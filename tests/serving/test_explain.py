"""`POST /v1/explain`: what each word and field adds to a cosine, by hand and with a real run."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import torch

from mercato.catalogue.seeding import seed
from mercato.catalogue.store import Catalogue
from mercato.config import Recipe
from mercato.features.context import ContextSpec
from mercato.features.featurizer import Featurizer
from mercato.models.build import build_towers, text_configs
from mercato.runs.image_vectors import products_with_vectors
from mercato.runs.onnx_encoder import OnnxEncoder
from mercato.runs.torch_encoder import TorchEncoder
from mercato.search.explain import Explainer
from tests.support.served import WRITE, wait_until

RED, CHAIR, SPAIN, PHOTO = np.eye(4, dtype=np.float32)


class ByHand:
    """Reads two words, the country and whether there is a photo; one axis each, and no more than that."""

    dimension = 4

    def encode_queries(self, queries, country=None):
        return np.stack([self._unit(query, country == "es", False) for query in queries])

    def encode_products(self, products, *, as_of=None):
        return np.stack([self._unit(row["title"], row["country"] == "es", bool(row["images"])) for row in products])

    def _unit(self, text, spain, photo):
        vector = ("red" in text) * RED + ("chair" in text) * CHAIR + spain * SPAIN + photo * PHOTO
        return vector / max(1e-9, float(np.linalg.norm(vector)))


def explain(client, **body) -> dict:
    answer = client.post("/v1/explain", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def changes(told: list[dict]) -> dict[str, float]:
    return {entry["feature"]: entry["change"] for entry in told}


def test_a_pair_taken_apart_by_hand(start):
    client = start(ByHand())
    told = explain(client, query=" red  chair ", country="es", product_id="p01")  # "red table", es, without a photo
    half, third = 0.5**0.5, 3**-0.5
    assert told["cosine"] == pytest.approx(2 * third * half)  # red and Spain, of three and two parts
    assert [entry["word"] for entry in told["words"]] == ["red", "chair"]
    red, chair = told["words"]
    assert red["change"] == pytest.approx(2 * third * half - half * half) and red["shared"]
    assert (
        chair["change"] == pytest.approx(2 * third * half - 1) and not chair["shared"]
    )  # without it the same: it parts
    assert changes(told["query"]) == {"country": pytest.approx(2 * third * half - half * half)}
    assert changes(told["product"]) == pytest.approx(
        {"title": 2 * third * half - third, "country": 2 * third * half - third}
    )


def test_only_what_changes_the_cosine_is_told_weightiest_first(start):
    client = start(ByHand())
    told = explain(client, query="red chair", product_id="p00")  # "red chair", gb, with a photo
    assert told["query"] == []
    assert [entry["feature"] for entry in told["product"]] == ["title", "images"]
    assert told["product"][0]["change"] > 0 > told["product"][1]["change"]  # a photo that nobody asked for parts


def test_a_word_said_twice_is_left_out_once_and_only_the_first_words_are(start):
    client = start(ByHand())
    told = explain(client, query="red red chair " + "so " * 60, product_id="p00")
    assert len(told["words"]) == 24
    assert told["words"][0]["change"] == pytest.approx(0, abs=1e-6)


def test_a_listings_words_are_those_of_its_attributes_too_and_signs_are_no_words(start):
    client = start(ByHand())
    new = {"product_id": "new", "title": "chair", "country": "gb", "attributes": {"colour": "Crimson red"}}
    assert client.post("/v1/products", json={"products": [new]}, headers=WRITE).status_code == 200
    told = explain(client, query="crimson & chair sofa", product_id="new")
    assert [word["shared"] for word in told["words"]] == [True, None, True, False]


def test_those_without_the_key_cannot_keep_embedding_waiting(start):
    release = threading.Event()

    class Slow(ByHand):
        def encode_products(self, products):
            if len(products) > 1:  # an explanation
                release.wait(120)
            return super().encode_products(products)

    client = start(Slow())
    own = {"products": [{"product_id": "n", "title": "red", "country": "gb"}]}
    with ThreadPoolExecutor(12) as pool:
        body = {"query": "red chair", "product_id": "p00"}
        waiting = [pool.submit(client.post, "/v1/explain", json=body) for _ in range(12)]
        wait_until(lambda: sum(future.done() for future in waiting) == 7)
        assert client.get("/v1/predicted-queries/p00").status_code == 503
        assert client.post("/v1/embed", json=own, headers=WRITE).status_code == 200
        release.set()
        answers = [future.result() for future in waiting]
    assert sorted(answer.status_code for answer in answers) == [200] * 5 + [503] * 7
    assert all(answer.headers["retry-after"] == "1" for answer in answers if answer.status_code == 503)


def test_it_is_the_product_as_it_is_now(start):
    client = start(ByHand())
    new = {"product_id": "new", "title": "red chair", "country": "gb"}
    assert client.post("/v1/products", json={"products": [new]}, headers=WRITE).status_code == 200
    assert explain(client, query="red chair", product_id="new")["cosine"] == pytest.approx(1)
    assert client.delete("/v1/products/new", headers=WRITE).status_code == 200
    assert client.post("/v1/explain", json={"query": "red", "product_id": "new"}).status_code == 404


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"query": "red", "product_id": "p00", "mode": "hybrid"}, "mode"),
        ({"query": "red"}, "product_id"),
        ({"query": "red", "product_id": ""}, "product_id"),
        ({"product_id": "p00"}, "query"),
        ({"query": " \t", "product_id": "p00"}, "query"),
        ({"query": "x" * 513, "product_id": "p00"}, "query"),
        ({"query": "\x00", "product_id": "p00"}, "query"),
        ({"query": "red", "country": "Spain", "product_id": "p00"}, "country"),
    ],
)
def test_a_wrong_field_is_named(client, body, field):
    answer = client.post("/v1/explain", json=body)
    assert answer.status_code == 422 and field in answer.json()["detail"]


def test_what_there_is_not_and_what_is_too_much(client):
    answer = client.post("/v1/explain", json={"query": "red", "product_id": "nobody"})
    assert answer.status_code == 404 and "product_id" in answer.json()["detail"]
    answer = client.post("/v1/explain", json={"query": " ", "product_id": "p00"})
    assert answer.json()["detail"] == "query: is blank: give the words that were searched for"
    answer = client.post("/v1/explain", json={"query": "a" * 2**20, "product_id": "p00"})
    assert answer.status_code == 413


# --- a real run

READ = ("title", "description", "language", "country", "images")


@pytest.fixture
def tiny_catalogue(tiny_market, tmp_path) -> Iterator[Catalogue]:
    catalogue = Catalogue.open(tmp_path / "catalogue.sqlite")
    seed(catalogue, tiny_market)
    yield catalogue
    catalogue.close()


def test_a_run_is_explained_by_what_it_reads_and_photos_are_read_once(
    tiny_run, tiny_market, tiny_catalogue, monkeypatch
):
    predictor = OnnxEncoder(tiny_run, tiny_market.path)
    rows = tiny_market.arrow("products").to_pylist()
    row = next(row for row in rows if all(row[field] for field in READ))
    encode, read = predictor.image_encoder.encode, []

    def counting(products, *given):
        products = list(products)
        read.extend(photo for photos in products for photo in photos or ())
        return encode(products, *given)

    monkeypatch.setattr(predictor.image_encoder, "encode", counting)

    embedded, product_vectors = [], predictor.product_vectors
    with monkeypatch.context() as patch:
        patch.setattr(
            predictor, "product_vectors", lambda f: (embedded.append(len(f["country"])), product_vectors(f))[1]
        )
        told = Explainer(predictor, tiny_catalogue).explain("red sofa", row["product_id"], row["country"])
    assert len(read) == len(row["images"])
    assert embedded == [1 + len(READ)], "the product, and without each of the fields that the run reads"
    assert len(predictor.cache) == 1, "only what was asked"
    found = changes(told["product"])
    assert set(found) <= {"title", "description", "images", "language", "country"}

    (query,) = predictor.encode_queries(["red sofa"], row["country"])
    whole, bare, untitled = predictor.encode_products([row, row | {"images": None}, row | {"title": ""}]) @ query
    assert told["cosine"] == pytest.approx(whole, abs=1e-5)
    assert found["images"] == pytest.approx(whole - bare, abs=1e-4)
    assert found["title"] == pytest.approx(whole - untitled, abs=1e-4)
    (sofa,) = predictor.encode_queries(["sofa"], row["country"])
    assert told["words"][0]["change"] == pytest.approx(
        whole - float(predictor.encode_products([row])[0] @ sofa), abs=1e-4
    )


# --- a run with context

SPRING = datetime(2026, 5, 1, tzinfo=UTC)  # the market's listings are a month or three old
CONTEXT = ("price", "currency", "condition", "created_at", "category", "seller_rating", "attributes")


@pytest.fixture(scope="module")
def engage(tiny_market, tiny_run) -> TorchEncoder:
    """Que2Engage with the tiny run's tokenizer and image encoder."""
    old = TorchEncoder.load(tiny_run)
    recipe = Recipe.parse(
        old.recipe.toml(),
        changes=[
            'product_tower.channels=["title_text", "description_text", "images", "context"]',
            "product_tower.fusion=transformer",
            "product_tower.text.pooling=mean",
            'product_tower.context.categories=["condition", "category", "attributes.colour"]',
        ],
    )
    rows = tiny_market.arrow("products").to_pylist() * 3  # so that many sell what is red
    context = ContextSpec.fit(recipe.product_tower.context, rows, SPRING)
    spec = replace(old.featurizer.spec, product_channels=recipe.product_tower.channels, context=context)
    torch.manual_seed(0)
    towers = build_towers(recipe, spec, text_configs(recipe, spec))
    model = TorchEncoder(recipe, Featurizer(spec, old.featurizer.tokenizer), old.image_encoder, towers)
    model.market_path = tiny_market.path
    return model


def test_a_product_is_the_same_vector_by_every_road(engage, tiny_run, tiny_market, tiny_catalogue):
    table = tiny_market.arrow("products").slice(0, 40)
    rows = table.to_pylist()
    expected = engage.encode_products(table, as_of=SPRING)
    indexed = products_with_vectors(tiny_market, engage, tiny_run).slice(0, 40)
    np.testing.assert_allclose(engage.encode_products(indexed, as_of=SPRING), expected, atol=1e-5)
    stored = tiny_catalogue.products.load([row["product_id"] for row in rows])
    kept = {product.product_id: product for product in stored}
    written = [kept[row["product_id"]].row() for row in rows]
    np.testing.assert_allclose(engage.encode_products(written, as_of=SPRING), expected, atol=1e-5)
    colours = engage.featurizer.products(rows)["context_categories"][:, 2]
    assert len(set(colours.tolist())) > 2, "attributes arrive too"


def test_a_run_that_looks_at_no_photo_may_still_count_them(engage, tiny_run, tiny_market):
    spec = replace(engage.featurizer.spec, product_channels=("title_text", "context"))
    blind = TorchEncoder(engage.recipe, Featurizer(spec, engage.featurizer.tokenizer), None, engage.towers)
    told = [
        blind.featurizer.products(table.slice(0, 40).to_pylist(), None, SPRING)["context_numbers"]
        for table in (tiny_market.arrow("products"), products_with_vectors(tiny_market, blind, tiny_run))
    ]
    np.testing.assert_array_equal(*told)
    assert len(np.unique(told[0][:, 4])) > 1, "the number of photos"


def test_a_served_vector_follows_the_price_and_the_clock(start, engage):
    client = start(engage)
    now = datetime.now(UTC)
    product = {
        "product_id": "n", "title": "red sofa", "price": 40.0, "currency": "USD", "condition": "new",
        "category": "Home > Sofas", "seller_rating": 4.5, "created_at": (now - timedelta(days=40)).isoformat(),
    }  # fmt: skip

    def embedded(**changes) -> np.ndarray:
        answer = client.post("/v1/embed", json={"products": [product | changes]}, headers=WRITE)
        assert answer.status_code == 200, answer.text
        return np.array(answer.json()["vectors"][0], np.float32)

    vector = embedded()
    others = [embedded(price=400.0), embedded(condition="fair"), embedded(created_at=str(now - timedelta(days=90)))]
    assert all(np.abs(other - vector).max() > 1e-4 for other in others)
    np.testing.assert_allclose(embedded(), vector, atol=1e-5)

    def told(after: timedelta) -> np.ndarray:
        row = product | {"created_at": datetime.fromisoformat(product["created_at"])}
        return engage.encode_products([row], as_of=now + after)[0]

    np.testing.assert_allclose(told(timedelta(0)), vector, atol=1e-5)
    assert np.abs(told(timedelta(days=60)) - vector).max() > 1e-4, "the same listing, two months on"


def test_why_tells_what_the_context_is_made_of(engage, tiny_market, tiny_catalogue):
    rows = tiny_market.arrow("products").to_pylist()
    row = next(row for row in rows if row["images"] and all(row[field] for field in CONTEXT))
    assert any(name == "colour" for name, _ in row["attributes"])
    told = Explainer(engage, tiny_catalogue).explain("red sofa", row["product_id"])
    found = changes(told["product"])
    assert set(found) <= {"title", "description", "images", *CONTEXT}
    assert {"price", "condition", "created_at", "category", "attributes", "images"} <= set(found)
    (query,) = engage.encode_queries(["red sofa"])
    for field in ("price", "created_at", "images"):
        whole, bare = engage.encode_products([row, row | {field: None}]) @ query
        assert found[field] == pytest.approx(whole - bare, abs=1e-4), field
