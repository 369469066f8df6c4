"""Runs that need no training: each has a salt and a dimension, so that its vectors are its own and nobody else's."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray

from mercato.runs.folder import RETRIEVAL, WEIGHTS
from tests.support.small_market import TrigramEncoder


def make_run(folder: Path, salt: str, dimension: int) -> Path:
    """Write a run."""
    folder.mkdir(parents=True)
    (folder / WEIGHTS).write_text(json.dumps([salt, dimension]))
    (folder / RETRIEVAL).write_text(json.dumps({"min_cosine": None}))
    return folder


class SaltedEncoder(TrigramEncoder):
    """The encoder of such a run, in place of `OnnxEncoder`."""

    def __init__(self, run: Path, *_: object, **__: object) -> None:
        self.salt, self.dimension = json.loads((run / WEIGHTS).read_text())
        self.recipe, self.image_encoder = SimpleNamespace(name=f"run {self.salt}"), None
        self.featurizer = SimpleNamespace(spec=SimpleNamespace(context=None, image_shape=(0,), max_images=5))

    def _vector(self, text: str) -> NDArray[np.float32]:
        vector = np.zeros(self.dimension)
        vector[0] = 0.1
        padded = f"  {text.lower()} "
        for start in range(len(padded) - 2):
            digest = zlib.crc32((self.salt + padded[start : start + 3]).encode())
            vector[digest % self.dimension] += 1 if digest & 1024 else -1
        return (vector / np.linalg.norm(vector)).astype(np.float32)
