from __future__ import annotations

from tests.support.garments import market, words

__all__ = ["market", "words"]
