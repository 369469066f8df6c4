"""Photos → image vectors, by an ONNX vision model and the preprocessing it wants. A folder of two files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from PIL import Image

from mercato.data.images import load_images

MODEL, SPEC = "image_encoder.onnx", "image_encoder.json"
PRODUCTS = 32  # at once


@dataclass(frozen=True)
class ImageSpec:
    """How a photo becomes pixels: scaled so that the shorter side is `resize`, cut to the middle `size` square."""

    dimension: int
    size: int
    resize: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def square(self, image: Image.Image) -> Image.Image:
        """What the model sees of an RGB photo: (size, size)."""
        return middle_square(image, self.size, self.size / self.resize)

    def pixels(self, image: Image.Image) -> NDArray[np.float32]:
        """An RGB photo → (3, size, size) float32, normalised."""
        array = np.asarray(self.square(image), np.float32) / 255
        normal = (array - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return np.ascontiguousarray(normal.transpose(2, 0, 1))


def middle_square(image: Image.Image, size: int, part: float = 1.0) -> Image.Image:
    """The middle square of a photo, `part` of its shorter side, scaled to (size, size).

    Only what is kept is scaled: all of a photo of one pixel by a million would fill the memory.
    """
    side = min(image.size) * part
    left, top = ((length - side) / 2 for length in image.size)
    return image.resize(
        (size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side), reducing_gap=2.0
    )


class ImageEncoder:
    """A vision model on ONNX Runtime."""

    def __init__(self, folder: Path, threads: int = 1) -> None:
        self.spec = read_spec(folder)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = ort.InferenceSession(str(folder / MODEL), options, providers=["CPUExecutionProvider"])
        self._pool = ThreadPoolExecutor(2)

    def encode(
        self, products: Iterable[Iterable[Mapping[str, Any]] | None], market_path: Path, limit: int
    ) -> Iterator[NDArray[np.float32]]:
        """The vectors of each product's first `limit` readable photos: (n, V) float32, unit length; (0, V) for none.

        Args:
            products: the `images` of each product.
            market_path: where relative paths start.
            limit: photos of one product.
        """

        def pixels(images: Iterable[Mapping[str, Any]] | None) -> list[NDArray[np.float32]]:
            return [self.spec.pixels(photo) for photo in load_images(market_path, images, limit)]

        remaining = iter(products)
        while group := list(islice(remaining, PRODUCTS)):  # whole photos are held for one product a thread only
            decoded = list(self._pool.map(pixels, group))
            flat = [own for some in decoded for own in some]
            vectors = np.zeros((0, self.spec.dimension), np.float32)
            if flat:
                vectors = self._session.run(None, {"pixels": np.stack(flat)})[0]
                vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
            yield from np.split(vectors, np.cumsum([len(some) for some in decoded])[:-1])


def read_spec(folder: Path) -> ImageSpec:
    """What `write_spec` wrote."""
    return ImageSpec(**json.loads((folder / SPEC).read_text()))


def write_spec(folder: Path, spec: ImageSpec) -> None:
    """Write the preprocessing beside the model."""
    (folder / SPEC).write_text(json.dumps(asdict(spec), indent=2) + "\n")


def copy_image_encoder(source: Path, target: Path) -> None:
    """Copy the two files into another folder (a run carries its image encoder)."""
    for name in (MODEL, SPEC):
        shutil.copyfile(source / name, target / name)
