"""The ranking section of a recipe: see `mercato.ranking`."""

from __future__ import annotations

from pydantic import Field

from mercato.config.base import Frozen


class Trees(Frozen):
    """Stage 1, gradient-boosted trees on the lists that searches displayed."""

    trees: int = Field(100, ge=1)
    leaves: int = Field(15, ge=2)
    learning_rate: float = Field(0.05, gt=0)
    least_rows: int = Field(100, ge=1)  # of a leaf
    position_regularization: float = Field(0.0, ge=0)
    """Of the factors that take the position's part out of a click; at 1 they hardly do (docs/ranking.md)."""
    gains: tuple[float, ...] = Field((0.0, 1.0, 2.0, 3.0), min_length=2)  # of 0, 1, … steps along the chain


class Ranking(Frozen):
    """Both ranking stages (Que2Search §6.5)."""

    trees: Trees = Trees()
