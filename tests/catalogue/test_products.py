from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime

import pytest

from mercato.catalogue.products import StoredImage
from mercato.catalogue.store import Catalogue
from tests.support.small_market import picture
from tests.support.stored import stored

IMAGE = StoredImage("image/jpeg", picture())


def operations(catalogue) -> list[tuple[str, str]]:
    return [(job.product_id, job.operation) for job in catalogue.outbox.claim("w", 9)]


def test_an_upsert_is_there_after_reopening(file):
    with closing(Catalogue.open(file)) as first:
        first.products.upsert([stored(price=3.5, attributes={"colour": "red"}, images=[IMAGE])])
    with closing(Catalogue.open(file)) as second:
        found = second.products.get("x1")
        assert found["title"] == "a red sofa" and found["price"] == 3.5 and found["attributes"] == {"colour": "red"}
        assert found["image_count"] == 1 and second.products.image("x1", 0) == IMAGE
        assert second.products.image("x1", 1) is None and second.products.count() == 1
        assert operations(second) == [("x1", "upsert")]


def test_a_failing_write_leaves_nothing(catalogue):
    with pytest.raises(TypeError):
        catalogue.products.upsert([stored("good"), stored("bad", price=object())])
    assert catalogue.products.count() == 0 and operations(catalogue) == []


def test_a_product_that_does_not_reach_the_outbox_is_not_written(catalogue, monkeypatch):
    catalogue.products.seed([stored("old")])
    monkeypatch.setattr(catalogue.outbox, "enqueue", lambda *_: 1 / 0)
    for write in (lambda: catalogue.products.upsert([stored()]), lambda: catalogue.products.delete("old")):
        with pytest.raises(ZeroDivisionError):
            write()
    assert catalogue.products.get("x1") is None and catalogue.products.get("old") is not None


def test_a_loaded_product_is_what_was_written(catalogue):
    images = [IMAGE, StoredImage(None, None, "photos/a.jpg")]
    written = stored(images=images, image_embeddings=[[0.5, 1.0]], created_at="2024-05-01T02:00:00Z")
    catalogue.products.upsert([written, stored("plain")])
    found = {product.product_id: product for product in catalogue.products.load(["x1", "plain", "unknown"])}
    assert found == {"x1": written, "plain": stored("plain")}


def test_a_row_is_that_of_the_products_table():
    row = stored(images=[IMAGE], created_at="2024-05-01T02:00:00.250000+00:00").row()
    assert row["created_at"] == datetime(2024, 5, 1, 2, 0, 0, 250_000, UTC)
    assert row["images"] == [{"bytes": picture(), "path": None}] and row["image_embeddings"] is None
    assert stored().row()["created_at"] is None and stored().row()["images"] is None


def test_a_delete_replaces_the_waiting_upsert_and_takes_the_images(catalogue):
    catalogue.products.upsert([stored(images=[IMAGE])])
    assert catalogue.products.delete("x1")
    assert not catalogue.products.delete("x1")
    assert not catalogue.products.delete("never there")
    assert catalogue.products.get("x1") is None and catalogue.products.image("x1", 0) is None
    assert catalogue.products.load(["x1"]) == [] and list(catalogue.products.documents()) == []
    assert catalogue.products.count() == 0
    assert operations(catalogue) == [("x1", "delete")]


def test_a_deleted_product_can_be_written_again(catalogue):
    catalogue.products.seed([stored(), stored("other")])
    catalogue.products.delete("x1")
    assert catalogue.products.count() == 1
    catalogue.products.upsert([stored(title="back again")])
    assert catalogue.products.get("x1")["title"] == "back again" and catalogue.products.count() == 2
    assert {document["title"] for document in catalogue.products.documents()} == {"back again", "a red sofa"}


@pytest.mark.parametrize(("most", "found"), [(None, 100), (100, 100), (99, 50), (50, 50), (30, 25), (1, 1)])
def test_a_sample_is_spread_over_all_products(catalogue, most, found):
    catalogue.products.seed([stored(f"p{number:03}") for number in range(100)])
    ids = sorted(document["product_id"] for document in catalogue.products.documents(most))
    assert len(ids) == found == len(set(ids))
    assert most is None or (ids[-1] > "p09" and (found == 1 or ids[0] < "p010"))
