"""Why a product is near a query: how much the cosine falls without each word, and without each field of the product.

This is Que2Search's feature ablation (§3.7.2) for one pair, with what a person can name in place of channels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import HTTPException

from mercato.models.encoder import Encoder
from mercato.models.run import RunEncoder
from mercato.serving.catalogue import Catalogue, Product
from mercato.serving.ingestion import product_rows
from mercato.serving.wire import ExplainIn
from mercato.text.words import words

MOST_WORDS = 24  # of a query that are left out, one at a time
LEAST_CHANGE = 1e-4  # of the cosine; a field that moves it less is not read, or says nothing
EMPTY = {"title": "", "attributes": {}}  # what a field becomes; any other becomes None
SEARCHED = ("title", "description", "brand", "category")  # what BM25 reads


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
        fields, product = _fields(products[0]), self._with_image_vectors(products[0])
        vectors = self._encoder.encode_products([product, *(_without(product, name) for name in fields)])

        query, country = request.query, request.country
        shortened = _each_left_out(query.split())
        asked = self._encoder.encode_queries([query, *shortened.values()], country)
        cosine = float(asked[0] @ vectors[0])
        by_field = dict(zip(fields, (cosine - vectors[1:] @ asked[0]).tolist(), strict=True))
        by_word = (cosine - asked[1:] @ vectors[0]).tolist()
        by_query = {}
        if country is not None:
            by_query["country"] = cosine - float(self._encoder.encode_queries([query])[0] @ vectors[0])
        held = set(words(" \n ".join(filter(None, (product.get(name) for name in SEARCHED)))))
        return {
            "cosine": cosine,
            "words": [
                {"word": word, "change": change, "shared": not held.isdisjoint(words(word))}
                for (_, word), change in zip(shortened, by_word, strict=True)
            ],
            "query": _told(by_query),
            "product": _told(by_field),
        }

    def _with_image_vectors(self, product: Product) -> Product:
        """Its photos turned into vectors once, and not for every field that is left out."""
        encoder, photos = self._encoder, product.get("images")
        if not photos or product.get("image_embeddings"):
            return product
        if not isinstance(encoder, RunEncoder) or encoder.image_encoder is None:
            return product
        limit = encoder.featurizer.spec.max_images
        (vectors,) = encoder.image_encoder.encode([photos], encoder.market_path or Path(), limit)
        return product | {"images": None, "image_embeddings": list(vectors)}


def _fields(product: Product) -> list[str]:
    """The fields that the product has; its photos are `images`, also where they are given as vectors."""
    aside = ("product_id", "images", "image_embeddings")
    fields = [name for name, value in product.items() if name not in aside and value not in (None, "", {})]
    return [*fields, "images"] if product.get("images") or product.get("image_embeddings") else fields


def _each_left_out(texts: list[str]) -> dict[tuple[int, str], str]:
    """Of the first words, each with its place: the query without it."""
    return {(n, word): " ".join(texts[:n] + texts[n + 1 :]) for n, word in enumerate(texts[:MOST_WORDS])}


def _without(product: Product, field: str) -> Product:
    blank = {field: EMPTY.get(field)}
    return product | (blank | {"image_embeddings": None} if field == "images" else blank)


def _told(changes: dict[str, float]) -> list[dict[str, Any]]:
    """The features that change anything, the weightiest first."""
    ranked = sorted(changes.items(), key=lambda item: -abs(item[1]))
    return [{"feature": name, "change": change} for name, change in ranked if abs(change) >= LEAST_CHANGE]
