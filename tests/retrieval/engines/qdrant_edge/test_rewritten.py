"""Products that are written again: what is gone costs little, is found no more, and does not pile up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mercato.retrieval.engines.qdrant_edge import snapshot as edge_snapshot
from mercato.retrieval.engines.qdrant_edge.cells import Cells
from mercato.retrieval.expression import Expression, Filters
from mercato.retrieval.open import build_index, open_index
from mercato.retrieval.protocol import IndexRecord
from mercato.retrieval.samples import DIMENSION, QUERY, drawn_filters, drawn_record, product
from mercato.retrieval.signals import signals_of


def ids(hits):
    return [hit.product_id for hit in hits]


def test_the_engine_is_asked_for_little_however_much_was_rewritten(tmp_path, monkeypatch):
    run, asked, limit, random = edge_snapshot.EdgeSnapshot._run, [], 20, np.random.default_rng(0)
    records = [product(n, title=" ".join(["lamp"] * (1 + n % 7)) + " on" * (n % 11)) for n in range(2000)]

    def counted(self, query, wanted, *more):
        asked.append(wanted)
        return run(self, query, wanted, *more)

    def searched():
        asked.clear()
        hits = index.search(Expression(vector=QUERY, text="lamp"), limit)
        near, by_words = hits.take(np.flatnonzero(hits.by_ann_H)), np.sort(hits.bm25_H[hits.by_text_H])
        return set(near.product_ids), by_words, sum(asked)

    monkeypatch.setattr(edge_snapshot.EdgeSnapshot, "_run", counted)
    build_index(tmp_path, records, DIMENSION)
    with open_index(tmp_path) as index:
        nearest, best, _ = searched()
        order, done = random.permutation(2000), 0
        for share in (0.1, 0.3, 0.5, 0.7, 0.9, 1.0):
            index.upsert([replace(records[n], price=1.0) for n in order[done : int(2000 * share)]])
            done = int(2000 * share)
            near, by_words, handed_over = searched()
            assert near == nearest and handed_over <= 12 * limit, share
            np.testing.assert_allclose(by_words, best, rtol=1e-5)
        index.compact()
        index.delete(index.search(Expression(text="lamp"), 600).product_ids)
        index.delete(index.search(Expression(vector=QUERY), 300).product_ids)
        living = [index.search(part, 2000) for part in (Expression(vector=QUERY), Expression(text="lamp"))]
        near, by_words, handed_over = searched()
        assert near == {*living[0].product_ids[:limit]}
        np.testing.assert_allclose(by_words, np.sort(living[1].bm25_H[:limit]), rtol=1e-5)
        assert handed_over <= 20 * limit, "however many are gone where the best were"


@pytest.mark.parametrize("filters", [Filters(), Filters(price_min=0)])
def test_little_is_looked_at_where_the_nearest_are_gone(tmp_path, monkeypatch, filters):
    cosines, looked_at = Cells.cosines, []

    def counted(self, vector, places_P):
        looked_at.append(len(places_P))
        return cosines(self, vector, places_P)

    build_index(tmp_path, [product(n, price=1.0) for n in range(3000)], DIMENSION)
    with open_index(tmp_path) as index:
        order = index.search(Expression(vector=QUERY), 800).product_ids
        index.delete(order[:600])
        monkeypatch.setattr(Cells, "cosines", counted)
        hits = index.search(Expression(vector=QUERY, filters=filters, ef_search=4), 20)
        assert len(hits) == 20 and len({*hits.product_ids} & {*order[600:620]}) >= 15
        assert looked_at and sum(looked_at) < 1500


def test_a_product_that_is_rewritten_during_a_search_is_found_once(tmp_path, monkeypatch):
    build_index(tmp_path, [product(n) for n in range(5)], DIMENSION)
    matching, rewritten = edge_snapshot.EdgeSnapshot.matching, []

    def after_the_nearest(self, *given):
        if not rewritten:
            rewritten.append(index.upsert([product(1, title="lamp again"), product(2, title="lamp again")]))
            self._opened.follow()
        return matching(self, *given)

    monkeypatch.setattr(edge_snapshot.EdgeSnapshot, "matching", after_the_nearest)
    with open_index(tmp_path) as index:
        for wanted in (Expression(vector=QUERY, text="lamp"), Expression(vector=QUERY, text="again")):
            rewritten.clear()
            found = ids(index.search(wanted, 5))
            assert len(found) == len(set(found)) and {"p1", "p2"} <= set(found)


@pytest.mark.parametrize("first", [0, 8])  # of the sealed ones and of the fresh ones
@pytest.mark.parametrize(
    "step",
    [
        "nearest",
        "matching",
        "newest",
        "holders",
        "alive",
        "_by_graph",
        "_by_cell",
        "_by_words",
        "_wanted",
        "_left",
        "_fresh_within",
    ],
)
def test_a_product_that_is_rewritten_after_any_step_of_a_search_is_found_once(tmp_path, monkeypatch, step, first):
    real, prices = getattr(edge_snapshot.EdgeSnapshot, step), []

    def listed(number, price):
        return product(number, title=f"lamp x{number}", price=price)

    def and_then(self, *given, **named):
        answer = real(self, *given, **named)
        while prices:
            index.upsert([listed(number, prices.pop())])
            self._opened.follow()
        return answer

    monkeypatch.setattr(edge_snapshot.EdgeSnapshot, step, and_then)
    build_index(tmp_path, [listed(number, 1.0) for number in range(8)], DIMENSION)
    with open_index(tmp_path) as index:
        index.upsert([listed(number, 1.0) for number in range(8, 16)])
        number = first
        for filters in (Filters(), Filters(price_min=0.5)):
            for parts in ({"vector": QUERY}, {"text": "lamp"}, {"vector": QUERY, "text": f"x{number + 2}"}, {}):
                prices[:] = [2.0, 3.0]
                hits = index.search(Expression(**parts, filters=filters), 20)
                assert sorted(ids(hits)) == sorted(f"p{n}" for n in range(16)), parts
                assert ids(hit for hit in hits if hit.exact) == [f"p{number}"] * (len(parts) == 2)
                number += 1


def test_dead_rows_stay_few_and_nothing_is_lost_however_often_products_are_rewritten(tmp_path, monkeypatch):
    monkeypatch.setattr(edge_snapshot, "FEW", 0)
    random = np.random.default_rng(3)
    records = [with_signals(drawn_record(random, n)) for n in range(60)]
    build_index(tmp_path / "old", records, DIMENSION)
    with open_index(tmp_path / "old") as index:
        dead, priced = [], Filters(price_min=0)
        for changes in (6, 59, 3, 30, 59, 6, 6):
            changed = random.choice(59, changes, replace=False)
            for number in changed:
                price, country = float(random.choice([0.0, 10.0, 99.99])), str(random.choice(["us", "mx"]))
                records[number] = with_signals(replace(records[number], price=price, country=country))
            index.upsert([*(records[number] for number in changed), product(99)])
            index.delete(["p99", "p59"])
            index.compact()
            with index.snapshot() as snapshot:
                dead.append(len(snapshot._opened.columns) - len(index))
                assert snapshot.masks.of(priced).count == index.count(priced), "of dead rows none is left"
        assert max(dead) <= 30 and 0 in dead
        build_index(tmp_path / "new", records, DIMENSION)
        with open_index(tmp_path / "new") as whole:
            whole.delete(["p59"])
            for filters in (Filters(), *(drawn_filters(random) for _ in range(25))):
                assert index.count(filters) == whole.count(filters)
                for text in (None, "red lamp 红"):
                    expression = Expression(vector=QUERY, text=text, filters=filters)
                    ours, theirs = (each.search(expression, 100) for each in (index, whole))
                    assert ours.product_ids == theirs.product_ids
                    np.testing.assert_allclose(ours.cosine_H, theirs.cosine_H, atol=1e-6)
                    np.testing.assert_allclose(ours.bm25_H, theirs.bm25_H, rtol=1e-5)
                    for kept, written in zip(ours.signals().apart(), theirs.signals().apart(), strict=True):
                        assert kept.packed() == written.packed()


def with_signals(record: IndexRecord) -> IndexRecord:
    row = {name: getattr(record, name) for name in ("product_id", "title", "price", "category", "seller_id")}
    return replace(record, signals=signals_of(row))
