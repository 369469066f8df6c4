"""Image vectors of a whole catalogue: computed once for an image encoder, then kept in the market's cache."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mercato.data.market import Market
from mercato.data.schema import PRODUCTS
from mercato.errors import DamagedError
from mercato.features.images import SPEC, checked_vectors, packed_vector
from mercato.manifest import reading
from mercato.progress import note, track
from mercato.runs.encoder import RunEncoder
from mercato.runs.image_encoder import MODEL, ImageEncoder

ImageVectors = list[NDArray[np.float32] | None]
"""By product, in row order: (n, V), in patches (n, P, V), or None for a product without images.

Patches are rounded to half precision: a photo of 48 × 48 pixels in patches is 7,000 numbers."""

CACHE = ".cache"


def given_vectors(market: Market, limit: int) -> ImageVectors | None:
    """The vectors that the user brought (`image_embeddings`), at most `limit` a product; None where there are none.

    Raises:
        MercatoError: vectors of different lengths, or not finite; the message names the product.
    """
    products = market.arrow("products", ["product_id", "image_embeddings"])
    if products["image_embeddings"].null_count == len(products):
        return None
    rows = products.to_pylist()
    width = next((len(row["image_embeddings"][0] or ()) for row in rows if row["image_embeddings"]), 0)
    if not width:
        return None
    return [
        checked_vectors(given, (width,), row)[:limit] if (given := row["image_embeddings"]) else None for row in rows
    ]


def encoded_vectors(market: Market, encoder_folder: Path, limit: int) -> ImageVectors:
    """The vectors of the catalogue's images by an image encoder, from the cache where they were computed before."""
    file = market.path / CACHE / f"image-vectors-{_key(market, encoder_folder, limit)}.npz"
    stored = _cached(file)
    if stored is None:
        _embed(market, ImageEncoder(encoder_folder, threads=2), limit, file)
        stored = _cached(file)
        assert stored is not None
    vectors, counts = stored
    rows = np.split(vectors, np.cumsum(counts)[:-1])
    return [row if len(row) else None for row in rows]


def _cached(file: Path) -> tuple[NDArray[np.floating], NDArray[np.int64]] | None:
    """All vectors end to end, and how many each product has; None where they are not there, or damaged."""
    if not file.is_file():
        return None
    try:
        with reading(file, "it is computed again"), np.load(file, allow_pickle=False) as stored:
            return stored["vectors"], stored["counts"]
    except DamagedError as error:
        note(f"  {error}")
        return None


def image_counts(market: Market) -> pa.ChunkedArray:
    """How many images, or vectors of them, each product has, in row order: int32."""
    columns = market.arrow("products", ["images", "image_embeddings"]).columns
    return pc.max_element_wise(*(pc.fill_null(pc.list_value_length(column), 0) for column in columns))


def products_with_vectors(market: Market, encoder: RunEncoder, run: Path) -> pa.Table:
    """The products table with `image_embeddings` in place of images, so that `encode_products` need not look again.

    `image_count` says how many images there were: vectors may be fewer. Those in patches are packed (`packed_vector`).
    """
    products = market.arrow("products", [name for name in PRODUCTS.names if name != "images"])
    products = products.append_column("image_count", image_counts(market))
    limit = encoder.featurizer.spec.max_images
    if encoder.image_encoder is None or products["image_embeddings"].null_count < len(products):
        return products
    vectors = encoded_vectors(market, run, limit)
    column: pa.Array
    if encoder.image_encoder.spec.patches:
        packed = (None if own is None else [*map(packed_vector, own)] for own in vectors)
        column = pa.array(packed, pa.list_(pa.large_binary()))
    else:
        given = (None if own is None else list(own) for own in vectors)
        column = pa.array(given, PRODUCTS.field("image_embeddings").type)
    place = products.schema.get_field_index("image_embeddings")
    return products.set_column(place, "image_embeddings", column)


def _embed(market: Market, encoder: ImageEncoder, limit: int, file: Path) -> None:
    column = market.arrow("products", ["images"])["images"]
    every = encoder.encode((images.as_py() for images in column), market.path, limit)
    kept = np.float16 if encoder.spec.patches else np.float32
    vectors = [own.astype(kept) for own in track(every, "images of products → vectors", len(column))]
    file.parent.mkdir(exist_ok=True)
    fresh = file.with_suffix(".tmp.npz")
    np.savez(fresh, counts=np.array([len(own) for own in vectors]), vectors=np.concatenate(vectors))
    fresh.rename(file)


def image_files(market: Market) -> list[tuple[str, int, int]]:
    """Image files that lie beside the table: their content may change without it."""
    column = pc.list_flatten(market.arrow("products", ["images"])["images"].combine_chunks())
    paths = set(pc.struct_field(column, "path").drop_null().to_pylist())
    stats = [(path, (market.path / path).stat()) for path in sorted(paths) if (market.path / path).is_file()]
    return [(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats]


def _key(market: Market, encoder_folder: Path, limit: int) -> str:
    digest = hashlib.sha256(str(limit).encode())
    digest.update(repr(image_files(market)).encode())
    for file in [encoder_folder / MODEL, encoder_folder / SPEC, *market.files("products")]:
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:16]
