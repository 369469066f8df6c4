"""Photos → image vectors, by an ONNX vision model and the preprocessing it wants. A folder of two files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from PIL import Image

MODEL, SPEC = "image_encoder.onnx", "image_encoder.json"


@dataclass(frozen=True)
class ImageSpec:
    """How a photo becomes pixels: scaled so that the shorter side is `resize`, cut to the middle `size` square."""

    dimension: int
    size: int
    resize: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def pixels(self, image: Image.Image) -> NDArray[np.float32]:
        """An RGB photo → (3, size, size) float32, normalised."""
        # Only the part that is kept is scaled: all of a photo of one pixel by a million would fill the memory.
        side = min(image.size) * self.size / self.resize
        left, top = ((length - side) / 2 for length in image.size)
        square = (left, top, left + side, top + side)
        scaled = image.resize((self.size, self.size), Image.Resampling.BILINEAR, box=square, reducing_gap=2.0)
        array = np.asarray(scaled, np.float32) / 255
        normal = (array - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return np.ascontiguousarray(normal.transpose(2, 0, 1))


class ImageEncoder:
    """A vision model on ONNX Runtime."""

    def __init__(self, folder: Path, threads: int = 1) -> None:
        self.spec = ImageSpec(**json.loads((folder / SPEC).read_text()))
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = ort.InferenceSession(str(folder / MODEL), options, providers=["CPUExecutionProvider"])
        self._pool = ThreadPoolExecutor(2)

    def encode(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """(n, V) float32, unit length; (0, V) for no photos."""
        if not images:
            return np.zeros((0, self.spec.dimension), np.float32)
        pixels = np.stack(list(self._pool.map(self.spec.pixels, images)))
        vectors: NDArray[np.float32] = self._session.run(None, {"pixels": pixels})[0]
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
        return vectors


def write_spec(folder: Path, spec: ImageSpec) -> None:
    """Write the preprocessing beside the model."""
    (folder / SPEC).write_text(json.dumps(asdict(spec), indent=2) + "\n")


def copy_image_encoder(source: Path, target: Path) -> None:
    """Copy the two files into another folder (a run carries its image encoder)."""
    for name in (MODEL, SPEC):
        shutil.copyfile(source / name, target / name)
