from __future__ import annotations

from tests.support.garments import market, words
from tests.support.studies import fake_trial, recipes

__all__ = ["fake_trial", "market", "recipes", "words"]
