"""What is hidden from every model, written to `truth/` for tests and diagnosis."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from mercato.simulation.engine import Engine
from mercato.simulation.listings import Catalogue
from mercato.simulation.ontology import COLOURS, CONDITIONS, COUNTRIES, MATERIALS, PATTERNS, TYPES
from mercato.simulation.queries import Demand


def true_products(catalogue: Catalogue) -> pa.Table:
    """What is really in each listing: for tests and diagnosis, never for a model."""
    first = [listing.looks[0] for listing in catalogue.listings]
    says = np.array([listing.text_says for listing in catalogue.listings])
    return pa.table(
        {
            "product_id": catalogue.ids,
            "types": [[TYPES[look.type].key for look in listing.looks] for listing in catalogue.listings],
            "type": [TYPES[look.type].key for look in first],
            "colour": [look.colour for look in first],
            "pattern": [look.pattern for look in first],
            "material": [look.material for look in first],
            "brand": [listing.true_brand for listing in catalogue.listings],
            "size": [listing.true_size for listing in catalogue.listings],
            "true_category": [TYPES[look.type].category for look in first],
            "text_says_colour": says[:, 0],
            "text_says_pattern": says[:, 1],
            "text_says_material": says[:, 2],
            "unfairness": catalogue.unfairness,
            "condition": [CONDITIONS[number] for number in catalogue.condition],
        }
    )


def true_queries(demand: Demand, engine: Engine) -> pa.Table:
    """The wish behind every query string that can be typed, and how many listings share a word with it."""
    queries = demand.queries
    wishes = [query.intent for query in queries]

    def named(names: tuple[str, ...], numbers: list[int]) -> list[str | None]:
        return [names[number] if number >= 0 else None for number in numbers]

    return pa.table(
        {
            "query": [query.text for query in queries],
            "country": [COUNTRIES[query.country].code for query in queries],
            "language": [query.language for query in queries],
            "misspelled": [query.typo for query in queries],
            "kind": [query.kind for query in queries],
            "weight": demand.weights,
            "type": [TYPES[wish.type].key for wish in wishes],
            "colour": named(COLOURS, [wish.colour for wish in wishes]),
            "pattern": named(PATTERNS, [wish.pattern for wish in wishes]),
            "material": named(MATERIALS, [wish.material for wish in wishes]),
            "brand": [wish.brand or None for wish in wishes],
            "size": [wish.size or None for wish in wishes],
            "lexical_matches": [len(engine.matches(query.text, query.country)[0]) for query in queries],
        }
    )
