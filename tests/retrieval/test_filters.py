"""Every filter against its meaning in plain Python, over small wild catalogues."""

from __future__ import annotations

import numpy as np
from hypothesis import assume, given, settings

from mercato.retrieval.expression import Expression
from tests.support.catalogues import DIMENSION, catalogues, distance_km, filters, satisfies

QUERY = np.arange(1, DIMENSION + 1, dtype=np.float32)


@settings(max_examples=250)
@given(catalogue=catalogues(), asked=filters())
def test_a_search_returns_exactly_what_satisfies_the_filters(empty, catalogue, asked):
    near = asked.near
    if near is not None:  # a metre of doubt about the shape of the Earth
        placed = [record for record in catalogue if record.latitude is not None]
        assume(
            all(abs(distance_km(record, near) - near.radius_km) > 1e-3 or near.radius_km < 0.01 for record in placed)
        )
    wanted = {record.product_id for record in catalogue if satisfies(record, asked)}
    empty.upsert(catalogue)
    try:
        for expression in (
            Expression(vector=QUERY, filters=asked),
            Expression(vector=QUERY, text="red 红色", filters=asked),
            Expression(filters=asked),
        ):
            assert {hit.product_id for hit in empty.search(expression, len(catalogue))} == wanted
        assert empty.count(asked) == len(wanted)
    finally:
        empty.delete(record.product_id for record in catalogue)
    assert len(empty) == 0
