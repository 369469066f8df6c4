"""One run in torch and in ONNX Runtime: the same vectors."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mercato.data.market import Market
from mercato.errors import MercatoError
from mercato.runs import encoder
from mercato.runs import export as exporting
from mercato.runs.export import export, parity
from mercato.runs.folder import PRODUCT_TOWER, QUERY_TOWER
from mercato.runs.image_vectors import encoded_vectors, products_with_vectors
from mercato.runs.onnx_encoder import OnnxEncoder
from mercato.runs.torch_encoder import TorchEncoder, load

QUERIES = [
    "red sofa",
    "x",
    "",
    "zapatillas de correr para niños 🚲",
    "vestido rojo " * 20,
    "\ud800",
    "<pad> lamp",
    "a" * 500,
]
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def model(tiny_run: Path) -> TorchEncoder:
    return load(tiny_run)


@pytest.fixture
def predictor(tiny_run: Path) -> OnnxEncoder:
    return OnnxEncoder(tiny_run)


@pytest.mark.parametrize("size", [1, 7, len(QUERIES)])
@pytest.mark.parametrize("country", [None, "us", "atlantis"])
def test_queries(model, predictor, size, country):
    for start in range(0, len(QUERIES), size):
        some = QUERIES[start : start + size]
        np.testing.assert_allclose(
            predictor.encode_queries(some, country), model.encode_queries(some, country), atol=TOLERANCE
        )


@pytest.mark.parametrize("size", [1, 7])
def test_products(model, predictor, tiny_market, size):
    rows = tiny_market.arrow("products").slice(0, 12).to_pylist()
    dimension = model.featurizer.spec.image_dimension
    rows += [
        {},
        {"title": None, "description": "only this"},
        {"title": "only this", "images": None, "country": "zz"},
        {"title": "own vectors", "image_embeddings": np.eye(9, dimension, dtype=np.float32)},
        {"title": "word " * 300, "description": "word " * 3000},
    ]
    for start in range(0, len(rows), size):
        some = rows[start : start + size]
        np.testing.assert_allclose(predictor.encode_products(some), model.encode_products(some), atol=TOLERANCE)


@pytest.mark.parametrize("threads", [1, 3])
def test_many_products_are_encoded_as_each_alone(tiny_run, tiny_market, monkeypatch, threads):
    """In batches of texts of like length, several at once; each vector stands where its product does."""
    monkeypatch.setattr(encoder, "BATCH", 3)
    sizes = []
    of_batch = OnnxEncoder.product_vectors

    def counted(self, features):
        sizes.append(len(features["country"]))
        return of_batch(self, features)

    monkeypatch.setattr(OnnxEncoder, "product_vectors", counted)
    rows = tiny_market.arrow("products").slice(0, 20).to_pylist()
    together = OnnxEncoder(tiny_run, tiny_market.path, threads).encode_products(rows)
    assert sorted(sizes) == [2, *[3] * 6]
    alone = [OnnxEncoder(tiny_run, tiny_market.path).encode_products([row])[0] for row in rows]
    np.testing.assert_allclose(together, alone, atol=1e-6)
    with pytest.raises(MercatoError, match="image_embeddings"):
        OnnxEncoder(tiny_run, None, threads).encode_products([*rows, {"image_embeddings": [[0.0]]}])


def test_a_table_and_its_rows_are_one(predictor, tiny_market):
    table = tiny_market.arrow("products").slice(0, 5)
    assert np.array_equal(predictor.encode_products(table), predictor.encode_products(table.to_pylist()))


def test_images_served_are_images_trained_on(predictor, tiny_market: Market, tiny_run):
    table = tiny_market.arrow("products").slice(0, 20)
    trained = encoded_vectors(tiny_market, tiny_run, predictor.featurizer.spec.max_images)
    served = predictor.image_vectors(table.to_pylist())
    assert served is not None
    for one, other in zip(trained, served, strict=False):
        assert (one is None) == (other is None)
        if one is not None:
            np.testing.assert_allclose(one, other, atol=1e-5)
    assert any(one is not None for one in trained[:20])
    with_vectors = products_with_vectors(tiny_market, predictor, tiny_run).slice(0, 20)
    np.testing.assert_allclose(
        predictor.encode_products(with_vectors), predictor.encode_products(table), atol=TOLERANCE
    )


def test_parity_compares_the_files_of_the_run(model, tiny_run, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    found = parity(model, run)
    assert set(found) == {"query", "product"} and max(found.values()) <= TOLERANCE
    other = load(tiny_run)
    for parameter in other.towers.query.parameters():
        parameter.data += 0.1
    with pytest.raises(MercatoError, match=r"query_tower\.onnx: differs from torch by"):
        parity(other, run)


def test_products_may_be_encoded_in_int8(model, tiny_run, tiny_market, tmp_path, monkeypatch):
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    files = {model.towers.query: QUERY_TOWER, model.towers.product: PRODUCT_TOWER}
    monkeypatch.setattr(exporting, "onnx_tower", lambda tower, _: (tiny_run / files[tower]).read_bytes())
    assert max(export(model, run, int8_products=True).values()) < TOLERANCE, "what was quantised is told of before"
    rows = tiny_market.arrow("products").slice(0, 50).to_pylist()
    exact, encoder = OnnxEncoder(tiny_run, tiny_market.path), OnnxEncoder(run, tiny_market.path)
    cosines = np.sum(exact.encode_products(rows) * encoder.encode_products(rows), axis=1)
    assert cosines.min() > 0.9 and cosines.max() < 1 - 1e-7
    np.testing.assert_array_equal(exact.encode_queries(["red sofa"]), encoder.encode_queries(["red sofa"]))
    assert (run / PRODUCT_TOWER).stat().st_size < (tiny_run / PRODUCT_TOWER).stat().st_size


def test_images_change_a_product_and_broken_ones_do_not(predictor, tiny_market):
    row = next(row for row in tiny_market.arrow("products").to_pylist() if row["images"])
    with_photo = predictor.encode_products([row])
    assert not np.allclose(with_photo, predictor.encode_products([row | {"images": None}]), atol=1e-3)
    broken = {"bytes": b"GIF89a nonsense", "path": None}
    outside = {"bytes": None, "path": "../../../etc/passwd"}
    again = predictor.encode_products([row | {"images": [broken, outside, None, *row["images"]]}])
    np.testing.assert_allclose(again, with_photo, atol=1e-6)


@pytest.mark.parametrize("wrong", [[[1.0, 2.0]], [1.0], [["x"]], [[1.0], [2.0, 3.0]], [[float("nan")] * 128]])
def test_wrong_vectors_are_named(predictor, wrong):
    with pytest.raises(MercatoError, match="product p1, field image_embeddings"):
        predictor.encode_products([{"product_id": "p1", "title": "a", "image_embeddings": wrong}])


def test_the_cache_is_bounded_in_bytes_however_long_queries_are(predictor, monkeypatch):
    predictor.cache.clear()
    (vector,) = predictor.encode_queries(["red chair"])
    monkeypatch.setattr(predictor.cache, "max_items", 3 * (vector.nbytes + 600))
    predictor.encode_queries([f"{number} {'a' * 10_000}" for number in range(5)])
    assert len(predictor.cache) == 3
    assert all(len(key) == 16 and kept.base is None for key, (_, kept) in predictor.cache._items.items())


def test_the_cache_gives_the_same_vector_back(predictor):
    first = predictor.encode_queries(["Red  Sofa", "lamp"], "us")
    assert (predictor.cache.hits, len(predictor.cache)) == (0, 2)
    first[0] = 9  # a caller's own copy
    again = predictor.encode_queries(["lamp", "red sofa"], "us")
    assert predictor.cache.hits == 2
    assert np.array_equal(again[0], first[1]) and np.linalg.norm(again[1]) == pytest.approx(1, abs=1e-5)
    predictor.encode_queries(["red sofa"], "mx")
    assert len(predictor.cache) == 3, "another country is another vector"


def test_serving_needs_no_torch(tiny_run):
    script = """
import sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "lightning"):
            raise ImportError(name)
sys.meta_path.insert(0, NoTorch())
from pathlib import Path
from mercato.runs.onnx_encoder import OnnxEncoder
predictor = OnnxEncoder(Path(sys.argv[1]))
assert predictor.encode_queries(["red sofa"]).shape == (1, 16)
assert predictor.encode_products([{"title": "red sofa"}]).shape == (1, 16)
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script, str(tiny_run)], check=True)


def test_what_is_no_run(tiny_run, tmp_path):
    for open_run in (OnnxEncoder, load):
        with pytest.raises(MercatoError, match="is not a run"):
            open_run(tmp_path)
    run = shutil.copytree(tiny_run, tmp_path / "run")
    (run / "query_tower.onnx").unlink()
    with pytest.raises(MercatoError, match="mercato export"):
        OnnxEncoder(run)
