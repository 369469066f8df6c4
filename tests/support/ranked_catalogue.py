"""A catalogue in the reference engine, and what a log counts of it."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime
from uuid import uuid4

import numpy as np
import polars as pl
import pytest

from mercato.ranking.counting import count
from mercato.retrieval.expression import Expression
from mercato.retrieval.open import ENGINES, build_index, open_index
from mercato.retrieval.protocol import record_from_product
from mercato.retrieval.samples import DIMENSION
from tests.support import reference_engine

NOW = datetime(2026, 5, 1, tzinfo=UTC)
NO_LISTS = pl.DataFrame(
    schema={"list_id": pl.String, "query": pl.String, "country": pl.String, "day": pl.Date, "product_id": pl.String}
    | {"position": pl.Int64, "depth": pl.Int64, "split": pl.String}
)


@contextmanager
def indexed(products):
    """The reference engine over these products, each with a random vector."""
    url = f"memory://{uuid4()}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENGINES, "memory", reference_engine.MODULE)
        vectors = np.random.default_rng(0).normal(size=(len(products), DIMENSION)).astype(np.float32)
        build_index(url, map(record_from_product, products, vectors), DIMENSION)
        with open_index(url) as index:
            yield index


def counts_of(index, lists=NO_LISTS, as_of=NOW, *config):
    """What these lists say of all that an index holds."""
    catalogue = index.lookup(Expression(), sorted(index.search(Expression(), max(1, len(index))).product_ids))
    return count(lists, catalogue.product_ids, catalogue.signals(), as_of, *config)
