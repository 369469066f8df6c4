"""Query prediction: what people would search a product as, by the run's classification head (Que2Search §3.1.1)."""

from __future__ import annotations

from dataclasses import dataclass

from mercato.catalogue.store import Catalogue
from mercato.errors import NotFoundError
from mercato.runs.encoder import Encoder
from mercato.runs.query_head import NO_HEAD, QueryHead


@dataclass(frozen=True)
class PredictedQuery:
    """A query that people may search a product as, and its softmax probability among all that the head knows."""

    query: str
    probability: float


class QueryPredictor:
    """Predicts queries for the catalogue's products, where the encoder has a head; safe to share between threads."""

    def __init__(self, encoder: Encoder, catalogue: Catalogue) -> None:
        self._encoder, self._catalogue = encoder, catalogue
        head = getattr(encoder, "query_head", None)
        self._head = head if isinstance(head, QueryHead) else None

    @property
    def queries(self) -> int:
        """How many queries the head knows; 0 where there is none."""
        return len(self._head.queries) if self._head else 0

    def predict(self, product_id: str, k: int) -> list[PredictedQuery]:
        """The k most probable queries of a product as it is stored now, best first.

        Raises:
            NotFoundError: the model has no head, or there is no such product.
        """
        if self._head is None:
            raise NotFoundError(f"queries: the model has {NO_HEAD}")
        products = [product.row() for product in self._catalogue.products.load([product_id])]
        if not products:
            raise NotFoundError("product_id: no such product")
        (predicted,) = self._head.predict(self._encoder.encode_products(products), k)
        return [PredictedQuery(query, min(1.0, probability)) for query, probability in predicted]
