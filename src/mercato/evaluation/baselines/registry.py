"""The baselines beside every model: their names in JSON, what people call them, and what each says in a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Baseline:
    """One line of the registry."""

    label: str  # for people
    meaning: str


BASELINES: Mapping[str, Baseline] = {
    "bm25f": Baseline(
        "BM25F",
        "Words in common, each field with a weight of its own, stemmed, unknown words forgiven a slip: a search without"
        " learning that is tuned.",
    ),
    "bm25": Baseline("BM25", "Words that query and product share, the rare ones first, all fields alike."),
    "random": Baseline("Random", "Chance."),
    "impressions": Baseline(
        "Impressions",
        "How often the pair was shown in the measured days themselves: no system, but what exposure alone explains.",
    ),
    "popularity": Baseline(
        "Popularity",
        "How often people who were shown the product on earlier days engaged with it, whatever the query.",
    ),
    "price": Baseline("Price", "How cheap the product is against the median of its category, currency and country."),
    "popular": Baseline("Most popular", "The commonest queries of the training days, for every product the same."),
}
