"""Why a product is near a query: how much the cosine falls without each word, and without each field of the product.

This is Que2Search's feature ablation (§3.7.2) for one pair, with what a person can name in place of channels.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from fastapi import HTTPException
from numpy.typing import NDArray

from mercato.catalogue.store import Catalogue, Product
from mercato.catalogue.worker import product_rows
from mercato.data.words import words
from mercato.features.drop import fields_read
from mercato.runs.encoder import Encoder, RunEncoder
from mercato.serving.bodies import ExplainIn

MOST_WORDS = 24  # of a query that are left out, one at a time
LEAST_CHANGE = 1e-4  # of the cosine; a field that moves it less says nothing
EMPTY = {"title": "", "attributes": {}}  # what a field becomes; any other becomes None
SEARCHED = ("title", "description", "brand", "category")  # what BM25 reads, beside the attributes' values


class Explainer:
    """Takes pairs of the catalogue's products and any queries apart; safe to share between threads."""

    def __init__(self, encoder: Encoder, catalogue: Catalogue) -> None:
        self._encoder, self._catalogue = encoder, catalogue

    def explain(self, request: ExplainIn) -> dict[str, Any]:
        """One pair as it is now, in the JSON of `ExplainOut`.

        Raises:
            HTTPException: 404 where there is no such product.
        """
        products = product_rows(self._catalogue.full([request.product_id]))
        if not products:
            raise HTTPException(404, "product_id: no such product")
        fields, product = self._fields(products[0]), self._with_image_vectors(products[0])
        vectors = self._encoder.encode_products([product, *(_without(product, name) for name in fields)])

        query, country = request.query, request.country
        shortened = _each_left_out(query.split())
        asked = np.concatenate(
            [self._encoder.encode_queries([query], country), self._once(shortened.values(), country)]
        )
        cosine = float(asked[0] @ vectors[0])
        by_field = dict(zip(fields, (cosine - vectors[1:] @ asked[0]).tolist(), strict=True))
        by_word = (cosine - asked[1:] @ vectors[0]).tolist()
        by_query = {}
        if country is not None:
            by_query["country"] = cosine - float(self._once([query])[0] @ vectors[0])
        said = [*(product.get(name) for name in SEARCHED), *(product.get("attributes") or {}).values()]
        held = set(words(" \n ".join(filter(None, said))))
        return {
            "cosine": cosine,
            "words": [
                {
                    "word": word,
                    "change": change,
                    "shared": not held.isdisjoint(found) if (found := words(word)) else None,
                }
                for (_, word), change in zip(shortened, by_word, strict=True)
            ],
            "query": _told(by_query),
            "product": _told(by_field),
        }

    def _with_image_vectors(self, product: Product) -> Product:
        """Its photos turned into vectors once, and not for every field that is left out; counted as they were."""
        found = self._encoder.image_vectors([product]) if isinstance(self._encoder, RunEncoder) else None
        if found is None:
            return product
        count = len(product.get("images") or product.get("image_embeddings") or ())
        return product | {"images": None, "image_embeddings": found[0], "image_count": count}

    def _once(self, queries: Collection[str], country: str | None = None) -> NDArray[np.float32]:
        """Vectors of queries that nobody asked: a cache must not keep them in place of those that people do ask."""
        encoder = self._encoder
        encode = encoder.encode_queries_once if isinstance(encoder, RunEncoder) else encoder.encode_queries
        return encode(list(queries), country)

    def _fields(self, product: Product) -> list[str]:
        """The product's fields that the encoder reads; its photos are `images`, also where given as vectors."""
        aside = ("product_id", "images", "image_embeddings")
        fields = [name for name, value in product.items() if name not in aside and value not in (None, "", {})]
        if product.get("images") or product.get("image_embeddings"):
            fields.append("images")
        if not isinstance(self._encoder, RunEncoder):
            return fields
        read = {field.partition(".")[0] for field in fields_read(self._encoder.featurizer.spec)}  # attributes.NAME
        return [name for name in fields if name in read]


def _each_left_out(texts: list[str]) -> dict[tuple[int, str], str]:
    """Of the first words, each with its place: the query without it."""
    return {(n, word): " ".join(texts[:n] + texts[n + 1 :]) for n, word in enumerate(texts[:MOST_WORDS])}


def _without(product: Product, field: str) -> Product:
    if field == "images":
        return product | dict.fromkeys(("images", "image_embeddings", "image_count"))
    return product | {field: EMPTY.get(field)}


def _told(changes: dict[str, float]) -> list[dict[str, Any]]:
    """The features that change anything, the weightiest first."""
    ranked = sorted(changes.items(), key=lambda item: -abs(item[1]))
    return [{"feature": name, "change": change} for name, change in ranked if abs(change) >= LEAST_CHANGE]
