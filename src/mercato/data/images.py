"""Product images: bytes, or a file inside the market, to RGB; broken ones, and paths that lead outside, are refused."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from mercato.errors import MercatoError

MAX_PIXELS = 50_000_000
MAX_BYTES = 64_000_000
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "MPO")  # plain raster formats: no decoder that runs programs


def read_image(market_path: Path, image: Mapping[str, Any]) -> Image.Image:
    """Decode one `{"bytes", "path"}` of a product's `images` to RGB, upright (EXIF), transparency on white.

    `bytes` is preferred; a `path` is relative to `market_path` and, symlinks resolved, must stay inside it.

    Raises:
        MercatoError: neither bytes nor path, a path outside the market, or an image that is broken, truncated, of an
            unknown format or beyond 50 megapixels or 64 MB; the message says which.
    """
    content = image.get("bytes")
    if content is None:
        content = _read_inside(Path(market_path), image.get("path"))
    if len(content) > MAX_BYTES:
        raise MercatoError(f"the image has {len(content):,} bytes, more than {MAX_BYTES:,}")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
            width, height = opened.size
            if width * height > MAX_PIXELS:
                raise MercatoError(f"the image has {width}×{height} pixels, more than {MAX_PIXELS:,}")
            opened.load()
            return _flatten(ImageOps.exif_transpose(opened))
    except MercatoError:
        raise
    except Exception as error:  # decoders raise anything from SyntaxError to struct.error on a broken file
        raise MercatoError(f"the image is broken or of an unknown format ({error})") from None


def load_images(
    market_path: Path, images: Iterable[Mapping[str, Any] | None] | None, limit: int = 5
) -> list[Image.Image]:
    """The first `limit` readable images of a product, RGB; unreadable ones are skipped (`mercato check` lists them)."""
    loaded: list[Image.Image] = []
    for image in images or ():
        if len(loaded) == limit:
            break
        try:
            loaded.append(read_image(market_path, image or {}))
        except MercatoError:
            continue
    return loaded


def inside(folder: Path, path: str) -> Path:
    """Resolve a relative `path` under `folder`; MercatoError where it is absolute or, symlinks resolved, leads out."""
    try:
        root = folder.resolve()
        target = (root / path).resolve()
        if Path(path).is_absolute() or not target.is_relative_to(root):
            raise MercatoError(f"the image path {path!r} points outside {folder}")
    except (OSError, ValueError, RuntimeError) as error:  # a NUL in the name, a loop of symlinks, a name too long
        raise MercatoError(f"the image path {path!r} cannot be used ({error})") from None
    return target


def _read_inside(market_path: Path, path: object) -> bytes:
    if not isinstance(path, str) or not path:
        raise MercatoError("the image has neither bytes nor a path")
    target = inside(market_path, path)
    try:
        if not target.is_file():
            raise MercatoError(f"the image file {path!r} does not exist")
        if target.stat().st_size > MAX_BYTES:
            raise MercatoError(f"the image file {path!r} has more than {MAX_BYTES:,} bytes")
        return target.read_bytes()
    except (OSError, ValueError) as error:
        raise MercatoError(f"the image file {path!r} cannot be read ({error})") from None


def _flatten(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        ground = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(ground, layer).convert("RGB")
    return image.convert("RGB")
