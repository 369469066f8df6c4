"""Columns say of each row what was written of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mercato.retrieval.engines.qdrant_edge.columns import Columns, ColumnsWriter
from mercato.retrieval.engines.qdrant_edge.filtering import on_sphere
from mercato.retrieval.engines.qdrant_edge.log import Entry

DIMENSION = 2
places = st.fixed_dictionaries({"lat": st.floats(-90, 90), "lon": st.floats(-180, 180)})
fields = st.fixed_dictionaries(
    {"created_at": st.integers(0, 2**33)},
    optional={
        "price": st.floats(-10, 1e9),
        "location": places,
        "country": st.sampled_from(["us", "mx"]),
        "category": st.lists(st.sampled_from(["us", "A", "A > B"]), min_size=1, unique=True),
    },
)
rows = st.builds(
    Entry,
    product_id=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=3),
    vector=st.lists(st.floats(-1, 1, width=32), min_size=2, max_size=2)
    .filter(any)
    .map(lambda v: np.array(v, np.float32)),
    terms=st.sets(st.integers(0, 9), max_size=5).map(lambda terms: np.array(sorted(terms), np.uint32)),
    fields=fields,
).map(lambda row: replace(row, weights=(row.terms + 1).astype(np.float32) / 8))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=st.lists(rows, max_size=8), then=st.lists(rows, max_size=4), asked=st.permutations(range(11)))
def test_columns_are_what_was_written(tmp_path_factory, first, then, asked):
    """Of one product's rows the last stands; a generation goes on where another ended."""
    folder = tmp_path_factory.mktemp("generation")
    (folder / "a").mkdir()
    (folder / "b").mkdir()
    writer = ColumnsWriter(folder / "a")
    writer.append(first)
    gone = writer.seal()
    last = {row.product_id: number for number, row in enumerate(first)}
    assert gone == sorted(set(range(len(first))) - set(last.values()))
    old = Columns(folder / "a", DIMENSION)
    writer = ColumnsWriter(folder / "b", begin=old)
    writer.append(then)
    replaced = {last[row.product_id] for row in then if row.product_id in last}
    gone = writer.seal([*gone, *replaced])
    columns, whole = Columns(folder / "b", DIMENSION), [*first, *then]
    last = {row.product_id: number for number, row in enumerate(whole)}
    assert len(columns) == len(whole) and gone == sorted(set(range(len(whole))) - set(last.values()))
    created = [row.fields["created_at"] for row in whole]
    assert columns.whole("gone").tolist() == gone and columns.whole("created").tolist() == created
    newest = columns.whole("newest").tolist()
    assert sorted(newest) == list(range(len(whole)))
    assert [created[row] for row in newest] == sorted(created, reverse=True)
    assert {key: columns.row_of(key) for key in last} == last and columns.row_of("nobody") is None
    terms_T = np.array(asked, np.uint32)
    living = [row for number, row in enumerate(whole) if number not in gone]
    assert columns.holders(terms_T).tolist() == [sum(term in row.terms for row in living) for term in asked]
    rows_K = np.array([number for number in asked if number < len(whole)], np.int64)
    some = [whole[number] for number in rows_K]
    assert columns.product_ids(rows_K) == [row.product_id for row in some]
    np.testing.assert_array_equal(columns.vectors(rows_K), np.array([r.vector for r in some]).reshape(-1, DIMENSION))
    expected = [[(term + 1) / 8 if term in row.terms else 0 for term in asked] for row in some]
    np.testing.assert_array_equal(columns.weights(terms_T, rows_K), np.array(expected).reshape(-1, len(asked)))
    assert [columns.terms_of(row).tolist() for row in rows_K] == [row.terms.tolist() for row in some]
    np.testing.assert_array_equal(columns.prices(), [row.fields.get("price", np.nan) for row in whole])
    for row, place in zip(whole, columns.places(), strict=True):
        own = row.fields.get("location")
        np.testing.assert_array_equal(place, [np.nan] * 3 if own is None else on_sphere(own["lat"], own["lon"]))
    for row, kept in zip(some, columns.entries(rows_K, (row.fields for row in some)), strict=True):
        assert kept.packed() == row.packed()
    for name, keyword in (("country", "us"), ("category", "us"), ("category", "A > B"), ("category", "nobody's")):
        holding = [number for number, row in enumerate(whole) if keyword in _listed(row.fields.get(name, []))]
        assert columns.holding(name, keyword).tolist() == holding


def _listed(value):
    return [value] if isinstance(value, str) else value
