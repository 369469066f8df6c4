"""What the log and the catalogue said before a moment, by key: see `mercato.ranking.counting`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from mercato.ranking.lookup import Keys, Lookup, mixed
from mercato.retrieval.signals import SignalColumns

_TABLES = ("products", "sellers", "conditions", "categories", "query_categories", "queries", "prices", "words")


@dataclass(frozen=True, eq=False)
class Statistics:
    """Tables by key (see `mercato.ranking.lookup`). Rates are three values: clicks over expected clicks, steps along
    the chain a click, and log(1 + impressions a day).
    """

    products: Lookup  # rates
    sellers: Lookup  # rates
    conditions: Lookup  # rates
    categories: Lookup  # rates
    query_categories: Lookup  # by query and category: rates, and the category's share of the query's clicks
    queries: Lookup  # log(1 + searches a day), entropy of the clicked categories (nats), median price engaged with
    prices: Lookup  # by category or department and currency: the median price
    words: Lookup  # by the hash of a word: its inverse document frequency

    def save(self, file: Path) -> None:
        """Write them (.npz)."""
        tables = {name: getattr(self, name) for name in _TABLES}
        keys = {f"{name}_keys": table.keys_n for name, table in tables.items()}
        np.savez(file, **keys, **{f"{name}_values": table.values_nV for name, table in tables.items()})

    @classmethod
    def load(cls, file: Path) -> Self:
        """What `save` wrote."""
        with np.load(file) as arrays:
            return cls(**{name: Lookup(arrays[f"{name}_keys"], arrays[f"{name}_values"]) for name in _TABLES})


def price_keys(columns: SignalColumns, name: str) -> Keys:
    """What each product's price is compared by: its category or department, and its currency; one that is not named is
    the market's.
    """
    return mixed(columns.key(name), np.maximum(columns.key("currency"), np.uint64(1)))
