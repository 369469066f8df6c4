from __future__ import annotations

from mercato.training.data.prepare import prepare
from tests.support.toys import make_market, pairs, products, toy_recipe


def test_positives_alone_validate_against_random_products(tmp_path):
    links = [row for row in pairs(products()) if row["label"]]
    market = make_market(tmp_path / "market", links=links)
    validation = prepare(market, toy_recipe(), tmp_path).validation
    assert validation is not None
    rows = list(zip(validation.query_N, validation.product_N, validation.label_N, strict=True))
    positive = {(query, product) for query, product, label in rows if label}
    negative = {(query, product) for query, product, label in rows if not label}
    assert positive and negative and not positive & negative
