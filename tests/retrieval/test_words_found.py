from __future__ import annotations

import numpy as np
import pytest

from mercato.retrieval.expression import Expression
from mercato.retrieval.protocol import IndexRecord
from tests.support.catalogues import DIMENSION, vectors


@pytest.mark.parametrize(
    ("title", "query"),
    [
        ("Lego 75192 falcon", "75192"),
        ("Calendar 2023", "2023"),
        ("Sony XR-5521 radio", "5521"),
        ('Monitor 24" curved', '24"'),
        ("红色沙发", "沙发红色"),
        ("Mueble años 50", "anos"),
    ],
)
def test_the_index_finds_them(empty, title, query):
    given = vectors(np.random.default_rng(0), 2)
    assert given.shape[1] == DIMENSION
    empty.upsert([IndexRecord("p1", given[0], title=title), IndexRecord("p2", given[1], title="something else")])
    assert [hit.product_id for hit in empty.search(Expression(text=query), 5)] == ["p1"]
    empty.delete(["p1", "p2"])
