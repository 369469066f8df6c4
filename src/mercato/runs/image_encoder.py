"""Image encoder: an ONNX vision model and the preprocessing it wants, a folder of two files. No torch here."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from mercato.data.images import load_images
from mercato.features.images import SPEC, read_spec

MODEL = "image_encoder.onnx"
PRODUCTS = 32  # at once


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
        """The vectors of each product's first `limit` readable images: (n, V) float32, unit length; (0, V) for none.

        Of an encoder of patches: (n, P, V), of whatever length the model gives them.

        Args:
            products: the `images` of each product.
            market_path: where relative paths start.
            limit: images of one product.
        """

        def pixels(images: Iterable[Mapping[str, Any]] | None) -> list[NDArray[np.float32]]:
            return [self.spec.pixels(image) for image in load_images(market_path, images, limit)]

        remaining = iter(products)
        while group := list(islice(remaining, PRODUCTS)):  # whole images are held for one product a thread only
            decoded = list(self._pool.map(pixels, group))
            flat = [own for some in decoded for own in some]
            vectors = np.zeros((0, *self.spec.shape), np.float32)
            if flat:
                vectors = self._session.run(None, {"pixels": np.stack(flat)})[0]
                if not self.spec.patches:
                    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
            yield from np.split(vectors, np.cumsum([len(some) for some in decoded])[:-1])


def copy_image_encoder(source: Path, target: Path) -> None:
    """Copy the two files into another folder (a run carries its image encoder)."""
    for name in (MODEL, SPEC):
        shutil.copyfile(source / name, target / name)
