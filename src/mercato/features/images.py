"""Images as features: their preprocessing to pixels, and image vectors that the user brought."""

from __future__ import annotations

import json
import math
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
    """Image preprocessing: scaled so that the shorter side is `resize`, cut to the middle `size` square.

    The model turns an image into a vector of `dimension` numbers, or into `patches` of as many each.
    """

    dimension: int
    size: int
    resize: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    patches: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what the model makes of an image: (V,), or (P, V)."""
        return image_shape(self.dimension, self.patches)

    def square(self, image: Image.Image) -> Image.Image:
        """What the model sees of an RGB image: (size, size)."""
        return middle_square(image, self.size, self.size / self.resize)

    def pixels(self, image: Image.Image) -> NDArray[np.float32]:
        """An RGB image → (3, size, size) float32, normalised."""
        array = np.asarray(self.square(image), np.float32) / 255
        normal = (array - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return np.ascontiguousarray(normal.transpose(2, 0, 1))


def image_shape(dimension: int, patches: int) -> tuple[int, ...]:
    """Of an image as a tower reads it: a vector (V,), or with `patches` (P, V)."""
    return (patches, dimension) if patches else (dimension,)


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


def checked_vectors(given: Any, shape: tuple[int, ...], product: Mapping[str, Any]) -> NDArray[np.float32]:
    """A product's `image_embeddings` as (n, *shape) float32, `shape` being an image's (`image_shape`).

    Args:
        given: a vector an image, its patches end to end where it has several; as a list of numbers, an array, or as
            `packed_vector` packed it.
        shape: of an image.
        product: that they are of, for the error.

    Raises:
        MercatoError: they are not finite vectors of as many numbers as an image has.
    """
    numbers = math.prod(shape)
    try:
        vectors = np.asarray([unpacked_vector(own) if isinstance(own, bytes) else own for own in given], np.float32)
    except (TypeError, ValueError):
        vectors = np.zeros((0, 0), np.float32)
    if vectors.ndim != 2 or vectors.shape[1] != numbers or not np.isfinite(vectors).all():
        raise MercatoError(
            f"product {product.get('product_id')}, field image_embeddings: must be finite vectors of {numbers} numbers"
        )
    return vectors.reshape(-1, *shape)


def packed_vector(image: NDArray[np.floating[Any]]) -> bytes:
    """An image's numbers, in half precision: thousands of them for its patches, too many for a list."""
    return image.astype(np.float16).tobytes()


def unpacked_vector(packed: bytes) -> NDArray[np.float16]:
    """What `packed_vector` packed, end to end."""
    return np.frombuffer(packed, np.float16)
