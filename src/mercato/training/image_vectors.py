"""Image vectors of a whole catalogue: computed once for an encoder, kept in the market's cache."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mercato.config import Images
from mercato.data.images import load_images
from mercato.data.market import Market
from mercato.files import whole_folder
from mercato.models.image_encoder import ImageEncoder
from mercato.progress import note, track
from mercato.training.image_encoder import make_image_encoder

CACHE = ".cache"


def catalogue_image_vectors(
    market: Market, images: Images, seed: int
) -> tuple[list[NDArray[np.float32] | None], Path | None]:
    """The image vectors of each product in row order, (n_i, V) or None, and the folder of their encoder.

    The user's own `image_embeddings` are taken as they are where the market has any (then there is no encoder);
    else photos go through `images.encoder`, which for "compact" is trained here first.
    """
    given = market.arrow("products", ["image_embeddings"])["image_embeddings"]
    if given.null_count < len(given):
        return [np.asarray(v, np.float32)[: images.max_images] if v else None for v in given.to_pylist()], None
    folder = market.path / CACHE / f"images-{_key(market, images, seed)}"
    if not folder.is_dir():
        photos = market.arrow("products", ["images"])["images"]
        if pc.sum(pc.list_value_length(photos)).as_py() in (None, 0):
            return [None] * len(photos), None
        with whole_folder(folder) as fresh:
            make_image_encoder(market, images, seed, fresh)
            _embed(market, photos, ImageEncoder(fresh, threads=2), images.max_images, fresh)
    else:
        note(f"  image vectors: from the cache ({folder.name})")
    stored = np.load(folder / "vectors.npz")
    ends = np.cumsum(stored["counts"])
    rows = np.split(stored["vectors"], ends[:-1])
    return [row if len(row) else None for row in rows], folder


def _embed(market: Market, photos: pa.ChunkedArray, encoder: ImageEncoder, limit: int, folder: Path) -> None:
    counts, vectors = np.zeros(len(photos), np.int64), []
    batch: list[Any] = []
    for row, images in enumerate(track(photos, "photos → vectors", len(photos))):
        loaded = load_images(market.path, images.as_py(), limit)
        counts[row] = len(loaded)
        batch += loaded
        if len(batch) >= 256 or row == len(photos) - 1:
            vectors.append(encoder.encode(batch))
            batch = []
    np.savez(folder / "vectors.npz", counts=counts, vectors=np.concatenate(vectors))


def _key(market: Market, images: Images, seed: int) -> str:
    digest = hashlib.sha256(f"{images.model_dump_json()} {seed if images.encoder == 'compact' else 0}".encode())
    for file in market.files("products"):
        digest.update(f"{file.name} {file.stat().st_size} ".encode())
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:16]
