from __future__ import annotations

from tests.support.studies import fake_trial, recipes

__all__ = ["fake_trial", "recipes"]
