"""What people would search a product as: the run's classification head over the catalogue (Que2Search §3.1.1)."""

from __future__ import annotations

from typing import Any

from fastapi import HTTPException

from mercato.catalogue.store import Catalogue
from mercato.catalogue.worker import product_rows
from mercato.runs.encoder import Encoder
from mercato.runs.query_head import NO_HEAD, QueryHead


class Understanding:
    """Predicts queries for the catalogue's products, where the encoder has a head; safe to share between threads."""

    def __init__(self, encoder: Encoder, catalogue: Catalogue) -> None:
        self._encoder, self._catalogue = encoder, catalogue
        head = getattr(encoder, "query_head", None)
        self._head = head if isinstance(head, QueryHead) else None

    @property
    def queries(self) -> int:
        """How many queries the head knows; 0 where there is none."""
        return len(self._head.queries) if self._head else 0

    def likely_queries(self, product_id: str, k: int) -> list[dict[str, Any]]:
        """The k likeliest queries of a product as it is stored now, in the JSON of `LikelyQueryOut`.

        Raises:
            HTTPException: 404 where the model has no head, or there is no such product.
        """
        if self._head is None:
            raise HTTPException(404, f"queries: the model has {NO_HEAD}")
        products = product_rows(self._catalogue.full([product_id]))
        if not products:
            raise HTTPException(404, "product_id: no such product")
        (likely,) = self._head.predict(self._encoder.encode_products(products), k)
        return [{"query": query, "probability": min(1.0, probability)} for query, probability in likely]
