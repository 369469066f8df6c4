from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mercato.features.images import ImageSpec
from mercato.models.patches import Squares
from mercato.runs.image_encoder import ImageEncoder
from mercato.training.data.image_encoder import write_image_encoder

SPEC = ImageSpec(dimension=4, size=32, resize=40, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))


@pytest.mark.parametrize("size", [(1, 1), (40, 40), (31, 500), (3000, 20)])
def test_one_colour_is_normalised(size):
    pixels = SPEC.pixels(Image.new("RGB", size, (255, 0, 51)))
    assert pixels.shape == (3, 32, 32) and pixels.dtype == np.float32
    for channel, expected in zip(pixels, ((1 - 0.5) / 0.2, -0.4 / 0.2, (0.2 - 0.3) / 0.2), strict=True):
        np.testing.assert_allclose(channel, expected, atol=1e-5)


def test_the_middle_is_kept():
    image = Image.new("RGB", (120, 40), "black")
    image.paste("white", (40, 0, 80, 40))
    assert (SPEC.pixels(image) > 0).all()
    off = Image.new("RGB", (120, 40), "black")
    off.paste("white", (0, 0, 40, 40))
    assert (SPEC.pixels(off) < 0).all()


def test_a_photo_like_a_thread_does_no_harm():
    assert SPEC.pixels(Image.new("RGB", (5_000_000, 1), "white")).shape == (
        3,
        32,
        32,
    )  # 8 billion pixels if all were scaled


# --- patches

PLACES = np.zeros((16, 16, 3), np.uint8)  # red tells the row, green the column
PLACES[..., 0], PLACES[..., 1] = 10 * np.arange(16)[:, None], 10 * np.arange(16)[None]


def stored(picture: Image.Image, kind: str = "PNG", **options) -> dict:
    content = io.BytesIO()
    picture.save(content, kind, **options)
    return {"bytes": content.getvalue(), "path": None}


@pytest.fixture(scope="module")
def patches(tmp_path_factory) -> ImageEncoder:
    """Squares of 8 pixels a side of images of 16, whose numbers are a photo's own, 0 to 255."""
    folder = tmp_path_factory.mktemp("patches")
    spec = ImageSpec(192, 16, 16, (0.0,) * 3, (1 / 255,) * 3, patches=4)
    write_image_encoder(Squares(8), spec, folder)
    return ImageEncoder(folder)


def test_patches_stand_where_they_were_cut(patches):
    whole, wide = Image.fromarray(PLACES), Image.new("RGB", (48, 16), "blue")
    wide.paste(whole, (16, 0))
    (found,) = patches.encode([[stored(whole), stored(wide)]], Path(), 5)
    assert found.shape == (2, 4, 192) and found.dtype == np.float32
    np.testing.assert_allclose(found[0], found[1], atol=1e-3)  # of the wide one the middle
    squares = found[0].reshape(4, 8, 8, 3)
    np.testing.assert_allclose(squares[0], PLACES[:8, :8], atol=1e-3)
    np.testing.assert_allclose(squares[1], PLACES[:8, 8:], atol=1e-3)
    np.testing.assert_allclose(squares[2], PLACES[8:, :8], atol=1e-3)
    np.testing.assert_allclose(squares[3], PLACES[8:, 8:], atol=1e-3)


def test_every_readable_image_of_a_product_has_its_patches(patches):
    red, green = (Image.new("RGB", (20, 30), colour) for colour in ("red", "lime"))
    animated = stored(red, "GIF", save_all=True, append_images=[green] * 3)
    broken, huge = {"bytes": b"GIF89a nonsense", "path": None}, stored(Image.new("1", (10_000, 6_000)))
    goods = [None, [], [broken, huge], [animated, broken, stored(green), huge], [stored(red)] * 9]
    found = list(patches.encode(goods, Path(), 5))
    assert [own.shape for own in found] == [(0, 4, 192)] * 3 + [(2, 4, 192), (5, 4, 192)]
    colours = found[3].reshape(2, 4 * 64, 3)
    assert np.ptp(colours, axis=1).max() < 1e-3, "plain"
    np.testing.assert_allclose(colours[:, 0], [[255, 0, 0], [0, 255, 0]], atol=1e-3)  # the first frame; then lime
    assert [own.shape for own in patches.encode([], Path(), 5)] == []


def test_onnx_cuts_as_torch_does(patches):
    pictures = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    (found,) = patches.encode([[stored(Image.fromarray(picture)) for picture in pictures]], Path(), 5)
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float()
    np.testing.assert_allclose(found, Squares(8)(pixels), atol=1e-3)
