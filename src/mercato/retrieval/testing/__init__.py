"""The engine contract: tests that every index engine passes. An engine's tests subclass them with one fixture.

    class TestMyEngine(IndexContract):
        @pytest.fixture(scope="class")
        def url(self, tmp_path_factory):  # where nothing is yet; one for all tests, or one for each
            return f"myengine://{tmp_path_factory.mktemp('index')}"

Every test goes through `mercato.retrieval.open`, leaves the index at `url` empty, and skips what the engine's
capabilities leave out. (pytest is not imported here: only who runs the tests needs it.)
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from unicodedata import combining, normalize
from unittest import SkipTest

import numpy as np

from mercato.retrieval.expression import Expression, Filters
from mercato.retrieval.open import build_index, open_index
from mercato.retrieval.protocol import Hit, Index, IndexRecord
from mercato.retrieval.samples import (
    DIMENSION,
    QUERY,
    WORDS,
    drawn_record,
    product,
)
from mercato.retrieval.testing.filters import FilterContract
from mercato.retrieval.testing.lookups import LookupContract
from mercato.retrieval.testing.swaps import SwapContract
from mercato.retrieval.testing.tools import EVERYTHING, LARGE, clear, day, holding, ids, refused

_PATIENCE_S = 120.0


class IndexContract(FilterContract, LookupContract, SwapContract):
    """What callers rely on, whatever the engine."""

    def test_every_hit_has_both_scores_in_the_order_asked_for(self, url: str) -> None:
        """The cosine is the vectors', BM25 is above 0 where a word is shared, and the ANN part is the nearest."""
        random = np.random.default_rng(1)
        with holding(url) as index:
            for number in range(2 * self.rounds):
                order: Literal["cosine", "bm25"] = "bm25" if number % 2 else "cosine"
                records = {record.product_id: record for record in (drawn_record(random, n) for n in range(12))}
                text, limit = " ".join(random.choice(WORDS, 3)), int(random.integers(1, 13))
                index.upsert(records.values())
                hits = index.search(Expression(vector=QUERY, text=text, order=order), limit)
                clear(index)
                cosines = {key: float(record.vector @ QUERY / np.linalg.norm(QUERY)) for key, record in records.items()}
                for hit in hits:
                    assert abs(hit.cosine - cosines[hit.product_id]) < 1e-5
                    shared = _tokens(text) & _tokens(records[hit.product_id].text.replace(">", " "))
                    assert (hit.bm25 > 0) == (index.capabilities.text and bool(shared))
                    assert hit.found_by and ("text" not in hit.found_by or hit.bm25 > 0)
                nearest = sorted((hit.cosine for hit in hits if "ann" in hit.found_by), reverse=True)
                np.testing.assert_allclose(nearest, sorted(cosines.values(), reverse=True)[:limit], atol=1e-5)
                assert hits == sorted(hits, key=_by_cosine if order == "cosine" else _by_bm25)

    def test_a_large_batch_is_kept_whole_and_searched_deep(self, url: str) -> None:
        """Every record of one upsert; and as many hits as were asked for, the nearest and the newest."""
        records = [product(n, created_at=day(n)) for n in range(LARGE)]
        with holding(url, records) as index:
            assert len(index) == LARGE
            nearest = sorted(records, key=lambda record: -float(record.vector @ QUERY / np.linalg.norm(record.vector)))
            hits = index.search(Expression(vector=QUERY, ef_search=LARGE), 200)
            wanted = {record.product_id for record in nearest[:200]}
            assert len(hits) == 200 and len(wanted & set(ids(hits))) >= 190  # a graph may miss a few
            assert ids(index.search(Expression(), 200)) == [f"p{n}" for n in range(LARGE - 1, LARGE - 201, -1)]
            if index.capabilities.text:
                assert len(index.search(Expression(text="lamp"), 200)) == 200

    def test_words_are_scored_by_their_number_and_their_rarity(self, url: str) -> None:
        """And a short list holds the best of the long one."""
        titles = {1: "red lamp desk", 2: "old lamp desk", 3: "red tall chair", 4: "old tall bench"}
        common = [product(n, title="red wide bench") for n in range(5, 25)]
        with holding(url, [*(product(n, title=title) for n, title in titles.items()), *common]) as index:
            self._needs_text(index)
            scores = {hit.product_id: hit.bm25 for hit in index.search(Expression(text="red lamp"), 50)}
            assert scores.keys() == {"p1", "p2", "p3", *(record.product_id for record in common)}
            assert scores["p1"] > scores["p2"] > scores["p3"], "both words, then the rare one, then the common one"
            for limit in (1, 2):
                assert ids(index.search(Expression(text="red lamp", order="bm25"), limit)) == ["p1", "p2"][:limit]

    def test_vectors_are_compared_at_unit_length(self, url: str) -> None:
        """A product's own direction has cosine 1 whatever its length, the opposite one -1."""
        with holding(url, [product(1, 7 * QUERY), product(2, -0.1 * QUERY)]) as index:
            first, last = index.search(Expression(vector=3 * QUERY), 5)
        assert (first.product_id, last.product_id) == ("p1", "p2")
        assert abs(first.cosine - 1) < 1e-5 and abs(last.cosine + 1) < 1e-5

    def test_what_does_not_fit_is_refused_before_anything_is_written(self, url: str) -> None:
        """A vector of another dimension, in a record or in an expression, and a limit below 1."""
        with holding(url) as index:
            with refused("product 'p2', field vector: 3 numbers"):
                index.upsert([product(1), product(2, np.ones(3, dtype=np.float32))])
            assert len(index) == 0
            with refused("vector: 2 numbers, but the index's vectors have 6"):
                index.search(Expression(vector=[1, 2]), 5)
            with refused("limit"):
                index.search(Expression(vector=QUERY), 0)
        with refused("at least 1"):
            build_index(url, [], 0)

    def test_the_next_search_sees_every_write(self, url: str) -> None:
        """Added, replaced and deleted; deleting what is not there is no error."""
        with holding(url, [product(1, QUERY), product(2, -QUERY)]) as index:
            index.upsert([product(3, QUERY, price=9.0), product(1, -QUERY, price=5.0, title="changed")])
            assert len(index) == 3
            assert ids(index.search(Expression(vector=QUERY), 1)) == ["p3"]
            assert ids(index.search(Expression(filters=Filters(price_max=5)), 5)) == ["p1"]
            if index.capabilities.text:
                assert ids(index.search(Expression(text="changed"), 5)) == ["p1"]
            index.delete(["p3", "never there"])
            assert len(index) == 2 and set(ids(index.search(Expression(vector=QUERY), 5))) == {"p1", "p2"}

    def test_ties_are_in_the_order_of_their_ids(self, url: str) -> None:
        """Whichever part found them."""
        with holding(url, [product(number, QUERY) for number in (3, 1, 2)]) as index:
            expressions = [Expression(vector=QUERY), Expression(), Expression(vector=QUERY, text="lamp")]
            for expression in [*expressions, *([Expression(text="lamp")] if index.capabilities.text else [])]:
                assert ids(index.search(expression, 5)) == ["p1", "p2", "p3"]

    def test_min_cosine_bounds_the_vectors_part(self, url: str) -> None:
        """The text's part is free of it, and what both leave out is not there."""
        titles = {1: "near", 2: "lamp", 3: "far", 4: "lamp"}
        records = [product(number, QUERY if number == 1 else -QUERY, title=titles[number]) for number in titles]
        with holding(url, records) as index:
            assert ids(index.search(Expression(vector=QUERY, min_cosine=0.5), 10)) == ["p1"]
            self._needs_text(index)
            both = Expression(vector=QUERY, text="lamp", min_cosine=0.5)
            found = [(hit.product_id, hit.found_by) for hit in index.search(both, 10)]
            assert found == [("p1", ("ann",)), ("p2", ("text",)), ("p4", ("text",))]
            by_words = both.model_copy(update={"order": "bm25"})
            assert ids(index.search(by_words, 10)) == ["p2", "p4", "p1"]

    def test_each_part_brings_its_own_best(self, url: str) -> None:
        """Under a limit of one, the nearest product and the one that holds the words."""
        with holding(url, [product(1, QUERY, title="near"), product(2, -QUERY), product(3, -QUERY)]) as index:
            self._needs_text(index)
            hits = index.search(Expression(vector=QUERY, text="lamp"), 1)
            assert [hit.found_by for hit in hits] == [("ann",), ("text",)] and hits[0].product_id == "p1"

    def test_the_words_bring_as_many_as_they_are_told_to_beside_a_vector(self, url: str) -> None:
        """Their best, more or fewer than the vector's; alone they bring what is asked for."""
        near = [product(n, QUERY, title="near") for n in range(1, 4)]
        titles = {4: "lamp lamp desk", 5: "lamp desk tall wide", 6: "lamp desk tall wide old bench"}
        holders = [product(n, -QUERY, title=title) for n, title in titles.items()]
        with holding(url, [*near, *holders]) as index:
            self._needs_text(index)
            for depth, words in ((None, {"p4", "p5"}), (0, set()), (1, {"p4"}), (3, {"p4", "p5", "p6"})):
                hits = index.search(Expression(vector=QUERY, text="lamp", text_candidates=depth), 2)
                assert {hit.product_id for hit in hits if "text" in hit.found_by} == words
                assert sum("ann" in hit.found_by for hit in hits) == 2
            assert set(ids(index.search(Expression(text="lamp", text_candidates=1), 2))) == {"p4", "p5"}

    def test_every_word_with_a_rare_one_comes_first_under_any_limit_and_filter(self, url: str) -> None:
        """Exact hits, which a model number makes; without a vector there are none."""
        many = [product(number, QUERY, title="sony radio", price=5.0) for number in range(40)]
        numbered = [product(50, -QUERY, title="Sony KV-200 radio"), product(51, -QUERY, title="sony kv radio")]
        with holding(url, [*many, *numbered]) as index:
            self._needs_text(index)

            def exact(text: str, **more: Any) -> list[str]:
                hits = index.search(Expression(vector=QUERY, text=text, **more), 3)
                assert [hit.exact for hit in hits] == sorted((hit.exact for hit in hits), reverse=True)
                return ids(hit for hit in hits if hit.exact)

            assert exact("sony 200") == exact("kv 200", min_cosine=0.5) == ["p50"]
            assert exact("sony radio") == exact("sony 200 cheap") == exact("200", filters=Filters(price_max=9)) == []
            first = index.search(Expression(vector=QUERY, text="sony 200"), 3)[0]
            assert first.product_id == "p50" and first.found_by == ("text",) and first.bm25 > 0
            assert not any(hit.exact for hit in index.search(Expression(text="sony 200"), 3))

    def test_words_are_found_in_any_script(self, url: str) -> None:
        """Folded to one case without accents; Chinese in any order of its words; a text without words finds nothing."""
        pairs = (
            ("Camión rojo", "CAMION"),
            ("红色沙发", "沙发红色"),
            ("Платье красное", "платье"),
            ("ワンピース 赤い", "ワンピース"),
            ("L'été à la mer", "ete"),
            ("iPhone-13 Pro/Max", "iphone 13"),
            ("Lego 75192 falcon", "75192"),
        )
        with holding(url) as index:
            self._needs_text(index)
            for title, query in pairs:
                index.upsert([product(1, title=title), product(2, title="something else")])
                assert ids(index.search(Expression(text=query), 5)) == ["p1"], query
            assert index.search(Expression(text="🙂 !!"), 5) == []

    def test_a_text_is_refused_where_nothing_scores_it(self, url: str) -> None:
        """Without text scoring a text is left out beside a vector, and refused where there is nothing else."""
        with holding(url, [product(1, QUERY)]) as index:
            if index.capabilities.text:
                raise SkipTest("this engine scores text")
            assert [hit.bm25 for hit in index.search(Expression(vector=QUERY, text="lamp"), 5)] == [0]
            with refused("text"):
                index.search(Expression(text="lamp"), 5)

    def test_a_browse_is_newest_first(self, url: str) -> None:
        """To the second; what does not say when it was created comes last, and no hit has a score."""
        start = datetime(2024, 1, 1, tzinfo=UTC)
        days = {1: 10, 2: 300, 3: None, 4: 0}
        created = {n: None if day is None else start + timedelta(days=day) for n, day in days.items()}
        with holding(url, [product(number, created_at=moment) for number, moment in created.items()]) as index:
            browse = index.search(Expression(), 10)
            assert ids(browse) == ["p2", "p1", "p4", "p3"]
            assert ids(index.search(Expression(), 2)) == ["p2", "p1"]
            assert {(hit.cosine, hit.bm25, hit.found_by, hit.exact) for hit in browse} == {(0.0, 0.0, (), False)}

    def test_a_build_replaces_the_index_whole_or_not_at_all(self, url: str) -> None:
        """Of records with one id the last stands, the description is right, and an error leaves what was there."""

        def broken() -> Iterator[IndexRecord]:
            yield product(8)
            raise RuntimeError("the encoder ran out of memory")

        build_index(url, [product(1), product(2), product(1, QUERY)], DIMENSION, "run 7")
        try:
            build_index(url, broken(), DIMENSION)
        except RuntimeError:
            pass
        else:
            raise AssertionError("the records' error was swallowed")
        description = build_index(url, [product(1), product(2), product(1, QUERY)], DIMENSION, "run 7")
        assert description["engine"] and description["count"] == 2 and description["dimension"] == DIMENSION
        with open_index(url) as index:
            assert (len(index), index.dimension, index.fingerprint) == (2, DIMENSION, "run 7")
            assert ids(index.search(Expression(vector=QUERY), 1)) == ["p1"]
        build_index(url, [], DIMENSION)

    def test_writes_are_there_when_it_is_opened_again(self, url: str) -> None:
        """Closing loses nothing, with and without `flush` and `compact`."""
        with holding(url):
            pass
        with open_index(url) as index:
            index.upsert([product(1), product(2)])
            if index.capabilities.flush:
                index.flush()
            if index.capabilities.compaction:
                index.compact()
            index.delete(["p2"])
            index.upsert([product(3)])
        with open_index(url) as index:
            assert set(ids(index.search(Expression(vector=QUERY), 5))) == {"p1", "p3"}
            clear(index)

    def test_one_owner_or_many(self, url: str) -> None:
        """As declared: a second one is refused, or sees what the first writes."""
        with holding(url) as index:
            if index.capabilities.one_owner:
                with refused("open"):
                    open_index(url)
                return
            with open_index(url) as other:
                index.upsert([product(1)])
                assert ids(other.search(Expression(), 5)) == ["p1"]

    def test_it_may_be_closed_twice_and_says_that_it_is_closed(self, url: str) -> None:
        """A search of a closed index is an error that names the cause."""
        build_index(url, [], DIMENSION)
        index = open_index(url)
        index.close()
        index.close()
        with refused("closed"):
            index.search(Expression(vector=QUERY), 5)
        with refused("closed"):
            index.upsert([product(1)])

    def test_searches_and_writes_may_come_from_several_threads(self, url: str) -> None:
        """No error, no product of another's lost; what stays, rewritten now and then, is found once by every search."""
        kept = [product(number) for number in range(20)]

        def write(first: int) -> None:
            for number in range(first, first + 20):
                index.upsert([product(number), kept[number % len(kept)]])
                index.delete([f"p{number - 1}"] if number > first else [])

        def read() -> None:
            for _ in range(20):
                found = ids(index.search(Expression(vector=QUERY, text="lamp" if scored else None), 100))
                assert len(found) == len(set(found)) and {record.product_id for record in kept} <= set(found)

        with holding(url, kept) as index:
            scored = index.capabilities.text
            _together([lambda: write(100), lambda: write(200), read, read])
            found = set(ids(index.search(Expression(), EVERYTHING)))
        assert found == {record.product_id for record in kept} | {"p119", "p219"}

    def _needs_text(self, index: Index) -> None:
        if not index.capabilities.text:
            raise SkipTest("this engine scores no text")


def _by_cosine(hit: Hit) -> tuple[Any, ...]:
    return not hit.exact, -hit.cosine, -hit.bm25, hit.product_id


def _by_bm25(hit: Hit) -> tuple[Any, ...]:
    return -hit.bm25, -hit.cosine, hit.product_id


def _tokens(text: str) -> set[str]:
    return set("".join(letter for letter in normalize("NFKD", text.lower()) if not combining(letter)).split())


def _together(calls: list[Callable[[], None]]) -> None:
    errors: list[BaseException] = []

    def caught(call: Callable[[], None]) -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=caught, args=[call]) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(_PATIENCE_S)
    assert not errors, errors
    assert not any(thread.is_alive() for thread in threads), "a thread is stuck"
