from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mercato.features.images import ImageSpec

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
