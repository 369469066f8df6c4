from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mercato.data.images import load_images, read_image
from mercato.errors import MercatoError


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


RED = Image.new("RGB", (6, 4), (255, 0, 0))


def test_bytes_and_paths_give_the_same_photo(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "red.png").write_bytes(encoded(RED))
    from_bytes = read_image(tmp_path, {"bytes": encoded(RED), "path": "somewhere/else.png"})
    from_path = read_image(tmp_path, {"bytes": None, "path": "photos/red.png"})
    assert from_bytes.mode == from_path.mode == "RGB"
    assert from_bytes.tobytes() == from_path.tobytes() == RED.tobytes()


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by a quarter
    turned = read_image(tmp_path, {"bytes": encoded(RED, "JPEG", exif=exif)})
    assert turned.size == (4, 6)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "CMYK"])
def test_any_mode_becomes_rgb_on_white(tmp_path: Path, mode: str) -> None:
    if mode in ("RGBA", "LA"):
        clear = Image.new(mode, (2, 2), 0)
        assert read_image(tmp_path, {"bytes": encoded(clear)}).getpixel((0, 0)) == (255, 255, 255)
    else:
        kind = "JPEG" if mode == "CMYK" else "PNG"
        assert read_image(tmp_path, {"bytes": encoded(RED.convert(mode), kind)}).mode == "RGB"


@pytest.mark.parametrize(
    ("image", "why"),
    [
        ({"bytes": None, "path": None}, "neither"),
        ({}, "neither"),
        ({"bytes": b"", "path": None}, "broken"),
        ({"bytes": b"not a photo", "path": None}, "broken"),
        ({"bytes": encoded(Image.effect_noise((64, 64), 90))[:900], "path": None}, "broken"),
        ({"bytes": None, "path": "/etc/hostname"}, "outside"),
        ({"bytes": None, "path": "../secret.png"}, "outside"),
        ({"bytes": None, "path": "a/../../secret.png"}, "outside"),
        ({"bytes": None, "path": "link.png"}, "outside"),
        ({"bytes": None, "path": "none.png"}, "does not exist"),
        ({"bytes": None, "path": "."}, "does not exist"),
        ({"bytes": None, "path": "a\0b"}, "cannot be"),
        ({"bytes": None, "path": "x" * 5000}, "cannot be"),
    ],
)
def test_a_bad_image_is_refused_with_its_reason(tmp_path: Path, image: dict[str, object], why: str) -> None:
    market = tmp_path / "market"
    market.mkdir()
    (tmp_path / "secret.png").write_bytes(encoded(RED))
    (market / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(MercatoError, match=why):
        read_image(market, image)


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    with pytest.raises(MercatoError, match="pixels"):
        read_image(tmp_path, {"bytes": encoded(Image.new("1", (10_000, 6_000)))})
    with pytest.raises(MercatoError, match=r"broken|pixels"):
        read_image(tmp_path, {"bytes": encoded(Image.new("1", (30_000, 20_000)))})


def test_load_images_skips_the_unreadable_and_stops_at_the_limit(tmp_path: Path) -> None:
    good, bad = {"bytes": encoded(RED), "path": None}, {"bytes": b"?", "path": None}
    assert load_images(tmp_path, None) == []
    assert len(load_images(tmp_path, [bad, good, None, good])) == 2
    assert len(load_images(tmp_path, [bad, *[good] * 9])) == 5
    assert len(load_images(tmp_path, [good] * 9, limit=2)) == 2


@given(position=st.integers(0, 120), value=st.integers(0, 255), length=st.integers(1, 140))
def test_damaged_files_are_read_or_refused_never_a_crash(position: int, value: int, length: int) -> None:
    content = bytearray(encoded(RED.resize((16, 16)), "GIF") + b"\0" * 10)[:length]
    content[position % len(content)] = value
    with suppress(MercatoError):
        assert read_image(Path(), {"bytes": bytes(content)}).mode == "RGB"
