"""The first pages that answer an evaluation's queries, as a server would answer them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mercato.evaluation.dataset import EvaluationSet
from mercato.evaluation.metrics.arrays import BoolArray, IntArray
from mercato.progress import track
from mercato.retrieval.expression import Filters
from mercato.search.pipeline import Searcher
from mercato.search.request import Mode, SearchRequest


@dataclass(frozen=True, eq=False)
class FirstPages:
    """The first pages of Q queries, of K products at most."""

    products_QK: IntArray  # their rows in the evaluation's catalogue, best first, -1 where a page has ended
    by_vector_QK: BoolArray  # the words did not bring it
    ranked_by_Q: NDArray[np.str_]  # the last ranking stage that ordered the page, "" for none


def first_pages(
    searcher: Searcher, dataset: EvaluationSet, queries_Q: IntArray, size: int, mode: Mode = "hybrid"
) -> FirstPages:
    """Search for these queries (rows of the evaluation's), within the searcher's country where the evaluation does."""
    row_of = {product_id: row for row, product_id in reversed([*enumerate(dataset.product_ids)])}
    products_QK = np.full((len(queries_Q), size), -1, np.int64)
    by_vector_QK = np.zeros((len(queries_Q), size), bool)
    ranked_by: list[str] = []
    for place, query in enumerate(track(queries_Q.tolist(), "first pages")):
        text, country = dataset.queries.row(query)
        filters = Filters() if dataset.countries is None else Filters(country=country)
        page = searcher.search(SearchRequest(query=text, country=country, filters=filters, page_size=size, mode=mode))
        for rank, hit in enumerate(page.hits):
            products_QK[place, rank] = row_of[hit.product["product_id"]]
            by_vector_QK[place, rank] = "text" not in hit.hit.found_by
        ranked_by.append(page.ranked_by or "")
    return FirstPages(products_QK, by_vector_QK, np.array(ranked_by, np.str_))
