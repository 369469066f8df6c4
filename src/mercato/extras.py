"""The optional dependencies: what the extra `train` brings, and the error where it is not installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mercato.errors import MercatoError

TRAIN = {  # by the names that are imported
    "Stemmer", "bm25s", "captum", "faiss", "lightgbm", "lightning", "onnx", "onnxmltools", "onnxscript", "polars",
    "rapidfuzz", "scipy", "tensorboard", "torch", "transformers",
}  # fmt: skip


@contextmanager
def train_extra() -> Iterator[None]:
    """Run code that may import modules of the extra `train`.

    Raises:
        MercatoError: one of them is not installed; the message names the extra.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in TRAIN:
            raise
        raise MercatoError(f"{missing} is not installed; it comes with: pip install 'mercato[train]'") from error
