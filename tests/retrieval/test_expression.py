from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import ValidationError

from mercato.retrieval.expression import Expression, Filters, GeoRadius
from tests.support.catalogues import DIMENSION, filters

usable = arrays(np.float32, DIMENSION, elements=st.floats(-100, 100, width=32)).filter(
    lambda vector: np.linalg.norm(vector) > 1e-3
)
expressions = st.builds(
    Expression,
    vector=st.none() | usable,
    min_cosine=st.none() | st.floats(-1, 1),
    ef_search=st.integers(1, 10_000),
    text=st.none() | st.text(max_size=50),
    filters=filters(),
    order=st.sampled_from(["cosine", "bm25"]),
)


@given(expressions)
def test_an_expression_survives_json(expression):
    again = Expression.model_validate_json(expression.model_dump_json())
    assert again == expression
    assert hash(again) == hash(expression)
    if expression.vector is not None:
        assert again.vector.dtype == np.float32
        np.testing.assert_array_equal(again.vector, expression.vector)


@given(usable)
def test_a_vector_is_brought_to_unit_length(vector):
    kept = Expression(vector=vector).vector
    assert np.linalg.norm(kept) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(kept * np.linalg.norm(vector), vector, atol=1e-3)


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"vector": [0, 0]}, "vector"),
        ({"vector": [1, float("nan")]}, "vector"),
        ({"vector": [1, float("inf")]}, "vector"),
        ({"vector": [[1.0]]}, "vector"),
        ({"vector": []}, "vector"),
        ({"vector": "abc"}, "vector"),
        ({"min_cosine": 1.5}, "min_cosine"),
        ({"min_cosine": float("nan")}, "min_cosine"),
        ({"ef_search": 0}, "ef_search"),
        ({"order": "price"}, "order"),
        ({"sort": "price"}, "sort"),
        ({"filters": {"colour": "red"}}, "filters.colour"),
        ({"filters": {"category": " > "}}, "filters.category"),
        ({"filters": {"price_min": -1}}, "filters.price_min"),
        ({"filters": {"price_max": float("nan")}}, "filters.price_max"),
        ({"filters": {"country": "usa"}}, "filters.country"),
        ({"filters": {"near": {"latitude": 91, "longitude": 0, "radius_km": 1}}}, "filters.near.latitude"),
        ({"filters": {"near": {"latitude": 0, "longitude": 0, "radius_km": 0}}}, "filters.near.radius_km"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(document, field):
    with pytest.raises(ValidationError) as refused:
        Expression.model_validate(document)
    assert [".".join(map(str, error["loc"])) for error in refused.value.errors()] == [field]


def test_a_price_range_the_wrong_way_round_names_both_ends():
    with pytest.raises(ValidationError, match="price_min 9 is above price_max 3"):
        Filters(price_min=9, price_max=3)


def test_writing_is_forgiven_where_the_meaning_is_plain():
    assert Filters(category="Home>  Lamps ", country=" US ") == Filters(category="Home > Lamps", country="us")
    assert Expression(text="  ") == Expression()


def test_values_are_frozen():
    near = GeoRadius(latitude=1, longitude=2, radius_km=3)
    with pytest.raises(ValidationError):
        near.latitude = 2


def test_filters_that_mean_the_same_are_the_same():
    """However often they say it, in whatever order and case; two values of one key are both asked for."""
    spelled = {"Colour": "Red", "colour": "RED", "COLOUR": "red", "Size": "M"}
    filters = Filters(attributes=spelled, conditions=("used", "new", "used"))
    same = Filters(attributes={"size": "m", "cOLOUR": "red"}, conditions=("new", "used", "new"))
    assert filters == same and filters.model_dump_json() == same.model_dump_json()
    assert filters.attributes == {"colour": "red", "size": "m"} and filters.conditions == ("new", "used")
    both = Filters(attributes={"color": "red", "Color": "Blue", "COLOR": "RED"})
    assert sorted((key.casefold(), value) for key, value in both.attributes.items()) == [
        ("color", "blue"),
        ("color", "red"),
    ]
    assert Filters.model_validate_json(both.model_dump_json()) == both
