"""At which moments listings were given an age."""

from __future__ import annotations

from datetime import datetime

import pytest

from mercato.features.featurizer import Featurizer


@pytest.fixture
def moments(monkeypatch: pytest.MonkeyPatch) -> set[datetime | None]:
    """The `as_of` of every table of products featurised in the test; None where it was the clock's."""
    seen: set[datetime | None] = set()
    whole = Featurizer.products

    def products(self, rows, images=None, as_of=None):
        seen.add(as_of)
        return whole(self, rows, images, as_of)

    monkeypatch.setattr(Featurizer, "products", products)
    return seen
