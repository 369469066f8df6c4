from __future__ import annotations

import polars as pl

from mercato.evaluation.kinds import leaf_categories
from mercato.evaluation.units import bootstrap_units

QUERIES = pl.DataFrame(
    [("Sofa ", "us"), ("sofa", "mx"), ("couch", "us"), ("couch", "mx"), ("lamp", None)],
    schema={"query": pl.String, "country": pl.String},
    orient="row",
)


def same(units):
    return [units.tolist().index(unit) for unit in units]


def test_without_intents_a_text_in_normal_form_is_one_unit_in_every_country():
    assert same(bootstrap_units(QUERIES, None)) == [0, 0, 2, 2, 4]


def test_queries_of_one_intent_are_one_unit():
    rows = [("SOFA", None, "seat"), ("couch", "us", "seat"), ("other", None, "lamp")]
    intents = pl.DataFrame(rows, schema=["query", "country", "intent"], orient="row")
    # The Mexican couch is of no intent, and the lamp's text is no intent's name.
    assert same(bootstrap_units(QUERIES, intents)) == [0, 0, 0, 3, 4]
    named = pl.DataFrame([("sofa", None, "lamp")], schema=["query", "country", "intent"], orient="row")
    assert same(bootstrap_units(QUERIES, named)) == [0, 0, 2, 2, 4]


def test_only_the_leaf_of_a_category_is_a_kind():
    paths = ["Clothing > Tops", "Clothing", None, "Clothing > Tops", "Clothing > Tops > Shirts", "Toys", ""]
    kinds = leaf_categories(paths)
    assert [kind >= 0 for kind in kinds] == [False, False, False, False, True, True, False]
    assert kinds[4] != kinds[5]
    assert len({*leaf_categories(["A > B", "A > B", "C > B"]).tolist()}) == 2
