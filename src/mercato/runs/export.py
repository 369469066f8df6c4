"""Both towers as ONNX, held to torch's vectors."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor, nn

from mercato.errors import MercatoError
from mercato.features.featurizer import Features
from mercato.files import write_atomic
from mercato.runs.folder import PRODUCT_TOWER, QUERY_TOWER
from mercato.runs.torch_encoder import TorchEncoder

TOLERANCE = 1e-4  # largest difference of any component of a unit vector


class _Vectors(nn.Module):
    """A tower with named inputs and only its vectors as output: what ONNX sees."""

    def __init__(self, tower: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.tower, self.names = tower, names

    def forward(self, *inputs: Tensor) -> Tensor:
        vectors: Tensor = self.tower(dict(zip(self.names, inputs, strict=True)))[0]
        return vectors


def export(model: TorchEncoder, run: Path) -> dict[str, float]:
    """Write `query_tower.onnx` and `product_tower.onnx` into a run, checked against torch.

    Returns:
        By tower, the largest absolute difference of a component on inputs that the export did not see.

    Raises:
        MercatoError: a tower differs by more than `TOLERANCE`; the old files then stay.
    """
    queries = ["red sofa", "x", "zapatillas de correr para niños talla 38 🚲"]
    products: list[dict[str, Any]] = [
        {
            "title": "red sofa",
            "description": "three seats, hardly used",
            "country": "us",
            "language": "en",
            "price": 120.0,
            "condition": "good",
            "seller_rating": 4.5,
            "created_at": datetime(2026, 1, 1, tzinfo=UTC),
        },
        {"title": "bici", "image_embeddings": np.ones((1, model.featurizer.spec.image_dimension), np.float32)},
        {"title": "Wooden table with six chairs and a very long title", "description": None},
    ]
    spec = model.featurizer.spec
    images = [product.get("image_embeddings") for product in products] if spec.image_dimension else None
    countries = [None, *(spec.countries or (None,))[:1], None]
    samples = {
        QUERY_TOWER: [model.featurizer.queries(queries[:n], countries[:n]) for n in (2, 3, 1)],
        PRODUCT_TOWER: [model.featurizer.products(products[:n], images[:n] if images else None) for n in (2, 3, 1)],
    }
    towers = {QUERY_TOWER: model.towers.query, PRODUCT_TOWER: model.towers.product}
    differences = {}
    for file, tower in towers.items():
        content = _to_onnx(tower, samples[file][0])
        session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
        worst = 0.0
        for features in samples[file]:
            with torch.inference_mode():
                expected = tower({k: torch.from_numpy(v) for k, v in features.items()})[0].numpy()
            worst = max(worst, float(np.abs(session.run(None, features)[0] - expected).max()))
        if not worst <= TOLERANCE:
            raise MercatoError(f"{file}: differs from torch by {worst:.2g} (at most {TOLERANCE} is allowed)")
        write_atomic(run / file, content)
        differences[file.removesuffix("_tower.onnx")] = worst
    return differences


def onnx_bytes(module: nn.Module, inputs: Mapping[str, Tensor], dynamic: tuple[Any, ...]) -> bytes:
    """`torch.onnx.export` of a module with one output, `vectors`, without its chatter on packages it could not find."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module.eval(),
                tuple(inputs.values()),
                dynamo=True,
                dynamic_shapes=dynamic,
                input_names=list(inputs),
                output_names=["vectors"],
                verbose=False,
            )
    finally:
        logger.setLevel(level)
    assert program is not None
    content: bytes = program.model_proto.SerializeToString()
    return content


def _to_onnx(tower: nn.Module, features: Features) -> bytes:
    fixed = ("images", "image_mask", "context_numbers", "context_categories")  # but for the first axis the model's own
    axes = tuple(
        dict.fromkeys(range(1 if name in fixed else array.ndim), torch.export.Dim.DYNAMIC)
        for name, array in features.items()
    )
    inputs = {name: torch.from_numpy(array) for name, array in features.items()}
    return onnx_bytes(_Vectors(tower, tuple(features)), inputs, (axes,))
