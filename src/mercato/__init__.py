"""Mercato: marketplace search that you own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mercato.errors import MercatoError
from mercato.extras import train_extra
from mercato.version import __version__

if TYPE_CHECKING:
    from mercato.retrieval.open import open_index
    from mercato.runs.torch_encoder import load

__all__ = ["MercatoError", "__version__", "load", "open_index"]


def __getattr__(name: str) -> Any:
    """Import the heavy parts (torch, the index engine) only when they are asked for."""
    if name == "load":
        with train_extra():
            from mercato.runs.torch_encoder import load

        return load
    if name == "open_index":
        from mercato.retrieval.open import open_index

        return open_index
    raise AttributeError(f"module 'mercato' has no attribute {name!r}")
