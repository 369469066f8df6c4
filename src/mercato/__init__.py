"""Mercato: marketplace search that you own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mercato.errors import MercatoError

if TYPE_CHECKING:
    from mercato.models.model import load
    from mercato.retrieval.index import open_index

__version__ = "0.1.0"
__all__ = ["MercatoError", "load", "open_index"]


def __getattr__(name: str) -> Any:
    """Import the heavy parts (torch, the index engine) only when they are asked for."""
    if name == "load":
        from mercato.models.model import load

        return load
    if name == "open_index":
        from mercato.retrieval.index import open_index

        return open_index
    raise AttributeError(f"module 'mercato' has no attribute {name!r}")
