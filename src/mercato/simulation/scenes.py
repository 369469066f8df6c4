"""Surfaces and places: pattern masks, material fields and backgrounds, each made once a process and reused.

All are float32 on the image's own grid (SIDE × SIDE, backgrounds a little larger so that a random crop differs).
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

Field = npt.NDArray[np.float32]
SIDE = 160
ROOMY = 220  # side of a background before it is cropped
VARIANTS = 6

_FLOWER = [(0, -5), (4.8, -1.5), (3, 4), (-3, 4), (-4.8, -1.5)]


@cache
def pattern_mask(pattern: str, variant: int) -> Field | None:
    """Where the second colour goes, 0..1 (SIDE, SIDE); None for a plain thing."""
    if pattern == "plain":
        return None
    scale = 3
    image = Image.new("L", (SIDE * scale, SIDE * scale))
    draw = ImageDraw.Draw(image)
    step = (11, 13, 15, 17, 12, 14)[variant] * scale
    for i in range(-1, SIDE * scale // step + 2):
        if pattern == "striped":
            draw.rectangle((i * step, 0, i * step + step * 0.45, SIDE * scale), fill=255)
        for j in range(-1, SIDE * scale // step + 2):
            x, y = i * step + (j % 2) * step / 2, j * step
            if pattern == "dotted":
                draw.ellipse((x - step * 0.24, y - step * 0.24, x + step * 0.24, y + step * 0.24), fill=255)
            elif pattern == "floral":
                size, r = step / 15, step / 7.5
                for dx, dy in _FLOWER:
                    at = (x + dx * size, y + dy * size)
                    draw.ellipse((at[0] - r, at[1] - r, at[0] + r, at[1] + r), fill=255)
                draw.ellipse((x - 2 * size, y - 2 * size, x + 2 * size, y + 2 * size), fill=90)
    mask: Field = np.asarray(image.reduce(scale), np.float32) / np.float32(255)
    if pattern == "checked":
        band: Field = np.asarray(np.arange(SIDE) // (step // scale // 2) % 2, np.float32)
        mask = (band[:, None] + band[None, :]) / np.float32(2)
    elif pattern == "striped" and variant % 2:
        mask = np.ascontiguousarray(mask.T)
    return np.asarray(mask, np.float32)


@cache
def material_field(material: str, variant: int) -> Field:
    """How a material changes the light on a surface: a factor around 1, (SIDE, SIDE, 1)."""
    chance = np.random.default_rng([11, variant])
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) / SIDE
    field = np.ones((SIDE, SIDE), np.float32)
    if material == "wood":
        warp = 0.008 * np.sin(9 * x + variant) + 0.004 * np.sin(23 * x + 2 * variant)
        field += 0.07 * np.sin(150 * (y + warp)) + 0.07 * np.sin(61 * (y + 1.6 * warp) + 1)
        field += _cloud(chance, 40, 6) * 0.08
    elif material == "metal":
        field += 0.30 * np.exp(-(((x + 0.5 * y - 0.55 - 0.05 * variant) / 0.09) ** 2))
        field += 0.16 * np.exp(-(((x + 0.5 * y - 1.0) / 0.05) ** 2)) - 0.10 * np.sin(4.5 * (x + 0.4 * y))
    elif material == "leather":
        field += 0.035 * _cloud(chance, 55, 55) + 0.22 * np.exp(-(((x - 0.4) ** 2 + (y - 0.4) ** 2) / 0.05)) - 0.10
    elif material == "fabric":
        grid = np.indices((SIDE, SIDE)).sum(0)
        field += 0.05 * (grid % 3 == 0) + 0.03 * _cloud(chance, 80, 80) - 0.02
    elif material == "plastic":
        field += 0.14 * np.exp(-(((x - 0.36) / 0.10) ** 2)) + 0.05 * (0.5 - y)
    elif material == "glass":
        field += 0.55 * np.exp(-(((x - y * 0.3 - 0.25) / 0.05) ** 2)) + 0.20
    elif material == "ceramic":
        field += 0.6 * np.exp(-(((x - 0.40) ** 2 + (y - 0.45) ** 2) / 0.006)) + 0.18 * (0.5 - np.abs(x - 0.42))
    elif material == "rattan":
        i, j = np.indices((SIDE, SIDE)) // 4
        field += 0.16 * ((i + j) % 2) - 0.14 * (
            (np.indices((SIDE, SIDE))[0] % 4 == 0) | (np.indices((SIDE, SIDE))[1] % 8 == 0)
        )
    return field[:, :, None].astype(np.float32)


@cache
def background(scene: str, variant: int) -> Field:
    """A place without a thing in it, 0..255 (ROOMY, ROOMY, 3)."""
    chance = np.random.default_rng([13, variant, *scene.encode()])
    image = Image.new("RGB", (ROOMY, ROOMY))
    _PLACES[scene](image, ImageDraw.Draw(image), chance, variant)
    field = np.asarray(image.filter(ImageFilter.GaussianBlur(0.9)), np.float32)
    grain = 0.035 if scene in ("outdoors", "street", "rug") else 0.012
    return np.asarray(field * (1 + grain * _cloud(chance, ROOMY, ROOMY, ROOMY)[:, :, None]), np.float32)


@cache
def lighting(variant: int) -> Field:
    """Light from one side with a soft vignette: a factor around 1, (SIDE, SIDE, 1)."""
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j].astype(np.float32)
    angle = 2 * np.pi * variant / VARIANTS
    light = 1.05 + 0.10 * (np.cos(angle) * x - np.abs(np.sin(angle)) * y) - 0.07 * (x**2 + y**2)
    return np.asarray(light[:, :, None], np.float32)


@cache
def noise(variant: int) -> Field:
    """The camera's noise, (SIDE, SIDE, 1)."""
    return np.random.default_rng([17, variant]).normal(0, 2.2, (SIDE, SIDE, 1)).astype(np.float32)


def _cloud(chance: np.random.Generator, rows: int, columns: int, side: int = SIDE) -> Field:
    """Smooth random field in about -1..1 with `rows` × `columns` bumps."""
    coarse = Image.fromarray(chance.normal(0, 1, (rows, columns)).astype(np.float32))
    return np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), np.float32)


def _tone(colour: tuple[int, int, int], gain: float) -> tuple[int, int, int]:
    r, g, b = (max(0, min(255, round(part * gain))) for part in colour)
    return r, g, b


_WALLS = ((226, 220, 208), (205, 214, 216), (222, 205, 196), (196, 206, 190), (233, 230, 224), (184, 192, 206))
_FLOORS = ((158, 118, 82), (186, 150, 112), (120, 92, 72), (170, 164, 156), (196, 168, 134), (140, 110, 88))


def _planks(draw: ImageDraw.ImageDraw, colour: tuple[int, int, int], top: int, chance: np.random.Generator) -> None:
    draw.rectangle((0, top, ROOMY, ROOMY), fill=colour)
    for row, y in enumerate(range(top, ROOMY, 14)):
        for x in range(-(row % 3) * 26, ROOMY, 78):
            draw.rectangle((x, y, x + 77, y + 13), fill=_tone(colour, 0.93 + 0.14 * chance.random()))
            draw.line((x, y, x + 77, y), fill=_tone(colour, 0.78))
            draw.line((x, y, x, y + 13), fill=_tone(colour, 0.80))


def _room(image: Image.Image, draw: ImageDraw.ImageDraw, chance: np.random.Generator, variant: int) -> None:
    wall, floor = _WALLS[variant], _FLOORS[variant]
    for y in range(ROOMY):
        draw.line((0, y, ROOMY, y), fill=_tone(wall, 1.02 - 0.10 * y / ROOMY))
    _planks(draw, floor, 142, chance)
    draw.rectangle((0, 134, ROOMY, 142), fill=_tone(wall, 1.10))
    if variant % 3 == 0:  # a picture on the wall
        draw.rectangle((22, 26, 70, 66), fill=(240, 238, 232), outline=(90, 74, 60), width=3)
        draw.polygon((28, 60, 44, 40, 54, 52, 60, 46, 65, 60), fill=(150, 168, 160))
    elif variant % 3 == 1:  # a window
        draw.rectangle((146, 14, 206, 92), fill=(232, 240, 246), outline=(246, 246, 244), width=5)
        draw.line((176, 14, 176, 92), fill=(246, 246, 244), width=4)


def _table(image: Image.Image, draw: ImageDraw.ImageDraw, chance: np.random.Generator, variant: int) -> None:
    wall = _WALLS[(variant + 2) % 6]
    draw.rectangle((0, 0, ROOMY, ROOMY), fill=_tone(wall, 0.96))
    if variant < 4:
        _planks(draw, _FLOORS[(variant + 1) % 6], 96 if variant % 2 else 0, chance)
    else:  # marble, cloth
        draw.rectangle((0, 90, ROOMY, ROOMY), fill=(232, 230, 228) if variant == 4 else (176, 190, 196))
        for _ in range(9 if variant == 4 else 0):
            x, y = chance.integers(0, ROOMY, 2)
            draw.line((x, max(y, 90), x + 40, max(y, 90) + 24), fill=(212, 210, 210), width=2)


def _outdoors(image: Image.Image, draw: ImageDraw.ImageDraw, chance: np.random.Generator, variant: int) -> None:
    sky = ((186, 212, 232), (206, 220, 226), (170, 200, 226), (222, 222, 214), (196, 214, 230), (180, 204, 220))[
        variant
    ]
    for y in range(120):
        draw.line((0, y, ROOMY, y), fill=_tone(sky, 0.94 + 0.10 * y / 120))
    for x in range(-20, ROOMY, 26):  # a hedge or trees
        size = 22 + 16 * chance.random()
        draw.ellipse((x, 112 - size, x + 2 * size, 122 + size), fill=_tone((98, 134, 84), 0.85 + 0.3 * chance.random()))
    grass = ((122, 158, 86), (138, 164, 92), (108, 148, 82), (196, 182, 142), (128, 160, 96), (116, 150, 90))[variant]
    draw.rectangle((0, 118, ROOMY, ROOMY), fill=grass)
    for _ in range(420):
        left, top = int(chance.integers(0, ROOMY)), int(chance.integers(118, ROOMY))
        draw.line((left, top, left + 2, top - 5), fill=_tone(grass, 0.82 + 0.36 * chance.random()))


def _street(image: Image.Image, draw: ImageDraw.ImageDraw, chance: np.random.Generator, variant: int) -> None:
    wall = ((176, 122, 100), (206, 198, 184), (150, 158, 168), (190, 176, 150), (166, 140, 130), (214, 206, 200))[
        variant
    ]
    draw.rectangle((0, 0, ROOMY, 128), fill=wall)
    for y in range(0, 128, 12):
        draw.line((0, y, ROOMY, y), fill=_tone(wall, 0.92))
    for x in range(14 + 8 * variant, ROOMY, 74):
        draw.rectangle((x, 22, x + 36, 92), fill=(120, 134, 146), outline=(236, 234, 230), width=3)
    draw.rectangle((0, 124, ROOMY, 138), fill=(186, 184, 180))
    draw.rectangle((0, 138, ROOMY, ROOMY), fill=(118, 118, 122))
    draw.line((0, 206, ROOMY, 206), fill=(224, 220, 206), width=3)


def _rug(image: Image.Image, draw: ImageDraw.ImageDraw, chance: np.random.Generator, variant: int) -> None:
    _planks(draw, _FLOORS[variant], 0, chance)


def _studio(image: Image.Image, draw: ImageDraw.ImageDraw, chance: np.random.Generator, variant: int) -> None:
    base = ((244, 244, 244), (232, 234, 238), (222, 222, 222), (238, 230, 222), (214, 224, 230), (228, 220, 232))[
        variant
    ]
    for y in range(ROOMY):
        draw.line((0, y, ROOMY, y), fill=_tone(base, 1.0 if y < 140 else 0.965 - 0.04 * (y - 140) / 80))


_PLACES = {
    "room": _room, "table": _table, "outdoors": _outdoors, "street": _street, "rug": _rug, "studio": _studio,
}  # fmt: skip
