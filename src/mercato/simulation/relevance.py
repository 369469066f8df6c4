"""What a searcher wants, and how well a listing *as it can be seen* (text and images) answers it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mercato.simulation.ontology import TYPE_NUMBER, TYPES

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

NOTHING = -1
SLOTS = 4  # things in one listing, at most

_NEAR = np.zeros((len(TYPES), len(TYPES) + 1), bool)  # the last column answers for NOTHING
for _kind in TYPES:
    for _other in _kind.near:
        _NEAR[TYPE_NUMBER[_kind.key], TYPE_NUMBER[_other]] = _NEAR[TYPE_NUMBER[_other], TYPE_NUMBER[_kind.key]] = True


@dataclass(frozen=True)
class Intent:
    """A wanted type and what else is wanted of it; NOTHING where it does not matter."""

    type: int
    colour: int = NOTHING
    pattern: int = NOTHING
    material: int = NOTHING
    brand: str = ""
    size: str = ""


@dataclass(frozen=True)
class Things:
    """What is in each listing as it can be seen: (n, SLOTS) numbers in TYPES, COLOURS, …, NOTHING if unseen."""

    type: Ints
    colour: Ints
    pattern: Ints
    material: Ints
    brand: npt.NDArray[np.object_]  # (n,) the brand that the text or the brand field says, "" if none
    size: npt.NDArray[np.object_]  # (n,) likewise


def grade(intent: Intent, things: Things, rows: Ints) -> Floats:
    """The guideline's grade of each listing, (len(rows),).

    1.0: the wanted type with every wanted attribute to be seen. 0.5: the wanted type otherwise, or a substitute (a
    near type) with every wanted colour, pattern and material. 0.0: anything else. Price, condition and distance do not
    count; of several things in a listing the best one does.
    """
    kinds = things.type[rows]
    right, near = kinds == intent.type, _NEAR[intent.type][kinds]
    looks = np.ones(kinds.shape, bool)
    for wanted, seen in (
        (intent.colour, things.colour), (intent.pattern, things.pattern), (intent.material, things.material),
    ):  # fmt: skip
        if wanted != NOTHING:
            looks &= seen[rows] == wanted
    says = np.ones(len(rows), bool)
    if intent.brand:
        says &= things.brand[rows] == intent.brand
    if intent.size:
        says &= things.size[rows] == intent.size
    whole = (right & looks & says[:, None]).any(1)
    half = right.any(1) | (near & looks & says[:, None]).any(1)
    return np.where(whole, 1.0, np.where(half, 0.5, 0.0))
