"""A recipe of patches, from a market to a run that serves."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mercato.data.market import Market
from mercato.errors import MercatoError
from mercato.evaluation.encoded import encode_products
from mercato.features.drop import drop_fields
from mercato.runs.image_vectors import products_with_vectors
from mercato.runs.onnx_encoder import OnnxEncoder
from mercato.runs.torch_encoder import TorchEncoder, load
from mercato.search.explain import Explainer
from mercato.training.data.prepare import prepare
from mercato.training.train import train
from tests.support.toys import make_market, products, toy_recipe, with_photos

RECIPE = toy_recipe(
    "product_tower.channels=['title_text', 'patches']",
    "product_tower.fusion=transformer",
    "product_tower.modality_dropout.images=0.25",
    "images.patch_size=8",
    "images.max_images=2",
    "stages.0.epochs=1",
)
BROKEN = {"bytes": b"GIF89a nonsense", "path": None}
GOODS = [row | {"images": [BROKEN] * (i % 5 == 0) + row["images"]} for i, row in enumerate(with_photos(products()))]


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Market:
    return make_market(tmp_path_factory.mktemp("photos") / "market", GOODS)


@pytest.fixture(scope="module")
def run(market: Market, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, ONNX and all."""
    folder: Path = tmp_path_factory.mktemp("runs") / "run"
    train(RECIPE, market, folder)
    return folder


@pytest.fixture(scope="module")
def model(run: Path, market: Market) -> TorchEncoder:
    return load(run, market.path)


def test_training_reads_patches_in_half_precision(market, tmp_path):
    features = prepare(market, RECIPE, tmp_path).tables.products
    assert features["patches"].shape == (48, 2, 4, 192) and features["patches"].dtype == np.float16
    assert features["patch_mask"].sum(1).tolist() == [i % 3 for i in range(48)]
    np.testing.assert_array_equal(features["patches"].any((2, 3)), features["patch_mask"])


def test_a_run_serves_what_it_learned(run, model, market):
    assert model.featurizer.spec.image_shape == (4, 192)
    table = market.arrow("products")
    served = OnnxEncoder(run, market.path)
    whole = model.encode_products(table)
    np.testing.assert_allclose(served.encode_products(table), whole, atol=1e-4)
    for encoder in (model, served):  # from the cache, in half precision
        ready = products_with_vectors(market, encoder, run)
        assert ready["image_count"].to_pylist() == [len(row["images"]) for row in GOODS]
        np.testing.assert_allclose(encoder.encode_products(ready), whole, atol=1e-3)


def test_without_images_there_are_no_patches(model, market, run):
    for table in (market.arrow("products"), products_with_vectors(market, model, run)):
        rows = table.to_pylist()
        without = model.encode_products([drop_fields(row, ["images"]) for row in rows])
        np.testing.assert_array_equal(without, model.encode_products([row | {"images": None} for row in products()]))
        moved = np.abs(without - model.encode_products(rows)).max(1) > 1e-4
        assert moved.tolist() == [i % 3 > 0 for i in range(48)]


def test_a_vector_of_ones_own_is_its_patches_end_to_end(model, market):
    row = next(row for row in GOODS if len(row["images"]) == 2)
    (patches,) = model.image_vectors([row])
    given = row | {"images": None, "image_embeddings": patches.reshape(2, -1).tolist()}
    np.testing.assert_allclose(model.encode_products([given]), model.encode_products([row]), atol=1e-5)


def test_interpretation_takes_all_patches_as_one_channel(model, market):
    encoded = encode_products(model, market.arrow("products"))
    assert encoded.names == ("title_text", "patches")
    assert encoded.channels.has([1]).tolist() == [i % 3 > 0 for i in range(48)]


def test_an_explanation_drops_the_patches_with_the_images(model):
    row = next(row for row in GOODS if len(row["images"]) == 2)
    products: Any = SimpleNamespace(load=lambda ids: [SimpleNamespace(row=lambda: dict(row))])
    explained = Explainer(model, SimpleNamespace(products=products)).explain("mesa", row["product_id"])
    vectors = model.encode_products([row, row | {"images": None}])
    change = (vectors[0] - vectors[1]) @ model.encode_queries(["mesa"])[0]
    assert explained["cosine"] == pytest.approx(vectors[0] @ model.encode_queries(["mesa"])[0], abs=1e-5)
    assert {found["feature"]: found["change"] for found in explained["product"]}["images"] == pytest.approx(
        change, abs=1e-5
    )


def test_given_vectors_are_images_of_one_patch(tmp_path):
    goods = [row | {"image_embeddings": [[1.0, i % 6, 0.5]] * (i % 3)} for i, row in enumerate(products())]
    market = make_market(tmp_path / "market", goods)
    model = train(RECIPE, market, tmp_path / "run", onnx=False)
    assert model.featurizer.spec.image_shape == (1, 3) and model.image_encoder is None
    vectors = model.encode_products(goods)
    assert np.abs(vectors - model.encode_products(products())).max(1).astype(bool).tolist() == [
        i % 3 > 0 for i in range(48)
    ]


def test_a_catalogue_without_images_trains_without_the_channel(toys, tmp_path):
    model = train(RECIPE, toys, tmp_path / "run", onnx=False)
    assert model.recipe.product_tower.channels == ("title_text",)


def test_photos_alone_are_a_sequence_too(market, tmp_path):
    recipe = toy_recipe(
        "product_tower.channels=['patches']",
        "product_tower.fusion=transformer",
        "product_tower.text.pooling=mean",
        "images.patch_size=8",
        "stages.0.epochs=1",
    )
    model = train(recipe, market, tmp_path / "run")
    served = OnnxEncoder(tmp_path / "run", market_path=market.path)
    rows = products_with_vectors(market, model, tmp_path / "run").slice(0, 6).to_pylist()
    torch_vectors, onnx_vectors = model.encode_products(rows), served.encode_products(rows)
    np.testing.assert_allclose(torch_vectors, onnx_vectors, atol=1e-5)
    with pytest.raises(MercatoError, match="names no text beside them"):
        train(recipe, make_market(tmp_path / "bare"), tmp_path / "none")
    titled = [row | {"title": "another"} for row in rows]
    np.testing.assert_array_equal(model.encode_products(titled), torch_vectors)
    assert not np.allclose(torch_vectors[1], torch_vectors[2])
