"""Human raters, simulated: they grade listings by the guideline of `relevance.grade`, and err a little."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from mercato.data.schema import JUDGMENTS
from mercato.simulation.engine import Engine
from mercato.simulation.listings import Catalogue
from mercato.simulation.ontology import COUNTRIES
from mercato.simulation.queries import Demand, Query
from mercato.simulation.relevance import Ints, grade

RATERS = 8
ERROR = 0.04  # judgments that slip to a neighbouring grade
CANDIDATES = {"lexical": 18, "answers": 8, "same type": 8, "near": 8, "random": 10}
VALIDATION = 0.23


def judge(catalogue: Catalogue, engine: Engine, demand: Demand, count: int, chance: np.random.Generator) -> pa.Table:
    """Judgments of `count` queries.

    Queries are drawn by weight^0.8, so the tail has its share; a query whose answers are not in
    the catalogue (no listing satisfies it) is not judged. Validation and test share no query string.
    """
    weights = demand.weights**0.8
    order = chance.choice(len(demand.queries), len(demand.queries), replace=False, p=weights / weights.sum())
    validation = chance.permutation(count) < round(VALIDATION * count)
    texts: set[str] = set()
    columns: dict[str, list[object]] = {name: [] for name in JUDGMENTS.names}
    for number in order:
        query = demand.queries[number]
        if query.text in texts:
            continue
        rows = _candidates(catalogue, engine, query, chance)
        grades = grade(query.intent, catalogue.things, rows)
        if not (grades == 1.0).any():
            continue
        texts.add(query.text)
        split = "validation" if validation[len(texts) - 1] else "test"
        wrong = chance.random(len(rows)) < ERROR
        given = np.where(
            wrong, np.where(grades == 0.5, np.where(chance.random(len(rows)) < 0.5, 0.0, 1.0), 0.5), grades
        )
        for row, value in zip(rows.tolist(), given.tolist(), strict=True):
            columns["query"].append(query.text)
            columns["country"].append(COUNTRIES[query.country].code)
            columns["product_id"].append(catalogue.ids[row])
            columns["grade"].append(value)
            columns["rater"].append(f"r{int(chance.integers(RATERS))}")
            columns["split"].append(split)
        if len(texts) == count:
            break
    return pa.table(columns, schema=JUDGMENTS)


def _candidates(catalogue: Catalogue, engine: Engine, query: Query, chance: np.random.Generator) -> Ints:
    """About 40 listings of the query's country: what words find, what answers, the same type, near types, anything."""
    rows = engine.country_rows(query.country)
    grades = grade(query.intent, catalogue.things, rows)
    same = (catalogue.things.type[rows] == query.intent.type).any(1)
    pools = {
        "lexical": engine.matches(query.text, query.country)[0],
        "answers": rows[grades == 1.0],
        "same type": rows[same],
        "near": rows[(grades == 0.5) & ~same],
        "random": rows,
    }
    picked = [chance.permutation(pools[name])[:size] for name, size in CANDIDATES.items()]
    return chance.permutation(np.unique(np.concatenate(picked)))
