from __future__ import annotations

import io
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from mercato.simulation.images import Look, draw_images, parts
from mercato.simulation.ontology import COLOURS, LANGUAGES, MATERIALS, PATTERNS, TYPE_NUMBER, TYPES
from mercato.simulation.scenes import SIDE


def pixels(look: Look, seed: int = 1) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(draw_images([seed], [look], 1)[0])), float)


def test_the_ontology_is_broad_and_whole() -> None:
    assert len(TYPES) >= 50
    assert len({kind.department for kind in TYPES}) >= 9
    for kind in TYPES:
        assert 2 <= kind.category.count(" > ") + 1 <= 4
        assert all(kind.names[language] for language in LANGUAGES)
        assert kind.near and all(other in TYPE_NUMBER for other in kind.near)
        assert set(kind.colours) <= set(COLOURS) and set(kind.materials) <= set(MATERIALS)
        assert set(kind.patterns) <= set(PATTERNS)


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.key)
def test_every_type_has_a_drawing_that_shows_its_body(kind) -> None:
    assert any(part.surface == "b" for part in parts(kind.key))
    for part in parts(kind.key):
        assert all(-3 <= x <= 103 and -3 <= y <= 103 for x, y in part.points)


@pytest.mark.parametrize("key", ["sofa", "bicycle", "dress", "kettle"])
def test_colour_is_visible(key: str) -> None:
    """The same image in another colour differs where the thing is, in the direction of the colour."""
    number = TYPE_NUMBER[key]
    red, blue = (pixels(Look(number, colour, "plain", "plastic")) for colour in ("red", "blue"))
    changed = np.abs(red - blue).sum(2) > 60
    assert 0.01 < changed.mean() < 0.7
    assert (red[changed][:, 0] > blue[changed][:, 0]).mean() > 0.9
    assert (red[changed][:, 2] < blue[changed][:, 2]).mean() > 0.9


@pytest.mark.parametrize(("names", "field"), [(PATTERNS, "pattern"), (MATERIALS, "material")])
def test_patterns_and_materials_are_visible(names: tuple[str, ...], field: str) -> None:
    plain = {"colour": "blue", "pattern": "plain", "material": "fabric"}
    shots = [pixels(Look(TYPE_NUMBER["handbag"], **{**plain, field: name})) for name in names]
    for one, other in combinations(shots, 2):
        assert np.abs(one - other).mean() > 0.8


def test_images_are_small_jpegs_from_several_sides() -> None:
    drawn = draw_images([3], [Look(TYPE_NUMBER["sofa"], "green", "plain", "fabric")], 5)
    assert len(set(drawn)) == 5
    for content in drawn:
        image = Image.open(io.BytesIO(content))
        assert image.format == "JPEG" and image.size == (SIDE, SIDE)
        assert 1_500 < len(content) < 12_000


def test_a_garage_sale_shows_each_of_its_things() -> None:
    looks = [Look(TYPE_NUMBER[key], "red", "plain", "plastic") for key in ("sofa", "kettle", "bicycle")]
    assert len(set(draw_images([4], looks, 3))) == 3
