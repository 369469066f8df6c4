"""What every encoder offers, whether it runs in torch, in ONNX Runtime or in a test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa


class Encoder(Protocol):
    """Maps queries and products into one space in which the inner product is their cosine."""

    @property
    def dimension(self) -> int:
        """The length d of a vector."""
        ...

    def encode_queries(self, queries: Sequence[str], country: str | None = None) -> npt.NDArray[np.float32]:
        """Encode queries of searchers in one country: float32 (n, d), unit length."""
        ...

    def encode_products(self, products: pa.Table | Sequence[Mapping[str, Any]]) -> npt.NDArray[np.float32]:
        """Encode rows of the products schema: float32 (n, d), unit length."""
        ...
