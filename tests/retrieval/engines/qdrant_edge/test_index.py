from __future__ import annotations

import math
import subprocess
import sys
import threading
from datetime import UTC, datetime
from unicodedata import combining, normalize

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mercato.errors import MercatoError
from mercato.retrieval.engines.qdrant_edge import index as qdrant_edge
from mercato.retrieval.engines.qdrant_edge import shard as edge_shard
from mercato.retrieval.expression import Expression, Filters, GeoRadius
from mercato.retrieval.open import build_index, open_index
from mercato.retrieval.protocol import IndexRecord, record_from_product
from tests.support.catalogues import DIMENSION, WORDS, catalogues, vectors

QUERY = np.arange(1, DIMENSION + 1, dtype=np.float32)


def product(number: int, vector: np.ndarray | None = None, **fields: object) -> IndexRecord:
    vector = vectors(np.random.default_rng(number), 1)[0] if vector is None else vector
    return IndexRecord(product_id=f"p{number}", vector=vector, **{"title": "lamp"} | fields)


def ids(hits):
    return [hit.product_id for hit in hits]


def tokens(text: str) -> list[str]:
    folded = "".join(letter for letter in normalize("NFKD", text.lower()) if not combining(letter))
    return folded.split()


@settings(max_examples=100)
@given(
    catalogue=catalogues(),
    query=st.lists(st.sampled_from(WORDS), min_size=1, max_size=3),
    limit=st.integers(1, 12),
    order=st.sampled_from(["cosine", "bm25"]),
)
def test_every_hit_has_both_scores_and_they_are_right(empty, catalogue, query, limit, order):
    empty.upsert(catalogue)
    try:
        expression = Expression(vector=QUERY, text=" ".join(query), order=order)
        hits = empty.search(expression, limit)
    finally:
        empty.delete(record.product_id for record in catalogue)
    by_id = {record.product_id: record for record in catalogue}
    for hit in hits:
        record = by_id[hit.product_id]
        assert hit.cosine == pytest.approx(float(record.vector @ QUERY / np.linalg.norm(QUERY)), abs=1e-5)
        shared = set(tokens(" ".join(query))) & set(tokens(record.text.replace(">", " ")))
        assert (hit.bm25 > 0) == bool(shared)
        assert hit.found_by
        assert "text" not in hit.found_by or hit.bm25 > 0
    cosines = sorted((float(record.vector @ expression.vector) for record in catalogue), reverse=True)
    found = sorted((hit.cosine for hit in hits if "ann" in hit.found_by), reverse=True)
    np.testing.assert_allclose(found, cosines[:limit], atol=1e-5)
    if order == "cosine":
        assert hits == sorted(hits, key=lambda hit: (not hit.exact, -hit.cosine, -hit.bm25, hit.product_id))
    else:
        assert hits == sorted(hits, key=lambda hit: (-hit.bm25, -hit.cosine, hit.product_id))


def test_bm25_is_the_textbook_formula(tmp_path):
    texts = ["red lamp", "red red chair for a desk", "blue lamp", "green", "red"]
    build_index(tmp_path, [product(number, title=text) for number, text in enumerate(texts)], DIMENSION)
    mean = np.mean([len(text.split()) for text in texts])
    with open_index(tmp_path) as index:
        for word in ("red", "lamp", "green"):
            holding = sum(word in text.split() for text in texts)
            idf = math.log(1 + (len(texts) - holding + 0.5) / (holding + 0.5))
            for hit in index.search(Expression(text=word), 10):
                words = texts[int(hit.product_id[1:])].split()
                times = words.count(word)
                weight = times * 2.2 / (times + 1.2 * (0.25 + 0.75 * len(words) / mean))
                assert hit.bm25 == pytest.approx(idf * weight, rel=1e-4)


@pytest.mark.parametrize(
    ("title", "query"),
    [
        ("Camión rojo", "CAMION"),
        ("红色连衣裙", "红色"),
        ("Платье красное", "платье"),
        ("ワンピース 赤い", "ワンピース"),
        ("L'été à la mer", "ete"),
        ("iPhone-13 Pro/Max", "iphone 13"),
    ],
)
def test_text_is_found_in_any_language(empty, title, query):
    empty.upsert([product(1, title=title), product(2, title="something else")])
    assert ids(empty.search(Expression(text=query), 5)) == ["p1"]
    empty.delete(["p1", "p2"])


def test_the_two_parts_are_a_true_or(empty):
    toward, away = QUERY, -QUERY
    titles = {2: "lamp", 3: "far", 4: "lamp"}
    empty.upsert([product(1, toward, title="near"), *(product(n, away, title=titles[n]) for n in titles)])
    hits = empty.search(Expression(vector=QUERY, text="lamp", min_cosine=0.5), 10)
    assert [(hit.product_id, hit.found_by) for hit in hits] == [
        ("p1", ("ann",)),
        ("p2", ("text",)),
        ("p4", ("text",)),
    ]
    assert ids(empty.search(Expression(vector=QUERY, text="lamp", min_cosine=0.5, order="bm25"), 10)) == [
        "p2",
        "p4",
        "p1",
    ]
    hits = empty.search(Expression(vector=QUERY, text="lamp near"), 1)
    assert [hit.product_id for hit in hits if "ann" in hit.found_by] == ["p1"]
    assert len([hit for hit in hits if "text" in hit.found_by]) == 1
    empty.delete(["p1", "p2", "p3", "p4"])


def test_every_word_with_a_rare_one_comes_first_under_any_limit_and_filter(empty):
    many = [product(n, QUERY, title="sony radio", price=5.0) for n in range(40)]
    numbered = [product(50, -QUERY, title="Sony KV-200 radio"), product(51, -QUERY, title="sony kv radio")]
    empty.upsert([*many, *numbered])

    def exact(text, **more):
        hits = empty.search(Expression(vector=QUERY, text=text, **more), 3)
        assert [hit.exact for hit in hits] == sorted((hit.exact for hit in hits), reverse=True)
        return [hit.product_id for hit in hits if hit.exact]

    assert exact("sony 200") == exact("kv 200", min_cosine=0.5) == ["p50"]
    assert exact("sony radio") == exact("sony 200 cheap") == exact("200", filters=Filters(price_max=9)) == []
    first = empty.search(Expression(vector=QUERY, text="sony 200"), 3)[0]
    assert first.product_id == "p50" and first.found_by == ("text",) and first.bm25 > 0
    assert not any(hit.exact for hit in empty.search(Expression(text="sony 200"), 3))
    empty.delete(record.product_id for record in (*many, *numbered))


def test_without_a_vector_or_a_text(empty):
    days = {1: datetime(2024, 1, 1, tzinfo=UTC), 2: datetime(2025, 1, 1, tzinfo=UTC), 3: None, 4: datetime(2020, 1, 1)}
    empty.upsert(
        [
            record_from_product({"product_id": f"p{n}", "title": "lamp", "created_at": day}, QUERY)
            for n, day in days.items()
        ]
    )
    browse = empty.search(Expression(), 10)
    assert ids(browse) == ["p2", "p1", "p4", "p3"]
    assert ids(empty.search(Expression(), 2)) == ["p2", "p1"]
    assert {(hit.cosine, hit.bm25, hit.found_by) for hit in browse} == {(0.0, 0.0, ())}
    assert empty.search(Expression(text="🙂 !!"), 10) == []  # a text without a token finds nothing; it is no browse
    assert {hit.cosine for hit in empty.search(Expression(text="lamp"), 10)} == {0.0}
    empty.delete([f"p{n}" for n in days])


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """5,000 products in tight clusters, in a graph; the thresholds are lowered so that every approach is taken."""
    folder = tmp_path_factory.mktemp("large")
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(edge_shard, "GRAPH_FROM_KB", 1)
    random = np.random.default_rng(0)
    centres = random.normal(size=(50, DIMENSION)) * 3
    cluster = random.integers(0, 50, 5000)
    points = (centres[cluster] + random.normal(size=(5000, DIMENSION)) * 0.3).astype(np.float32)
    build_index(
        folder,
        (
            product(
                n, points[n], price=float(n % 1000), category=f"All > C{cluster[n]}", latitude=40.0, longitude=n / 100
            )
            for n in range(5000)
        ),
        DIMENSION,
    )
    monkeypatch.undo()
    with open_index(folder) as index:
        assert index._open().shard.info().indexed_vectors_count >= 5000
        yield index, points, cluster


@pytest.mark.parametrize("exact_below", [0, 1_000_000])
@pytest.mark.parametrize(
    "filters",
    [
        Filters(),
        Filters(price_max=499),
        Filters(price_max=50),
        Filters(price_max=1),
        Filters(price_max=0),
        Filters(category="All > C7"),
        Filters(category="All > C7", price_max=99),
        Filters(near=GeoRadius(latitude=40, longitude=10, radius_km=100)),
    ],
)
def test_filters_of_any_selectivity_never_lose_what_matches(large, monkeypatch, exact_below, filters):
    monkeypatch.setattr(qdrant_edge, "_EXACT_BELOW", exact_below)
    monkeypatch.setattr(qdrant_edge, "_EXACT_BELOW_WHEN_NARROW", exact_below)
    index, points, cluster = large
    price = np.arange(5000) % 1000
    mask = np.ones(5000, dtype=bool)
    if filters.price_max is not None:
        mask &= price <= filters.price_max
    if filters.category is not None:
        mask &= cluster == 7
    if filters.near is not None:
        mask &= abs(np.arange(5000) / 100 - 10) * 111.19 * math.cos(math.radians(40)) <= 100
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    recalls = []
    for seed in range(20):
        query = points[seed * 13] + np.random.default_rng(seed).normal(size=DIMENSION)
        cosines = np.where(mask, unit @ query / np.linalg.norm(query), -2)
        wanted = min(10, int(mask.sum()))
        hits = index.search(Expression(vector=query, filters=filters), 10)
        assert len(hits) == wanted
        assert all(mask[int(hit.product_id[1:])] for hit in hits)
        recalls.append(sum(hit.cosine >= np.sort(cosines)[-wanted] - 1e-5 for hit in hits) / wanted)
    assert np.mean(recalls) >= 0.99
    total = index.count(filters)
    assert total == mask.sum()


def test_a_graph_search_that_comes_back_short_is_repeated_exactly(empty, monkeypatch):
    empty.upsert([product(1), product(2)])
    run = qdrant_edge._run

    def lossy(shard, query, limit, where, params=None):
        return run(shard, query, limit, where, params)[: None if params is None or params.exact else 1]

    monkeypatch.setattr(qdrant_edge, "_EXACT_BELOW", 0)
    monkeypatch.setattr(qdrant_edge, "_run", lossy)
    assert len(empty.search(Expression(vector=QUERY), 2)) == 2
    empty.delete(["p1", "p2"])


def test_writes_are_seen_by_the_next_search_and_survive_closing(tmp_path):
    build_index(tmp_path, [product(1), product(2)], DIMENSION, fingerprint="run-7")
    with open_index(tmp_path) as index:
        index.upsert([product(3, QUERY, title="new thing"), product(1, -QUERY, title="changed", price=5.0)])
        assert ids(index.search(Expression(vector=QUERY), 1)) == ["p3"]
        assert ids(index.search(Expression(text="changed"), 5)) == ["p1"]
        assert ids(index.search(Expression(filters=Filters(price_max=9)), 5)) == ["p1"]
        index.delete(["p2", "never there"])
        assert len(index) == 2
    with open_index(tmp_path) as index:
        assert (len(index), index.dimension, index.fingerprint) == (2, DIMENSION, "run-7")
        assert ids(index.search(Expression(vector=QUERY), 5)) == ["p3", "p1"]


def test_an_upsert_survives_kill_9(tmp_path):
    build_index(tmp_path, [], DIMENSION)
    program = f"""
import os, numpy as np
from mercato.retrieval.protocol import IndexRecord
from mercato.retrieval.open import open_index
index = open_index({str(tmp_path)!r})
index.upsert([IndexRecord("kept", np.ones({DIMENSION}), title="lamp")])
os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    with open_index(tmp_path) as index:
        assert ids(index.search(Expression(text="lamp"), 5)) == ["kept"]


def test_compacting_loses_nothing_that_goes_on_meanwhile(tmp_path):
    build_index(tmp_path, [product(n) for n in range(300)], DIMENSION)
    stop, wrong, written = threading.Event(), [], []
    with open_index(tmp_path) as index:

        def write():
            while not stop.is_set():
                number = 1000 + len(written)
                index.upsert([product(number)])
                index.delete([f"p{len(written)}"])
                written.append(number)

        def read():
            while not stop.is_set():
                try:
                    assert len(index.search(Expression(vector=QUERY, text="lamp"), 10)) >= 10
                except Exception as error:
                    wrong.append(error)
                    return

        threads = [threading.Thread(target=write), threading.Thread(target=read)]
        for thread in threads:
            thread.start()
        index.compact()
        assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 1  # also with searches under way
        stop.set()
        for thread in threads:
            thread.join()
        assert not wrong
        assert written
        kept = {f"p{n}" for n in range(300)} | {f"p{n}" for n in written}
        kept -= {f"p{n}" for n in range(len(written))}
        assert set(ids(index.search(Expression(), 100_000))) == kept
    with open_index(tmp_path) as index:
        assert len(index) == len(kept)


def test_compacting_does_not_undo_a_newer_generation(tmp_path):
    build_index(tmp_path, [product(1)], DIMENSION)
    with open_index(tmp_path) as old:
        build_index(tmp_path, [product(1), product(2)], DIMENSION)
        with pytest.raises(MercatoError, match="newer generation"):
            old.compact()
        old.upsert([product(3)])
        assert len(old) == 2
    with open_index(tmp_path) as index:
        assert set(ids(index.search(Expression(), 5))) == {"p1", "p2"}


def test_what_does_not_fit_is_refused_before_anything_is_written(empty):
    with pytest.raises(MercatoError, match="product 'p2', field vector: 3 numbers"):
        empty.upsert([product(1), product(2, np.ones(3, dtype=np.float32))])
    assert len(empty) == 0
    with pytest.raises(MercatoError, match="vector: 2 numbers, but the index's vectors have 6"):
        empty.search(Expression(vector=[1, 2]), 5)
    with pytest.raises(MercatoError, match="limit"):
        empty.search(Expression(vector=QUERY), 0)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"vector": np.zeros(DIMENSION)}, "vector"),
        ({"vector": np.full(DIMENSION, np.nan)}, "vector"),
        ({"price": math.nan}, "price"),
        ({"latitude": 91.0, "longitude": 0.0}, "latitude"),
        ({"latitude": 1.0, "longitude": math.inf}, "longitude"),
    ],
)
def test_a_record_that_cannot_be_indexed_names_product_and_field(fields, field):
    with pytest.raises(MercatoError, match=f"product 'p1', field {field}"):
        product(1, **fields)


@pytest.mark.parametrize(
    "attributes",
    [{"Colour": "Red"}, [("Colour", "Red")], [{"key": "Colour", "value": "Red"}, {"key": "x", "value": None}]],
)
def test_a_row_of_the_products_table_becomes_a_record(attributes):
    row = {"product_id": "a", "title": "Lamp", "category": "Home>Lamps", "attributes": attributes, "brand": "Lux"}
    record = record_from_product(row, QUERY)
    assert record.attributes == {"Colour": "Red"}
    assert record.category == "Home > Lamps"
    assert record.text.split() == ["Lamp", "Lux", "Home", ">", "Lamps"]


def test_a_closed_index_says_so(tmp_path):
    build_index(tmp_path, [], DIMENSION)
    index = open_index(tmp_path)
    index.close()
    index.close()
    with pytest.raises(MercatoError, match="closed"):
        index.search(Expression(vector=QUERY), 5)


def test_the_order_of_ties_is_by_product(empty):
    empty.upsert([product(n, QUERY, title="lamp") for n in (3, 1, 2)])
    for expression in (Expression(vector=QUERY), Expression(text="lamp"), Expression(vector=QUERY, text="lamp")):
        assert ids(empty.search(expression, 5)) == ["p1", "p2", "p3"]
    empty.delete(["p1", "p2", "p3"])
