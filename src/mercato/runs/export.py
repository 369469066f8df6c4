"""ONNX export of both towers, with parity to torch."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor, nn

from mercato.errors import MercatoError
from mercato.features.featurizer import Features
from mercato.fields import FEATURES
from mercato.files import write_atomic
from mercato.manifest import write_manifest
from mercato.runs.folder import PRODUCT_TOWER, QUERY_TOWER
from mercato.runs.torch_encoder import TorchEncoder

TOLERANCE = 1e-4  # largest difference of any component of a unit vector


class _Vectors(nn.Module):
    """Wrapper of a tower with named inputs and only its vectors as output: what is exported."""

    def __init__(self, tower: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.tower, self.names = tower, names

    def forward(self, *inputs: Tensor) -> Tensor:
        vectors: Tensor = self.tower(dict(zip(self.names, inputs, strict=True)))[0]
        return vectors


def export(model: TorchEncoder, run: Path, int8_products: bool = False) -> dict[str, float]:
    """Write `query_tower.onnx` and `product_tower.onnx` into a run, checked against torch.

    With `int8_products` the product tower is quantised after that (`int8`): its vectors are near torch's, not equal.

    Returns:
        As `parity`, before it was quantised.

    Raises:
        MercatoError: a tower differs by more than `TOLERANCE`; the old files then stay.
    """
    differences = {}
    for file, (tower, samples) in _sampled(model).items():
        content = onnx_tower(tower, samples[0])
        differences[file.removesuffix("_tower.onnx")] = _difference(file, content, tower, samples)
        write_atomic(run / file, int8(content) if int8_products and file == PRODUCT_TOWER else content)
    write_manifest(run, [QUERY_TOWER, PRODUCT_TOWER])
    return differences


def int8(tower: bytes) -> bytes:
    """A tower with its matrices in int8, by channel, and what they are multiplied with too, as it comes (dynamic)."""
    model = onnx.load_from_string(tower)
    del model.graph.value_info[:]  # of the export, with names that the quantiser gives to other shapes
    with tempfile.TemporaryDirectory() as scratch:
        to = Path(scratch) / "int8.onnx"
        logging.disable(logging.WARNING)  # it recommends a step that is for pictures
        try:
            quantize_dynamic(model, to, per_channel=True, weight_type=QuantType.QInt8)
        finally:
            logging.disable(logging.NOTSET)
        return to.read_bytes()


def parity(model: TorchEncoder, run: Path) -> dict[str, float]:
    """Compare a run's ONNX towers with torch.

    Returns:
        By tower, "query" and "product", the largest absolute difference of a component of a unit vector, on inputs of
        which the export saw the first alone.

    Raises:
        MercatoError: a tower differs by more than `TOLERANCE`.
    """
    return {
        file.removesuffix("_tower.onnx"): _difference(file, (run / file).read_bytes(), tower, samples)
        for file, (tower, samples) in _sampled(model).items()
    }


def _sampled(model: TorchEncoder) -> dict[str, tuple[nn.Module, list[Features]]]:
    """Each tower's file, the tower, and batches of its features."""
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
        {"title": "bici", "image_embeddings": np.ones((1, *model.featurizer.spec.image_shape), np.float32)},
        {"title": "Wooden table with six chairs and a very long title", "description": None},
    ]
    spec = model.featurizer.spec
    images = [product.get("image_embeddings") for product in products] if spec.image_dimension else None
    countries = [None, *(spec.countries or (None,))[:1], None]
    return {
        QUERY_TOWER: (
            model.towers.query,
            [_one_known(model.featurizer.queries(queries[:n], countries[:n])) for n in (2, 3, 1)],
        ),
        PRODUCT_TOWER: (
            model.towers.product,
            [_one_known(model.featurizer.products(products[:n], images[:n] if images else None)) for n in (2, 3, 1)],
        ),
    }


def _one_known(features: Features) -> Features:
    """As if the first row's ids were known: made-up ones never are."""
    for name in {"ids", "query_ids"} & features.keys():
        features[name][0] = 1
    return features


def _difference(file: str, content: bytes, tower: nn.Module, samples: list[Features]) -> float:
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    worst = 0.0
    for features in samples:
        with torch.inference_mode():
            expected = tower({k: torch.from_numpy(v) for k, v in features.items()})[0].numpy()
        worst = max(worst, float(np.abs(session.run(None, features)[0] - expected).max()))
    if not worst <= TOLERANCE:
        raise MercatoError(f"{file}: differs from torch by {worst:.2g} (at most {TOLERANCE} is allowed)")
    return worst


def onnx_tower(tower: nn.Module, features: Features) -> bytes:
    """ONNX of a tower: inputs named as `features`, any batch size and length of ids; one output, `vectors` (B, D)."""
    axes = tuple(
        dict.fromkeys(range(array.ndim if FEATURES[name].ragged else 1), torch.export.Dim.DYNAMIC)
        for name, array in features.items()
    )
    inputs = {name: torch.from_numpy(array) for name, array in features.items()}
    return onnx_bytes(_Vectors(tower, tuple(features)), inputs, (axes,))


def onnx_bytes(
    module: nn.Module, inputs: Mapping[str, Tensor], dynamic: tuple[Any, ...], output: str = "vectors"
) -> bytes:
    """`torch.onnx.export` of a module with one `output`, without its chatter on packages it could not find."""
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
                output_names=[output],
                verbose=False,
            )
    finally:
        logger.setLevel(level)
    assert program is not None
    content: bytes = program.model_proto.SerializeToString()
    return content
