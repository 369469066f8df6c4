"""Which pairs train, and how old their listings were."""

from __future__ import annotations

import polars as pl
import pytest

from mercato.training.data.pairs import index_of
from mercato.training.data.prepare import prepare
from tests.support.toys import toy_recipe


def test_index_of():
    table = pl.DataFrame({"a": ["x", None, "y", "x"], "b": [1, 1, None, 1]})
    frame = pl.DataFrame({"a": ["y", "x", "z", None], "b": [None, 1, 1, 1]}, schema=table.schema)
    assert index_of(frame, table, ["a", "b"]).tolist() == [2, 0, -1, 1]


def test_a_graded_stage_reads_every_pair_and_an_in_batch_stage_the_engaged(toys, tmp_path):
    graded = prepare(toys, toy_recipe("stages.0.loss=cosent"), tmp_path).examples
    plain = prepare(toys, toy_recipe(), tmp_path).examples
    table = toys.frame("pairs").filter(pl.col("split") == "train")
    assert len(graded) == len(table) and len(graded.engaged) == len(plain) == int((table["label"] == 1).sum())
    assert graded.grade_N.tolist() == graded.engaged_N.astype(float).tolist()  # no grades given: the labels


@pytest.mark.parametrize(("number", "reads_age"), [("price", False), ("age", True)])
def test_pairs_differ_by_age_only_where_the_context_reads_it(toys, tmp_path, number, reads_age):
    channels = 'product_tower.channels=["title_text", "context"]'
    found = prepare(toys, toy_recipe(channels, f'product_tower.context.numbers=["{number}"]'), tmp_path)
    assert (found.examples.days_N is not None) == reads_age
