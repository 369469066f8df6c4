"""The window of a search: the candidates that its pages are cut from, kept between two pages where that is possible."""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass

from mercato.catalogue.products import ProductDocument
from mercato.retrieval.expression import Filters, category_path
from mercato.retrieval.protocol import Hits
from mercato.search.paging import shown_as

_AT_ONCE = 32  # ids read


@dataclass(frozen=True)
class Window:
    """The best candidates of a search, in its order; `whole` where the index has no more of them."""

    hits: Hits
    candidates: int  # that each part was asked for
    whole: bool

    def unseen(self, shown: Set[bytes]) -> Iterator[int]:
        """The places of those that have not been shown, best first."""
        for start in range(0, len(self.hits), _AT_ONCE):
            some = self.hits[start : start + _AT_ONCE].product_ids
            yield from (place for place, key in enumerate(some, start) if not shown or shown_as(key) not in shown)


def satisfies(product: ProductDocument, filters: Filters) -> bool:
    """Whether a product as it is stored now meets the filters, but for `near`, which its distance tells."""
    price = product["price"]
    own = {key.casefold(): (value or "").casefold() for key, value in (product["attributes"] or {}).items()}
    path = category_path(product["category"] or "")
    return (
        (filters.category is None or f"{path} > ".startswith(f"{filters.category} > "))
        and (filters.price_min is None or (price is not None and price >= filters.price_min))
        and (filters.price_max is None or (price is not None and price <= filters.price_max))
        and (not filters.conditions or product["condition"] in filters.conditions)
        and (filters.country is None or (product["country"] or "").strip().lower() == filters.country)
        and (filters.seller_id is None or product["seller_id"] == filters.seller_id)
        and all(own.get(key.casefold()) == value.casefold() for key, value in filters.attributes.items())
    )
