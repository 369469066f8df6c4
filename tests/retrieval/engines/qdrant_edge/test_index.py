from __future__ import annotations

import math
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from mercato.errors import MercatoError
from mercato.retrieval.engines.qdrant_edge import masks
from mercato.retrieval.engines.qdrant_edge import shard as edge_shard
from mercato.retrieval.engines.qdrant_edge import snapshot as edge_snapshot
from mercato.retrieval.engines.qdrant_edge.cells import Cells
from mercato.retrieval.engines.qdrant_edge.filtering import EARTH_KM
from mercato.retrieval.expression import Expression, Filters, GeoRadius
from mercato.retrieval.open import build_index, open_index
from mercato.retrieval.protocol import IndexRecord, record_from_product
from mercato.retrieval.samples import drawn_filters, drawn_record
from tests.support.catalogues import DIMENSION, vectors

QUERY = np.arange(1, DIMENSION + 1, dtype=np.float32)


def product(number: int, vector: np.ndarray | None = None, **fields: object) -> IndexRecord:
    vector = vectors(np.random.default_rng(number), 1)[0] if vector is None else vector
    return IndexRecord(product_id=f"p{number}", vector=vector, **{"title": "lamp"} | fields)


def ids(hits):
    return [hit.product_id for hit in hits]


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


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """5,000 products in tight clusters, in a graph, which so few would not have."""
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
                n,
                points[n],
                price=float(n % 1000),
                category=f"All > H{cluster[n] % 3} > C{cluster[n]}",
                latitude=40.0,
                longitude=n / 100,
            )
            for n in range(5000)
        ),
        DIMENSION,
    )
    monkeypatch.undo()
    with open_index(folder) as index:
        with index.snapshot() as snapshot:
            assert snapshot.shard.info().indexed_vectors_count >= 5000
        yield index, points, cluster


@pytest.mark.parametrize("rows_per_ef", [4, 64])  # some of the cells are looked at, and all
@pytest.mark.parametrize(
    "filters",
    [
        Filters(),
        Filters(price_max=499),
        Filters(price_max=50),
        Filters(price_max=1),
        Filters(price_max=0),
        Filters(category="All > H1"),
        Filters(category="All > H1 > C7"),
        Filters(category="All > H1 > C7", price_max=99),
        Filters(near=GeoRadius(latitude=40, longitude=10, radius_km=100)),
    ],
)
def test_filters_of_any_selectivity_never_lose_what_matches(large, monkeypatch, rows_per_ef, filters):
    monkeypatch.setattr(edge_snapshot, "ROWS_PER_EF", rows_per_ef)
    index, points, cluster = large
    price = np.arange(5000) % 1000
    mask = np.ones(5000, dtype=bool)
    if filters.price_max is not None:
        mask &= price <= filters.price_max
    if filters.category is not None:
        mask &= cluster == 7 if filters.category.endswith("C7") else cluster % 3 == 1
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
    assert index.count(filters) == mask.sum()


def test_more_is_looked_at_where_filters_care_for_nearness(large):
    index, points, _ = large
    vector = (points[0] / np.linalg.norm(points[0])).astype(np.float32)
    by_chance, near = Filters(price_max=499), Filters(category="All > H1")
    with index.snapshot() as snapshot:
        of = snapshot.masks.of
        assert 300 <= len(of(by_chance).near(vector, 600)) < 600
        assert 900 <= len(of(near).near(vector, 600)) < 1200
        assert len(of(near).near(vector, 5000)) == of(near).count
        assert 540 <= len(of(Filters(price_max=899)).near(vector, 600)) < 800, "of cells that hold 600, nearly all"


def test_a_graph_search_that_comes_back_short_goes_on_by_cells(tmp_path, monkeypatch):
    """However many rows there are, no more of them are looked at than within filters."""

    class Lossy:
        """A shard whose graph finds one product."""

        def __init__(self, shard):
            self.count, self._shard = shard.count, shard

        def query(self, request):
            assert not request.params.exact
            return self._shard.query(request)[:1]

    cosines, looked_at = Cells.cosines, []

    def counted(self, vector, places_P):
        looked_at.append(len(places_P))
        return cosines(self, vector, places_P)

    build_index(tmp_path, [product(n) for n in range(3000)], DIMENSION)
    with open_index(tmp_path) as index, index.snapshot() as snapshot:
        best = snapshot.nearest(QUERY, Filters(), 20, 64)
        monkeypatch.setattr(snapshot, "shard", Lossy(snapshot.shard))
        monkeypatch.setattr(Cells, "cosines", counted)
        found = snapshot.nearest(QUERY, Filters(), 20, 4)
        assert len(found.rows_F) == 20 and len({*found.rows_F} & {*best.rows_F}) >= 15
        assert looked_at and sum(looked_at) < 1000
        assert len(snapshot.nearest(QUERY, Filters(), 400, 4).rows_F) == 400, "whoever asks for more gets them"


def test_words_within_filters_are_scored_alike_by_the_engine_and_from_columns(tmp_path, monkeypatch):
    random = np.random.default_rng(5)
    build_index(tmp_path, [drawn_record(random, n) for n in range(400)], drawn_record(random, 0).vector.size)
    with open_index(tmp_path) as index, index.snapshot() as snapshot:
        index.delete([f"p{n}" for n in range(0, 400, 7)])
        index.upsert([drawn_record(random, n) for n in range(0, 400, 9)])
        for filters in (drawn_filters(random) for _ in range(60)):
            found = []
            for few, looked_at in ((0, 0), (0, 3), (400, 0)):
                monkeypatch.setattr(edge_snapshot, "FEW", few)
                monkeypatch.setattr(edge_snapshot, "LOOKED_AT", looked_at)
                rows_F, scores_F = snapshot.matching(["red", "lamp", "红"], filters, 400)
                found.append(dict(zip(rows_F.tolist(), scores_F.tolist(), strict=True)))
            assert all(each == pytest.approx(found[0], rel=1e-5) for each in found), filters


def test_a_hole_of_gone_products_does_not_shorten_a_search(tmp_path):
    """The 400 nearest, which hold the word best, are deleted or taken out of the filter after they were sealed."""
    near = [product(n, QUERY + n / 1e4, title="lamp lamp", seller_id="s") for n in range(400)]
    far = [product(1000 + n, -QUERY, title="lamp on a tall desk", seller_id="s") for n in range(12)]
    build_index(tmp_path, [*near, *far], DIMENSION)
    with open_index(tmp_path) as index:
        index.delete([f"p{n}" for n in range(300)])
        index.upsert([product(n, QUERY, title="chair", seller_id="another's") for n in range(300, 400)])
        mine = Filters(seller_id="s")
        for expression in (Expression(vector=QUERY, filters=mine), Expression(text="lamp"), Expression(filters=mine)):
            assert {int(key[1:]) for key in ids(index.search(expression, 12))} == set(range(1000, 1012))
        assert len(index.search(Expression(vector=QUERY), 112)) == 112
        assert index.count(mine) == 12


def test_words_within_a_radius_are_found_up_to_its_edge(tmp_path, monkeypatch):
    """The engine, which has an Earth of its own, finds all that ours has within it."""
    monkeypatch.setattr(edge_snapshot, "FEW", 0)
    random = np.random.default_rng(0)
    near, records = GeoRadius(latitude=52, longitude=13, radius_km=1000), []
    for number, bearing in enumerate(random.uniform(0, 2 * math.pi, 300)):
        angle, phi = (near.radius_km - 1e-3 * (1 - 2 * (number % 2))) / EARTH_KM, math.radians(near.latitude)
        latitude = math.asin(math.sin(phi) * math.cos(angle) + math.cos(phi) * math.sin(angle) * math.cos(bearing))
        east = math.sin(bearing) * math.sin(angle) * math.cos(phi)
        longitude = near.longitude + math.degrees(
            math.atan2(east, math.cos(angle) - math.sin(phi) * math.sin(latitude))
        )
        records.append(product(number, latitude=math.degrees(latitude), longitude=longitude))
    build_index(tmp_path, records, DIMENSION)
    with open_index(tmp_path) as index:
        found = ids(index.search(Expression(text="lamp", filters=Filters(near=near)), 300))
    assert sorted(int(key[1:]) for key in found) == [*range(0, 300, 2)]


@pytest.mark.parametrize("beyond", [1, 200])
def test_few_words_are_read_where_the_best_lie_just_beyond_a_radius(tmp_path, monkeypatch, beyond):
    """Where the engine, which has rounded, finds them too."""
    near, run, scored = GeoRadius(latitude=0, longitude=0, radius_km=100), [], []
    east = math.degrees((near.radius_km + 5e-4) / EARTH_KM)
    records = [product(n, title="lamp on a tall desk", latitude=0, longitude=0) for n in range(700)]
    records += [product(700 + n, latitude=0, longitude=east) for n in range(beyond)]
    for name, counts in (("_run", run), ("_scored", scored)):
        counted(monkeypatch, name, counts)
    build_index(tmp_path, records, DIMENSION)
    with open_index(tmp_path) as index:
        hits = index.search(Expression(text="lamp", filters=Filters(near=near)), 20)
    assert len(hits) == 20 and all(int(hit.product_id[1:]) < 700 for hit in hits)
    assert not scored and sum(wanted for _, wanted, *_ in run) <= 6 * 20


def counted(monkeypatch, name, calls):
    """Have the calls of a step of a search listed."""
    real = getattr(edge_snapshot.EdgeSnapshot, name)

    def listed(self, *given):
        calls.append(given)
        return real(self, *given)

    monkeypatch.setattr(edge_snapshot.EdgeSnapshot, name, listed)


@pytest.mark.parametrize("old", [5, 300])
def test_a_browse_goes_no_further_back_than_there_are_rows_left(tmp_path, old):
    """The only ones within the filter are the oldest."""

    class Counted:
        def __init__(self, array):
            self.array, self.read = array, 0

        def __len__(self):
            return len(self.array)

        def __getitem__(self, rows):
            self.read = max(self.read, len(self.array[rows]))
            return self.array[rows]

    start = datetime(2020, 1, 1, tzinfo=UTC)
    records = [product(n, created_at=start + timedelta(days=n), price=float(n >= old)) for n in range(1000)]
    build_index(tmp_path, records, DIMENSION)
    with open_index(tmp_path) as index:
        newest = Counted(index._opened.columns.whole("newest"))
        index._opened.columns._arrays["newest"] = newest
        found = ids(index.search(Expression(filters=Filters(price_max=0.5)), 20))
        assert found == [f"p{n}" for n in range(old - 1, max(-1, old - 21), -1)] and newest.read <= old
        assert ids(index.search(Expression(), 20)) == [f"p{n}" for n in range(999, 979, -1)] and newest.read <= max(
            old, 20
        )


def test_what_filters_leave_is_kept_within_bounds(tmp_path, monkeypatch):
    build_index(tmp_path, [product(n, price=float(n)) for n in range(9)], DIMENSION)
    with open_index(tmp_path) as index, index.snapshot() as snapshot:
        of = snapshot.masks.of
        first, second = Filters(price_max=3), Filters(price_max=4)
        kept = of(first)
        assert of(second).count == 5 and of(first) is kept
        monkeypatch.setattr(masks, "KEPT_BYTES", 3 * masks._OBJECT_BYTES // 2)
        of(Filters(price_max=5))
        assert of(first) is not kept and of(first).count == 4
        monkeypatch.setattr(masks, "KEPT_BYTES", 0)
        assert of(second).count == 5, "one is kept, however large"


def test_what_filters_leave_of_nothing_is_kept_within_bounds_too(tmp_path, monkeypatch):
    build_index(tmp_path, [], DIMENSION)
    monkeypatch.setattr(masks, "KEPT_BYTES", 100_000)
    with open_index(tmp_path) as index, index.snapshot() as snapshot:
        for number in range(100):
            snapshot.masks.of(Filters(seller_id=f"{number} {'long' * 1_000}"))
        assert 1 <= len(snapshot.masks._kept) < 10


def test_what_filters_leave_of_ten_million_products_is_kept_within_bounds(tmp_path, monkeypatch):
    monkeypatch.setattr(masks, "KEPT_BYTES", 10_000)
    monkeypatch.setattr(masks, "_OBJECT_BYTES", 0)
    build_index(tmp_path, [product(n, price=float(n)) for n in range(1000)], DIMENSION)
    with open_index(tmp_path) as index, index.snapshot() as snapshot:
        prices = [*range(0, 1000, 100)]
        for price in prices:
            mask = snapshot.masks.of(Filters(price_max=price))
            assert len(mask.near(QUERY, 2000)) == mask.count == price + 1
            assert held(mask) <= mask.bytes <= 1000 * (1 / 8 + 1 / 2) + 8 * len(snapshot.masks.cells.ends_C)
        kept = len(snapshot.masks._kept)
        assert 5 <= kept < len(prices)
        index.upsert([product(n) for n in range(1000, 3000)])
        snapshot._opened.follow()
        for price in prices[-kept:]:
            mask = snapshot.masks.of(Filters(price_max=price))
            assert len(mask.near(QUERY, 2000)) == price + 1 and not mask.fresh().any()
        assert len(snapshot.masks._kept) < kept, "what is fresh weighs too"
        assert sum(held(mask) for mask, _ in snapshot.masks._kept.values()) <= masks.KEPT_BYTES


def held(mask) -> int:
    """The bytes of its arrays."""
    return sum(array.nbytes for array in (mask._bits, mask._fresh_N, *mask._by_cell[:2]))


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
        assert len(list(tmp_path.glob("generation-*"))) == 1  # also with searches under way
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
