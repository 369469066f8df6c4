from __future__ import annotations

from mercato.training.data.prepare import prepare
from tests.support.toys import make_market, products, toy_recipe


def test_duplicate_ids_keep_their_own_images(tmp_path):
    goods = [row | {"image_embeddings": [[float(i), 1.0]]} for i, row in enumerate(products())]
    market = make_market(tmp_path / "market", [goods[0], goods[0] | {"image_embeddings": [[-1.0, 1.0]]}, *goods[1:]])
    prepared = prepare(market, toy_recipe(), tmp_path)
    assert prepared.tables.products["images"][:, 0, 0].tolist() == list(range(len(goods)))
