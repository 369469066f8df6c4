from __future__ import annotations

from tests.support.garments import market, words
from tests.support.moments import moments

__all__ = ["market", "moments", "words"]
