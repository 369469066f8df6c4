"""Images for fine-tuning: what they look like, that they are always the same, and who decodes them."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mercato.data.images import load_images, read_image
from mercato.data.market import Market
from mercato.errors import MercatoError
from mercato.features.images import ImageSpec
from mercato.training.data import images as images_module
from mercato.training.data.images import ProductImages, ahead
from tests.support.toys import make_market, products

SPEC = ImageSpec(4, 16, 18, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2))


def image(seed: int) -> bytes:
    """Left dark, right light, and otherwise noise."""
    noise = np.random.default_rng(seed).integers(0, 100, (30, 24, 3), np.uint8)
    noise[:, 12:] += 155
    content = io.BytesIO()
    Image.fromarray(noise).save(content, "PNG")
    return content.getvalue()


@pytest.fixture
def market(tmp_path: Path) -> Market:
    broken, outside = {"bytes": b"GIF89a nonsense", "path": None}, {"bytes": None, "path": "../elsewhere.png"}
    images = [
        [{"bytes": image(0), "path": None}],
        None,
        [broken, {"bytes": image(2), "path": None}, outside, {"bytes": None, "path": "beside.png"}],
        [broken],
        [{"bytes": image(10 + i), "path": None} for i in range(7)],
    ]
    goods = [row | {"images": own} for row, own in zip(products(5), images, strict=True)]
    made = make_market(tmp_path / "market", goods, [])
    (made.path / "beside.png").write_bytes(image(3))
    return made


def opened(market: Market, limit: int = 5, rows: tuple[int, ...] = (0, 1, 2, 3, 4)) -> ProductImages:
    return ProductImages(market, np.array(rows), SPEC, limit)


def test_images_that_cannot_be_read_do_not_count(market):
    assert opened(market).counts.tolist() == [1, 0, 2, 0, 5]
    assert opened(market, limit=1, rows=(4, 3, 2)).counts.tolist() == [1, 0, 1]


@pytest.mark.parametrize("room", [0, images_module.CACHE_BYTES])
def test_without_augmentation_they_are_what_serving_reads(market, monkeypatch, room):
    monkeypatch.setattr(images_module, "CACHE_BYTES", room)
    images = market.arrow("products", ["images"])["images"].to_pylist()
    expected = [SPEC.pixels(own) for row in (4, 2) for own in load_images(market.path, images[row], 2)]
    images = opened(market)
    for _ in range(2):
        pixels = images.pixels(np.array([4, 1, 2]), np.array([2, 0, 2]))
        assert pixels.shape == (4, 16, 16, 3) and pixels.dtype == np.uint8
        normal = (pixels / 255 - np.array(SPEC.mean)) / np.array(SPEC.std)
        np.testing.assert_allclose(normal.transpose(0, 3, 1, 2), np.stack(expected), atol=1e-5)
    assert images.pixels(np.array([1]), np.array([0])).shape == (0, 16, 16, 3)


def test_augmentation_crops_and_mirrors_and_is_drawn_alone_from_its_generator(market):
    images = opened(market)
    many = np.full(200, 0), np.ones(200, np.int64)
    drawn = images.pixels(*many, np.random.default_rng(7))
    assert np.array_equal(opened(market).pixels(*many, np.random.default_rng(7)), drawn)
    assert not np.array_equal(images.pixels(*many, np.random.default_rng(8)), drawn)
    lighter_right = drawn[:, :, 8:].mean((1, 2, 3)) > drawn[:, :, :8].mean((1, 2, 3))
    assert 60 < lighter_right.sum() < 140  # mirrored or not
    assert len(np.unique(drawn.reshape(200, -1), axis=0)) == 2 * 3 * 3  # by as many places of the crop
    square = np.asarray(SPEC.square(read_image(market.path, {"bytes": image(0)})))
    assert drawn.mean((1, 2)) / square.mean((0, 1)) == pytest.approx(1, abs=0.15)  # colours stay


def test_others_than_the_training_thread_decode(market, monkeypatch):
    seen = []

    def load(*args):
        seen.append(threading.current_thread().name)
        return load_images(*args)

    monkeypatch.setattr(images_module, "load_images", load)
    monkeypatch.setattr(images_module, "CACHE_BYTES", 0)
    opened(market).pixels(np.array([4]), np.array([2]))
    assert len(seen) == 6 and threading.current_thread().name not in seen
    assert all(name.startswith("images") for name in seen)


def test_images_beyond_the_bound_are_decoded_again(market, monkeypatch):
    square = 18 * 18 * 3
    monkeypatch.setattr(images_module, "CACHE_BYTES", 3 * square)
    images = opened(market)  # products 0 and 2 have three together, and are kept; 4 has five
    (market.path / "beside.png").unlink()
    generator = np.random.default_rng(0)
    assert images.pixels(np.array([0, 2]), np.array([1, 2]), generator).shape == (3, 16, 16, 3)


def test_an_image_that_is_gone_is_named(market, monkeypatch):
    monkeypatch.setattr(images_module, "CACHE_BYTES", 0)
    images = opened(market)
    (market.path / "beside.png").unlink()
    with pytest.raises(MercatoError, match="products, row 2, field images"):
        images.pixels(np.array([2]), np.array([2]))


def test_ahead_is_on_another_thread_and_no_further_than_told():
    made = []

    def items():
        for item in range(50):
            made.append(threading.get_ident())
            yield item

    taken = ahead(items(), 3)
    assert [next(taken) for _ in range(5)] == [0, 1, 2, 3, 4]
    assert len(made) <= 5 + 3
    taken.close()
    count = len(made)
    assert set(made) != {threading.get_ident()} and len(set(made)) == 1
    assert list(ahead(items(), 3)) == list(range(50)) and len(made) == count + 50


def test_ahead_passes_errors_on():
    def items():
        yield 1
        raise MercatoError("broken")

    taken = ahead(items())
    assert next(taken) == 1
    with pytest.raises(MercatoError, match="broken"):
        next(taken)
