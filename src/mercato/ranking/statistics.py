"""What the log and the catalogue said before a moment, by key: see `mercato.ranking.counting`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from mercato.ranking.lookup import Keys, Lookup
from mercato.retrieval.signals import SignalColumns

_TABLES = (
    "products", "sellers", "conditions", "categories", "query_categories", "queries", "query_prices",
    "category_prices", "department_prices", "market_prices", "words",
)  # fmt: skip


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
    queries: Lookup  # log(1 + searches a day), entropy of the clicked categories (nats)
    query_prices: Lookup  # by query and currency: the median price engaged with
    category_prices: Lookup  # by category and currency: the median price
    department_prices: Lookup  # by department and currency: the median price
    market_prices: Lookup  # by currency: the median price
    words: Lookup  # by the hash of a word: its inverse document frequency
    mean_words_S: NDArray[np.float32]  # of each section but the trigrams, over the products that fill it in; at least 1
    currency: np.uint64  # the market's own, which prices without one are in

    @cached_property
    def rarest(self) -> float:
        """The inverse document frequency of a word that no product has."""
        return float(self.words.values_nV.max(initial=1.0))

    def currencies(self, columns: SignalColumns) -> Keys:
        """The key of each product's currency, (H,)."""
        return named_currencies(columns, self.currency)

    def save(self, file: Path) -> None:
        """Write them (.npz)."""
        tables = {name: getattr(self, name) for name in _TABLES}
        keys = {f"{name}_keys": table.keys_n for name, table in tables.items()}
        values = {f"{name}_values": table.values_nV for name, table in tables.items()}
        np.savez(file, currency=self.currency, mean_words_S=self.mean_words_S, **keys, **values)

    @classmethod
    def load(cls, file: Path) -> Self:
        """What `save` wrote."""
        with np.load(file, allow_pickle=False) as arrays:
            tables = {name: Lookup(arrays[f"{name}_keys"], arrays[f"{name}_values"]) for name in _TABLES}
            return cls(**tables, mean_words_S=arrays["mean_words_S"], currency=arrays["currency"][()])


def named_currencies(columns: SignalColumns, of_market: np.uint64) -> Keys:
    """The key of each product's currency, (H,): the market's where it names none."""
    keys_H = columns.key("currency")
    return np.where(keys_H == 0, of_market, keys_H)
