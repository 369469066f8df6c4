"""Encoders: the protocol, and what the encoders of a run share, whatever runs its towers. No torch here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mercato.config import Recipe
from mercato.errors import MercatoError
from mercato.features.featurizer import Features, Featurizer
from mercato.features.images import checked_vectors
from mercato.fields import channel_fields
from mercato.runs.image_encoder import ImageEncoder
from mercato.runs.query_head import NO_HEAD, QueryHead

BATCH = 128


class Encoder(Protocol):
    """Maps queries and products into one space in which the inner product is their cosine."""

    @property
    def dimension(self) -> int:
        """The length d of a vector."""
        ...

    def encode_queries(self, queries: Sequence[str], country: str | None = None) -> NDArray[np.float32]:
        """Encode queries of searchers in one country: float32 (n, d), unit length."""
        ...

    def encode_products(
        self, products: pa.Table | Sequence[Mapping[str, Any]], *, as_of: datetime | None = None
    ) -> NDArray[np.float32]:
        """Encode rows of the products schema: float32 (n, d), unit length.

        `as_of` is the moment at which listings have their age, for an encoder that reads it; None: the clock's.
        """
        ...


class RunEncoder(ABC):
    """Encoder of raw queries and products: features as trained, images through the run's image encoder, then a tower.

    Subclasses run the towers: `mercato.runs.torch_encoder.TorchEncoder`, and `mercato.runs.onnx_encoder.OnnxEncoder`.
    """

    def __init__(
        self,
        recipe: Recipe,
        featurizer: Featurizer,
        image_encoder: ImageEncoder | None,
        market_path: Path | None = None,
        threads: int = 1,
    ) -> None:
        """`threads` batches of products are encoded at once."""
        self.recipe, self.featurizer, self.image_encoder = recipe, featurizer, image_encoder
        self.threads = threads
        self.market_path = market_path  # where relative image paths of products start

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self.recipe.dimension

    @abstractmethod
    def query_vectors(self, features: Features) -> NDArray[np.float32]:
        """The query tower on a batch of features → (B, D)."""

    @abstractmethod
    def product_vectors(self, features: Features) -> NDArray[np.float32]:
        """The product tower on a batch of features → (B, D)."""

    @property
    @abstractmethod
    def query_head(self) -> QueryHead | None:
        """The run's classification head; None where it was trained without."""

    def encode_queries(self, queries: Sequence[str], country: str | None = None) -> NDArray[np.float32]:
        """Query vectors (n, D) float32, unit length, of searchers in `country`."""
        return self.encode_queries_once(queries, country)

    def encode_queries_once(self, queries: Sequence[str], country: str | None = None) -> NDArray[np.float32]:
        """As `encode_queries`, for strings that nobody will ask again: past every cache."""
        batches = [
            self.query_vectors(self.featurizer.queries(batch, [country] * len(batch))) for batch in _batches(queries)
        ]
        return np.concatenate(batches) if batches else np.zeros((0, self.dimension), np.float32)

    def encode_products(
        self, products: pa.Table | Sequence[Mapping[str, Any]], *, as_of: datetime | None = None
    ) -> NDArray[np.float32]:
        """Product vectors (n, D) float32, unit length, of rows of the products schema; any column may be missing.

        `image_embeddings` are used in place of `images` where given; images that cannot be read are left out.
        Listings have the age that they had at `as_of`; None: the clock's.
        """
        rows = products.to_pylist() if isinstance(products, pa.Table) else products
        vectors = np.empty((len(rows), self.dimension), np.float32)

        def encode(places: Sequence[int]) -> None:
            batch = [rows[place] for place in places]
            vectors[places] = self.product_vectors(self.featurizer.products(batch, self.image_vectors(batch), as_of))

        # A batch is padded to its longest text, so rows of like length go together.
        batches = _batches(sorted(range(len(rows)), key=lambda place: _length(rows[place])))
        if self.threads > 1 and len(batches) > 1:
            with ThreadPoolExecutor(self.threads) as pool:
                any(pool.map(encode, batches))  # raises what one of them raises
        else:
            any(map(encode, batches))
        return vectors

    def predict_queries(
        self, products: pa.Table | Sequence[Mapping[str, Any]], k: int = 10
    ) -> list[list[tuple[str, float]]]:
        """Query prediction (Que2Search §3.1.1): the k queries that each product most likely answers, best first.

        Args:
            products: as for `encode_products`.
            k: how many.

        Returns:
            For each product its (query, probability), the probabilities a softmax over all queries that the head knows.

        Raises:
            MercatoError: the run has no classification head.
        """
        if self.query_head is None:
            raise MercatoError(f"run {self.recipe.name}: {NO_HEAD}")
        return self.query_head.predict(self.encode_products(products), k)

    def image_vectors(self, products: Sequence[Mapping[str, Any]]) -> list[NDArray[np.float32] | None] | None:
        """Each product's `image_embeddings`, else those of its images: (n, V), in patches (n, P, V), None for none.

        None in place of the list where the towers read no images.

        Raises:
            MercatoError: given vectors are not finite vectors of as many numbers as an image has.
        """
        spec = self.featurizer.spec
        if "images" not in channel_fields(spec.product_channels):
            return None
        vectors: list[NDArray[np.float32] | None] = []
        for product in products:
            given = product.get("image_embeddings")
            some = given is not None and len(given) > 0
            vectors.append(checked_vectors(given, spec.image_shape, product) if some else None)
        if self.image_encoder is not None:
            without = [place for place, own in enumerate(vectors) if own is None]
            images = (products[place].get("images") for place in without)
            encoded = self.image_encoder.encode(images, self.market_path or Path(), spec.max_images)
            for place, own in zip(without, encoded, strict=True):
                vectors[place] = own if len(own) else None
        return vectors


def _length(product: Mapping[str, Any]) -> int:
    return len(product.get("title") or "") + len(product.get("description") or "")


def _batches(items: Sequence[Any]) -> list[Sequence[Any]]:
    return [items[start : start + BATCH] for start in range(0, len(items), BATCH)]
