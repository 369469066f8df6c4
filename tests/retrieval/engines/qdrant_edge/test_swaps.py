"""Any order of writes, compactions, standby builds, swaps and drops: a search answers as two dictionaries would."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mercato.retrieval.expression import Expression
from mercato.retrieval.open import build_index, drop_standby, generations, open_index, swap_index
from mercato.retrieval.protocol import Generations, Index
from mercato.retrieval.samples import DIMENSION, QUERY, product

numbers = st.sets(st.integers(0, 12), min_size=1, max_size=5)
side = st.integers(0, 1)


class Swapping(RuleBasedStateMachine):
    """`sides` are the served generation and the standby: its name, its owner, and what it should hold."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.sides: list[tuple[str, Index, set[int]]] = []
        self.runs = 0

    @initialize(held=numbers)
    def build_first(self, held):
        self._build(held, standby=False)

    @rule(held=numbers)
    def build_standby(self, held):
        for _, index, _ in self.sides[1:]:
            index.close()
        del self.sides[1:]
        self._build(held, standby=True)

    @rule(side=side, written=numbers)
    def upsert(self, side, written):
        _, index, held = self.sides[side % len(self.sides)]
        index.upsert(product(number) for number in written)
        held |= written

    @rule(side=side, gone=numbers)
    def delete(self, side, gone):
        _, index, held = self.sides[side % len(self.sides)]
        index.delete(f"p{number}" for number in gone)
        held -= gone

    @rule(side=side)
    def compact(self, side):
        self.sides[side % len(self.sides)][1].compact()

    @precondition(lambda self: len(self.sides) == 2)
    @rule()
    def swap(self):
        swap_index(self.folder)
        self.sides.reverse()

    @precondition(lambda self: len(self.sides) == 2)
    @rule()
    def drop(self):
        drop_standby(self.folder)
        self.sides.pop()[1].close()
        assert len(list(self.folder.glob("generation-*"))) == 1

    @rule()
    def open_again(self):
        for place, (name, index, held) in enumerate(self.sides):
            index.close()
            self.sides[place] = (name, open_index(self.folder, fingerprint=name), held)

    @invariant()
    def each_side_finds_what_it_holds(self):
        if self.sides:
            assert generations(self.folder) == Generations(*(name for name, *_ in self.sides))
        for name, index, held in self.sides:
            assert (index.fingerprint, len(index)) == (name, len(held))
            found = {hit.product_id for hit in index.search(Expression(vector=QUERY, text="lamp"), 50)}
            assert found == {f"p{number}" for number in held}

    def teardown(self):
        for _, index, _ in self.sides:
            index.close()
        shutil.rmtree(self.folder)

    def _build(self, held: set[int], standby: bool) -> None:
        self.runs += 1
        name = f"run {self.runs}"
        build_index(self.folder, [product(number) for number in held], DIMENSION, name, standby=standby)
        self.sides.append((name, open_index(self.folder, fingerprint=name), set(held)))


TestSwapping = Swapping.TestCase
TestSwapping.settings = settings(
    max_examples=3, stateful_step_count=8, phases=[Phase.explicit, Phase.generate], deadline=None
)
