"""The images: a silhouette in its colour, pattern and material, somewhere, from some side, in some light, as JPEG."""

from __future__ import annotations

import io
import math
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
from PIL import Image, ImageDraw

from mercato.simulation.ontology import TYPES
from mercato.simulation.scenes import (
    ROOMY,
    SIDE,
    VARIANTS,
    Field,
    background,
    lighting,
    material_field,
    noise,
    pattern_mask,
)

RGB = tuple[float, float, float]
_SHARP = 3  # supersampling
_GREY = 150.0  # the grey that stands for an unshaded body
_PAINT: dict[str, RGB] = {
    "red": (198, 44, 44), "blue": (44, 92, 186), "green": (56, 134, 72), "yellow": (236, 196, 48),
    "black": (46, 46, 50), "white": (236, 236, 232), "grey": (140, 143, 148), "brown": (122, 78, 46),
    "pink": (238, 146, 176),
    "orange": (236, 128, 38), "purple": (122, 66, 158), "beige": (216, 194, 158),
}  # fmt: skip
_CREAM = np.array([195, 190, 180])
_SURFACES: dict[str, RGB] = {
    "d": (48, 48, 54), "s": (172, 177, 184), "w": (152, 110, 70), "l": (236, 234, 228), "g": (176, 200, 214),
    "k": (206, 178, 136), "r": (196, 62, 54), "n": (78, 138, 74),
}  # fmt: skip


@dataclass(frozen=True)
class Look:
    """What the camera sees of one thing."""

    type: int  # number in TYPES
    colour: str
    pattern: str
    material: str


@dataclass(frozen=True)
class Part:
    """One painted part of a silhouette: a filled outline, or a stroke where `width` > 0."""

    surface: str
    shade: float
    points: tuple[tuple[float, float], ...]
    width: float = 0.0


@dataclass(frozen=True)
class View:
    """Where a thing stands in the image: an affine map from the 100 × 100 sheet to the frame (0..1)."""

    scale: float
    angle: float
    shear: float
    flip: bool
    x: float
    y: float

    def place(self, points: tuple[tuple[float, float], ...], side: int) -> list[tuple[float, float]]:
        """Points of the sheet in pixels of a canvas of `side` × `side`."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        placed = []
        for px, py in points:
            u, v = (px - 50) / 100, (py - 50) / 100
            u = (-u if self.flip else u) + self.shear * v
            placed.append(
                (side * (self.x + self.scale * (cos * u - sin * v)), side * (self.y + self.scale * (sin * u + cos * v)))
            )
        return placed


def draw_images(seed: list[int], things: list[Look], count: int) -> list[bytes]:
    """`count` JPEG images of SIDE × SIDE pixels: one thing from several sides, or several things one after another."""
    chance = np.random.default_rng(seed)
    home = "studio" if chance.random() < 0.2 else TYPES[things[0].type].scene
    place = int(chance.integers(VARIANTS))
    gain = chance.uniform(0.92, 1.06, 3).astype(np.float32)  # this camera's white balance
    images = []
    for number in range(count):
        thing = things[number % len(things)]
        closeup = number >= 2 and len(things) == 1 and chance.random() < 0.6
        images.append(_shoot(chance, thing, _view(chance, home, number, closeup), home, place, gain))
    return images


def _view(chance: np.random.Generator, scene: str, number: int, closeup: bool) -> View:
    tilt = 0.22 if scene in ("table", "studio") else 0.07
    return View(
        scale=float(chance.uniform(1.15, 1.5) if closeup else chance.uniform(0.64, 0.92)),
        angle=float(chance.normal(0, tilt * 0.5)),
        shear=float(chance.uniform(-0.16, 0.16) if number else chance.uniform(-0.06, 0.06)),
        flip=bool(chance.random() < 0.5),
        x=float(0.5 + chance.uniform(-0.18, 0.18) * (1.3 if closeup else 0.5)),
        y=float(0.53 + chance.uniform(-0.12, 0.10) * (1.3 if closeup else 0.5)),
    )


def _shoot(chance: np.random.Generator, thing: Look, view: View, scene: str, place: int, gain: Field) -> bytes:
    trims, body, alpha = _draw(TYPES[thing.type].key, view)
    left, top = chance.integers(0, ROOMY - SIDE + 1), ROOMY - SIDE - int(chance.integers(0, 18))
    image = background(scene, place)[top : top + SIDE, left : left + SIDE].copy()
    if chance.random() < 0.5:
        image = image[:, ::-1]
    seen = np.asarray(alpha, np.float32)[:, :, None] / 255
    if scene != "rug" and TYPES[thing.type].key != "rug" and (box := alpha.getbbox()):
        image = image * (1 - 0.5 * _shadow(box))
    texture = _texture(chance, thing)
    grey = np.asarray(body, np.float32)[:, :, None] / _GREY
    if thing.material == "glass":  # see through the body
        seen = seen - 0.45 * np.clip(grey, 0, 1) * seen
        grey = grey * 0.6
    image = image * (1 - seen) + np.asarray(trims, np.float32) + grey * texture
    light = lighting(int(chance.integers(VARIANTS))) * gain * np.float32(chance.uniform(0.88, 1.08))
    image = image * light + noise(int(chance.integers(VARIANTS)))
    out = io.BytesIO()
    Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(out, "JPEG", quality=86)
    return out.getvalue()


def _texture(chance: np.random.Generator, thing: Look) -> Field:
    """The surface of the body in full light, (SIDE, SIDE, 3)."""
    base = np.array(_PAINT[thing.colour]) * chance.uniform(0.9, 1.08) + chance.normal(0, 5, 3)
    variant = int(chance.integers(VARIANTS))
    surface = material_field(thing.material, variant) * base
    mask = pattern_mask(thing.pattern, variant)
    if mask is None:
        return np.asarray(surface, np.float32)
    bright = float(base.mean()) > 165
    second = 0.42 * base if bright else 0.22 * base + _CREAM
    share = np.roll(mask, int(chance.integers(20)), axis=1)[:, :, None]
    return np.asarray(surface * (1 - share) + second * share, np.float32)


def _shadow(box: tuple[int, int, int, int]) -> Field:
    """A soft dark patch under the thing, 0..1 (SIDE, SIDE, 1)."""
    small = Image.new("L", (40, 40))
    x0, _, x1, y1 = (value * 40 / SIDE for value in box)
    ImageDraw.Draw(small).ellipse((x0 - 1, y1 - 3.4, x1 + 1, y1 + 2.2), fill=230)
    soft = small.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.asarray(np.asarray(soft)[:, :, None] / 255, np.float32)


def _draw(key: str, view: View) -> tuple[Image.Image, Image.Image, Image.Image]:
    """Paint a silhouette into three planes (SIDE × SIDE): trims in RGB, the body's shade in grey, the coverage."""
    side = SIDE * _SHARP
    trims, body, alpha = Image.new("RGB", (side, side)), Image.new("L", (side, side)), Image.new("L", (side, side))
    in_trims, in_body, in_alpha = ImageDraw.Draw(trims), ImageDraw.Draw(body), ImageDraw.Draw(alpha)
    for part in parts(key):
        points = view.place(part.points, side)
        width = max(1, round(part.width * view.scale * side / 100)) if part.width else 0
        grey = min(255, round(_GREY * part.shade)) if part.surface == "b" else 0
        r, g, b = (min(255, round(value * part.shade)) for value in _SURFACES.get(part.surface, (0, 0, 0)))
        _fill(in_trims, points, width, (r, g, b))
        _fill(in_body, points, width, grey)
        _fill(in_alpha, points, width, 0 if part.surface == "x" else 255)
    return trims.reduce(_SHARP), body.reduce(_SHARP), alpha.reduce(_SHARP)


def _fill(
    draw: ImageDraw.ImageDraw, points: list[tuple[float, float]], width: int, fill: int | tuple[int, int, int]
) -> None:
    if width:
        draw.line(points, fill=fill, width=width, joint="curve")
    else:
        draw.polygon(points, fill=fill)


@cache
def _silhouettes() -> dict[str, str]:
    """The drawings of `silhouettes.txt`, by product type."""
    text = resources.files(__package__).joinpath("silhouettes.txt").read_text("utf-8")
    return dict(re.findall(r"^\[(\w+)\]\n([^\[]+)", text, re.MULTILINE))


@cache
def parts(key: str) -> tuple[Part, ...]:
    """The parsed silhouette of a product type (`silhouettes.txt` explains the language)."""
    found: list[Part] = []
    for line in _silhouettes()[key].split(";"):
        surface, form, *rest = line.split()
        numbers = [float(number) for number in rest]
        part = _part(surface[0], float(surface[1:] or 1), form.removeprefix("m"), numbers)
        found.append(part)
        if form.startswith("m"):
            mirrored = tuple((100 - x, y) for x, y in part.points)
            found.append(Part(part.surface, part.shade, mirrored, part.width))
    return tuple(found)


def _part(surface: str, shade: float, form: str, numbers: list[float]) -> Part:
    if form == "oval":
        x, y, rx, ry = numbers
        return Part(surface, shade, _arc(x, y, rx, ry, 0, 360))
    if form == "ring":
        x, y, radius, width = numbers
        return Part(surface, shade, _arc(x, y, radius, radius, 0, 375), width)
    if form == "rect":
        return Part(surface, shade, _rectangle(*numbers))
    width, points = (numbers[0], numbers[1:]) if form == "line" else (0.0, numbers)
    return Part(surface, shade, tuple(zip(points[::2], points[1::2], strict=True)), width)


def _rectangle(x0: float, y0: float, x1: float, y1: float, r: float = 0.0) -> tuple[tuple[float, float], ...]:
    if not r:
        return (x0, y0), (x1, y0), (x1, y1), (x0, y1)
    r = min(r, (x1 - x0) / 2, (y1 - y0) / 2)
    corners = ((x1 - r, y0 + r, -90), (x1 - r, y1 - r, 0), (x0 + r, y1 - r, 90), (x0 + r, y0 + r, 180))
    return tuple(point for x, y, start in corners for point in _arc(x, y, r, r, start, start + 90, 5))


def _arc(
    x: float, y: float, rx: float, ry: float, start: float, end: float, steps: int = 32
) -> tuple[tuple[float, float], ...]:
    angles = np.radians(np.linspace(start, end, steps + 1))
    return tuple(zip((x + rx * np.cos(angles)).tolist(), (y + ry * np.sin(angles)).tolist(), strict=True))
