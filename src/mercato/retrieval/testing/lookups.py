"""The engine contract: named products as hits, and what ranking reads of any hit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mercato.retrieval.expression import Expression, Filters
from mercato.retrieval.protocol import Hits, Index, IndexRecord, record_from_product
from mercato.retrieval.samples import DIMENSION, QUERY, WORDS
from mercato.retrieval.signals import SECTIONS, Signals
from mercato.retrieval.testing.tools import EVERYTHING, holding, refused


class LookupContract:
    """Part of `IndexContract`."""

    def test_named_products_are_scored_as_a_search_scores_them(self, url: str) -> None:
        """In the order asked for, past filters and bounds; what is not there is left out."""
        records = [_listing(number, title=f"lamp {WORDS[number]}") for number in range(6)]
        with holding(url, records) as index:
            text = f"lamp {WORDS[3]}" if index.capabilities.text else None
            expression = Expression(vector=QUERY, text=text)
            found = {hit.product_id: (hit.cosine, hit.bm25) for hit in index.search(expression, EVERYTHING)}
            narrow = expression.model_copy(update={"filters": Filters(price_max=0.0), "min_cosine": 0.99})
            index.delete(["p2"])
            named = index.lookup(narrow, ["p5", "p2", "never there", "p0", "p3"])
            assert named.product_ids == ["p5", "p0", "p3"] and not any(hit.found_by or hit.exact for hit in named)
            np.testing.assert_allclose(named.cosine_H, [found[key][0] for key in named.product_ids], atol=1e-5)
            assert [bm25 > 0 for bm25 in named.bm25_H] == [found[key][1] > 0 for key in named.product_ids]
            assert len(index.lookup(expression, [])) == 0
            with refused("vector: 2 numbers"):
                index.lookup(Expression(vector=[1, 2]), ["p5"])

    def test_what_ranking_reads_is_kept_with_every_product(self, url: str) -> None:
        """Of hits that were indexed at once and those written since, replaced and compacted; to the last word."""
        old, new = [_listing(number) for number in range(4)], [_listing(number, rich=True) for number in range(2, 7)]
        with holding(url, old) as index:
            if index.capabilities.compaction:
                index.compact()
            index.upsert(new)
            records = {record.product_id: record for record in (*old, *new)}
            self._holds(index, records)
            if index.capabilities.compaction:
                index.compact()
                index.upsert([_listing(0, rich=True)])
                self._holds(index, records | {"p0": _listing(0, rich=True)})

    def test_hits_can_be_compared_with_another_vector(self, url: str) -> None:
        """Of unit length, after the search: those that were indexed at once and those written since."""
        other = np.roll(QUERY, 1) / np.linalg.norm(QUERY)
        expression = Expression(vector=QUERY)
        records = {f"p{number}": _listing(number) for number in range(6)}
        with holding(url, [*records.values()][:4]) as index:
            if index.capabilities.compaction:
                index.compact()
            index.upsert([*records.values()][4:])
            for hits in (index.search(expression, EVERYTHING), index.lookup(expression, ["p5", "p0"])):
                for some in (hits, hits[1:], hits[:0]):
                    expected = [float(records[product_id].vector @ other) for product_id in some.product_ids]
                    np.testing.assert_allclose(some.cosines(other), expected, atol=1e-5)
            with refused("detached"):
                hits.detached().cosines(other)

    def _holds(self, index: Index, records: dict[str, IndexRecord]) -> None:
        named = index.lookup(Expression(vector=QUERY), ["p6", "p0", "p2", "p1"])
        for hits in (named, index.search(Expression(vector=QUERY), EVERYTHING), named[:0]):
            read = _apart(hits)
            for product_id, kept in zip(hits.product_ids, read, strict=True):
                written = records[product_id].signals
                assert kept.packed() == written.packed(), product_id


def _listing(number: int, title: str = "Red Lamp 40 W", rich: bool = False) -> IndexRecord:
    fields: dict[str, Any] = {"product_id": f"p{number}", "title": title, "price": number + 0.5}
    if rich:
        fields |= {"description": f"no. {number} of many", "category": "Home > Lamps", "seller_id": f"s{number % 2}"}
        fields |= {
            "attributes": {"colour": "red", "size": f"{number} cm"},
            "seller_rating": 4.5,
            "images": [{}] * number,
        }
    vector = np.random.default_rng(number).normal(size=DIMENSION).astype(np.float32)
    return record_from_product(fields, vector)


def _apart(hits: Hits) -> Sequence[Signals]:
    columns = hits.signals()
    assert columns.lengths_HS.shape == (len(hits), len(SECTIONS))
    assert len(columns.words_W) == columns.lengths_HS.sum()
    return [*columns.apart()]
