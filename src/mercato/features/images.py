"""Images as features: their preprocessing to pixels, and image vectors that the user brought."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mercato.errors import MercatoError

SPEC = "image_encoder.json"


@dataclass(frozen=True)
class ImageSpec:
    """Image preprocessing: scaled so that the shorter side is `resize`, cut to the middle `size` square."""

    dimension: int
    size: int
    resize: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def square(self, image: Image.Image) -> Image.Image:
        """What the model sees of an RGB image: (size, size)."""
        return middle_square(image, self.size, self.size / self.resize)

    def pixels(self, image: Image.Image) -> NDArray[np.float32]:
        """An RGB image → (3, size, size) float32, normalised."""
        array = np.asarray(self.square(image), np.float32) / 255
        normal = (array - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return np.ascontiguousarray(normal.transpose(2, 0, 1))


def middle_square(image: Image.Image, size: int, part: float = 1.0) -> Image.Image:
    """The middle square of an image, `part` of its shorter side, scaled to (size, size).

    Only what is kept is scaled: all of an image of one pixel by a million would fill the memory.
    """
    side = min(image.size) * part
    left, top = ((length - side) / 2 for length in image.size)
    return image.resize(
        (size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side), reducing_gap=2.0
    )


def read_spec(folder: Path) -> ImageSpec:
    """What `write_spec` wrote."""
    return ImageSpec(**json.loads((folder / SPEC).read_text()))


def write_spec(folder: Path, spec: ImageSpec) -> None:
    """Write the preprocessing beside the model."""
    (folder / SPEC).write_text(json.dumps(asdict(spec), indent=2) + "\n")


def checked_vectors(given: Any, dimension: int, product: Mapping[str, Any]) -> NDArray[np.float32]:
    """A product's `image_embeddings` as (n, V) float32.

    Raises:
        MercatoError: they are not finite vectors of V = `dimension` numbers.
    """
    try:
        vectors = np.asarray(given, np.float32)
    except (TypeError, ValueError):
        vectors = np.zeros((0, 0), np.float32)
    if vectors.ndim != 2 or vectors.shape[1] != dimension or not np.isfinite(vectors).all():
        raise MercatoError(
            f"product {product.get('product_id')}, field image_embeddings: must be finite vectors of {dimension}"
            " numbers"
        )
    return vectors
