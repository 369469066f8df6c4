"""Feature ablation of one pair: how much a cosine falls without each word, and without each field of the product.

This is Que2Search's (§3.7.2) for a single query and product, with what a person can name in place of channels.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mercato.catalogue.products import Product
from mercato.catalogue.store import Catalogue
from mercato.data.words import words
from mercato.errors import NotFoundError
from mercato.features.drop import drop_fields, fields_read
from mercato.fields import FIELDS, SEARCHED
from mercato.runs.encoder import Encoder, RunEncoder

MOST_WORDS = 24  # of a query that are left out, one at a time
LEAST_CHANGE = 1e-4  # of the cosine; a field that moves it less says nothing


class Explainer:
    """Feature ablation of queries with the catalogue's products; safe to share between threads."""

    def __init__(self, encoder: Encoder, catalogue: Catalogue) -> None:
        self._encoder, self._catalogue = encoder, catalogue
        self._run = encoder if isinstance(encoder, RunEncoder) else None  # of which more is known than the protocol

    def explain(self, query: str, product_id: str, country: str | None = None) -> dict[str, Any]:
        """The changes of one pair's cosine as it is now.

        Args:
            query: what was searched for; the first words are left out, one at a time.
            product_id: of a product of the catalogue.
            country: the searcher's.

        Returns:
            {"cosine", "words": [{"word", "change", "shared"}], "query" and "product": [{"feature", "change"}]}; a
            change is the cosine with it less the cosine without it, `shared` whether the product has the word too.

        Raises:
            NotFoundError: there is no such product.
        """
        products = [product.row() for product in self._catalogue.products.load([product_id])]
        if not products:
            raise NotFoundError("product_id: no such product")
        fields, product = self._fields(products[0]), self._with_image_vectors(products[0])
        vectors = self._encoder.encode_products([product, *(drop_fields(product, [name]) for name in fields)])

        shortened = _each_left_out(query.split())
        queries = np.concatenate(
            [self._encoder.encode_queries([query], country), self._once(shortened.values(), country)]
        )
        cosine = float(queries[0] @ vectors[0])
        by_field = dict(zip(fields, (cosine - vectors[1:] @ queries[0]).tolist(), strict=True))
        by_word = (cosine - queries[1:] @ vectors[0]).tolist()
        by_query = {}
        if country is not None:
            by_query["country"] = cosine - float(self._once([query])[0] @ vectors[0])
        texts = (product.get(name) for name in SEARCHED if name != "attributes")
        said = [*texts, *(product.get("attributes") or {}).values()]
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
            "query": _ranked(by_query),
            "product": _ranked(by_field),
        }

    def _with_image_vectors(self, product: Product) -> Product:
        """Its images encoded once, and not for every field that is dropped; counted as they were."""
        found = self._run.image_vectors([product]) if self._run else None
        if found is None:
            return product
        count = len(product.get("images") or product.get("image_embeddings") or ())
        vectors = None if found[0] is None else found[0].reshape(len(found[0]), -1)  # patches end to end
        return product | {"images": None, "image_embeddings": vectors, "image_count": count}

    def _once(self, queries: Collection[str], country: str | None = None) -> NDArray[np.float32]:
        """Vectors of queries that nobody searched for: a cache must not keep them in place of real ones."""
        encode = self._run.encode_queries_once if self._run else self._encoder.encode_queries
        return encode(list(queries), country)

    def _fields(self, product: Product) -> list[str]:
        """The fields that the product has and the encoder reads; all attributes are one."""
        nothing: tuple[Any, ...] = (None, "", {}, [])
        fields = [f.name for f in FIELDS.values() if any(product.get(column) not in nothing for column in f.columns)]
        if self._run is None:
            return fields
        read = {field.partition(".")[0] for field in fields_read(self._run.featurizer.spec)}  # attributes.NAME
        return [name for name in fields if name in read]


def _each_left_out(texts: list[str]) -> dict[tuple[int, str], str]:
    """Of the first words, each with its place: the query without it."""
    return {(n, word): " ".join(texts[:n] + texts[n + 1 :]) for n, word in enumerate(texts[:MOST_WORDS])}


def _ranked(changes: dict[str, float]) -> list[dict[str, Any]]:
    """The features that change anything, the weightiest first."""
    ranked = sorted(changes.items(), key=lambda item: -abs(item[1]))
    return [{"feature": name, "change": change} for name, change in ranked if abs(change) >= LEAST_CHANGE]
