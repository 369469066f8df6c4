"""The classification head, used: from vectors to queries, in torch and in ONNX Runtime."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from mercato.data.market import Market
from mercato.errors import MercatoError
from mercato.runs import query_head
from mercato.runs.folder import seal_run
from mercato.runs.onnx_encoder import OnnxEncoder
from mercato.runs.query_head import QueryHead
from mercato.runs.torch_encoder import TorchEncoder
from tests.support.heads import add_head

QUERIES = ["red sofa", "zapatillas de niño", "lamp", "old lamp", "bicycle"]


@pytest.fixture
def headed_run(tiny_run: Path, tmp_path: Path) -> Path:
    """The tiny run with a head that nobody trained."""
    run = shutil.copytree(tiny_run, tmp_path / "run")
    add_head(run, QUERIES)
    return run


def test_logits_become_probabilities_over_all_queries():
    head = QueryHead(["a", "b", "c"], np.array([[1, 0], [0, 1], [0, 0]], np.float32), np.array([0, 0, 1], np.float32))
    (likely,) = head.predict(np.array([[0.6, 0.8]], np.float32), 2)
    whole = math.exp(0.6) + math.exp(0.8) + math.exp(1)
    assert likely == [("c", pytest.approx(math.exp(1) / whole)), ("b", pytest.approx(math.exp(0.8) / whole))]


def test_a_logit_is_a_line_of_a_cosine():
    """With a unit vector; over all queries they make the probabilities. A query is known in any spelling."""
    random = np.random.default_rng(0)
    weights, vectors = (random.normal(size=shape).astype(np.float32) for shape in ((5, 8), (9, 8)))
    weights[2] = 0
    head = QueryHead(QUERIES, weights, random.normal(size=5).astype(np.float32))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    lines = [head.line(query.upper() + "  ") for query in QUERIES]
    logits = np.stack([slope * (vectors @ unit) + level for unit, slope, level in lines], axis=1)
    odds = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for row, likely in zip(odds, head.predict(vectors, 5), strict=True):
        assert dict(likely) == pytest.approx(dict(zip(QUERIES, row, strict=True)), abs=1e-6)
    lengths = [np.linalg.norm(unit) for unit, _, _ in lines]
    assert lengths == pytest.approx([1, 1, 0, 1, 1]) and lines[0][0].dtype == np.float32
    assert head.line("sofa") is None


def test_of_queries_that_are_one_the_most_common_counts():
    head = QueryHead(["Lamp", "lamp"], np.eye(2, dtype=np.float32), np.zeros(2, np.float32))
    np.testing.assert_array_equal(head.line("lamp")[0], [1, 0])


def test_equal_queries_come_in_the_heads_order_and_k_is_bounded_by_them():
    head = QueryHead(["a", "b", "c"], np.zeros((3, 2), np.float32), np.array([0, 0, 500], np.float32))
    (likely,) = head.predict(np.array([[1, 0]], np.float32), 50)
    assert likely == [("c", 1.0), ("a", 0.0), ("b", 0.0)]
    assert head.predict(np.zeros((0, 2), np.float32), 3) == []


def test_every_product_gets_its_own_beyond_one_batch(monkeypatch):
    monkeypatch.setattr(query_head, "BATCH", 4)
    head = QueryHead([str(n) for n in range(10)], np.eye(10, dtype=np.float32), np.zeros(10, np.float32))
    assert [likely[0][0] for likely in head.predict(np.eye(10, dtype=np.float32), 1)] == head.queries


def test_torch_and_onnx_predict_the_same(headed_run: Path, tiny_market: Market):
    products = tiny_market.arrow("products").slice(0, 9)
    ours = TorchEncoder.load(headed_run).predict_queries(products, 3)
    served = OnnxEncoder(headed_run).predict_queries(products.to_pylist(), 3)
    assert [[query for query, _ in likely] for likely in ours] == [[query for query, _ in likely] for likely in served]
    np.testing.assert_allclose(
        [[p for _, p in row] for row in ours], [[p for _, p in row] for row in served], atol=1e-4
    )
    weights = load_file(headed_run / "model.safetensors")
    logits = TorchEncoder.load(headed_run).encode_products(products) @ weights["head.weight"].T + weights["head.bias"]
    assert [likely[0][0] for likely in served] == [QUERIES[best] for best in logits.argmax(axis=1)]


@pytest.mark.parametrize("load", [TorchEncoder.load, OnnxEncoder])
def test_a_run_without_a_head_says_what_gives_one(tiny_run: Path, load):
    with pytest.raises(MercatoError, match=r"head\.queries"):
        load(tiny_run).predict_queries([{"title": "red sofa"}])


def test_queries_of_another_head_are_refused(headed_run: Path):
    (headed_run / "queries.json").write_text(json.dumps(QUERIES[1:]))
    seal_run(headed_run)
    with pytest.raises(MercatoError, match="lists 4 queries, but the run's head has 5"):
        OnnxEncoder(headed_run).predict_queries([{"title": "red sofa"}])
