"""The part of the engine contract about swaps: a standby beside what is served (see `mercato.retrieval.testing`)."""

from __future__ import annotations

from unittest import SkipTest

import numpy as np

from mercato.retrieval.expression import Expression
from mercato.retrieval.open import build_index, drop_standby, generations, open_index, swap_index
from mercato.retrieval.protocol import Generations
from mercato.retrieval.samples import DIMENSION, QUERY, product
from mercato.retrieval.testing.tools import ids, refused


class SwapContract:
    """What callers rely on where an index has a standby."""

    def test_a_standby_takes_the_place_of_what_is_served_and_gives_it_back(self, url: str) -> None:
        """Both take writes, whichever is served; an open one stays what it is. They may differ in dimension."""
        build_index(url, [product(1), product(2)], DIMENSION, "run 1")
        with refused("holds no generation 'run 2'"):
            open_index(url, fingerprint="run 2")
        with refused("no standby"):
            swap_index(url)
        wide = np.ones(DIMENSION + 1, np.float32)
        build_index(url, [product(3, wide)], DIMENSION + 1, "run 2", standby=True)
        assert generations(url) == Generations("run 1", "run 2")
        with open_index(url) as one, open_index(url, fingerprint="run 2") as two:
            assert (one.fingerprint, two.fingerprint) == ("run 1", "run 2")
            swap_index(url)
            assert generations(url) == Generations("run 2", "run 1")
            one.upsert([product(4)])
            two.upsert([product(5, wide)])
            assert set(ids(one.search(Expression(vector=QUERY), 9))) == {"p1", "p2", "p4"}
            assert set(ids(two.search(Expression(vector=wide), 9))) == {"p3", "p5"}
        with open_index(url) as two, open_index(url, fingerprint="run 1") as one:
            assert set(ids(two.search(Expression(vector=wide), 9))) == {"p3", "p5"}
            assert set(ids(one.search(Expression(vector=QUERY), 9))) == {"p1", "p2", "p4"}
        swap_index(url)
        with open_index(url) as one:
            assert set(ids(one.search(Expression(vector=QUERY), 9))) == {"p1", "p2", "p4"}
        build_index(url, [], DIMENSION)

    def test_a_swap_to_a_generation_by_name_is_made_once(self, url: str) -> None:
        """Whoever else swaps meanwhile; one that is gone is refused, and nothing is swapped."""
        build_index(url, [product(1)], DIMENSION, "run 1")
        swap_index(url, "run 1")
        build_index(url, [product(2)], DIMENSION, "run 2", standby=True)
        for _ in range(2):
            swap_index(url, "run 2")
            assert generations(url) == Generations("run 2", "run 1")
        with refused("holds no generation 'run 3' any more"):
            swap_index(url, "run 3")
        assert generations(url) == Generations("run 2", "run 1")

    def test_a_standby_may_be_replaced_and_dropped(self, url: str) -> None:
        """A build that fails replaces nothing; dropping what is not there is no error; a new index has none."""
        build_index(url, [product(1)], DIMENSION, "run 1")
        build_index(url, [product(2)], DIMENSION, "run 2", standby=True)
        with refused("field vector"):
            build_index(url, [product(2, np.ones(DIMENSION + 1, np.float32))], DIMENSION, "run 3", standby=True)
        assert generations(url) == Generations("run 1", "run 2")
        build_index(url, [product(3), product(4)], DIMENSION, "run 3", standby=True)
        with open_index(url, fingerprint="run 3") as index:
            drop_standby(url)
            index.delete(["p4"])
            assert ids(index.search(Expression(), 9)) == ["p3"], "who has it open keeps it, and may write"
        drop_standby(url)
        assert generations(url) == Generations("run 1")
        build_index(url, [product(3)], DIMENSION, "run 3", standby=True)
        build_index(url, [], DIMENSION, "run 4")
        assert generations(url) == Generations("run 4")

    def test_what_a_build_took_the_place_of_can_be_read_while_somebody_has_it_open(self, url: str) -> None:
        """With what its owner writes."""
        build_index(url, [product(1), product(3)], DIMENSION, "run 1")
        with open_index(url) as old:
            build_index(url, [product(2)], DIMENSION, "run 2")
            with open_index(url, read_only=True, fingerprint="run 1") as beside:
                old.delete(["p3"])
                assert ids(beside.search(Expression(), 9)) == ["p1"]
        with refused("holds no generation 'run 1'"):
            open_index(url, fingerprint="run 1")
        build_index(url, [], DIMENSION)

    def test_a_compaction_leaves_served_what_is_served(self, url: str) -> None:
        """And standing by what stands by, also where the two were swapped since it was opened."""
        build_index(url, [product(1)], DIMENSION, "run 1")
        build_index(url, [product(2)], DIMENSION, "run 2", standby=True)
        with open_index(url) as one, open_index(url, fingerprint="run 2") as two:
            if not one.capabilities.compaction:
                raise SkipTest("this engine needs no compaction")
            for swapped in (False, True):
                two.upsert([product(4 + swapped)])
                for index in (one, two):
                    index.compact()
                assert generations(url) == (Generations("run 2", "run 1") if swapped else Generations("run 1", "run 2"))
                assert ids(one.search(Expression(), 9)) == ["p1"]
                swap_index(url)
            assert set(ids(two.search(Expression(), 9))) == {"p2", "p4", "p5"}
        build_index(url, [], DIMENSION)
