"""Image validation and formats: JPEG, PNG and WebP as they came, anything else that can be read as JPEG."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from mercato.data.images import FORMATS, read_image
from mercato.errors import MercatoError

MAX_BYTES = 10 * 2**20
MAX_PIXELS = 12_000_000  # of an image that comes over HTTP: 36 MB when it is decoded
_LONGEST = 1200  # pixels of an image re-encoded for display


def content_type(content: bytes) -> str | None:
    """The content type of a JPEG, PNG or WebP by its first bytes (nothing is decoded); None for anything else."""
    if content.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    return "image/webp" if content[:4] == b"RIFF" and content[8:12] == b"WEBP" else None


def checked_image(content: bytes, field: str, most_pixels: int = MAX_PIXELS) -> tuple[str, bytes]:
    """Decode an image to know that it is one; returns its content type and bytes.

    Raises:
        MercatoError: it is larger than 10 MiB, its header says that it has more than `most_pixels` (nothing is decoded
            to know), or `read_image` refuses it; the message begins with `field`.
    """
    if len(content) > MAX_BYTES:
        raise MercatoError(f"{field}: has {len(content):,} bytes, more than {MAX_BYTES:,}")
    try:
        _refuse_large(content, most_pixels)
        image = read_image(Path(), {"bytes": content})
    except MercatoError as error:
        raise MercatoError(f"{field}: {error}") from None
    kind = content_type(content)
    return (kind, content) if kind else ("image/jpeg", _jpeg(image))


def _refuse_large(content: bytes, most_pixels: int) -> None:
    """Look at the header alone; what has none that can be read is left for `read_image` to name."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
            width, height = opened.size
    except Exception:  # decoders raise anything from SyntaxError to struct.error on a broken file
        return
    if width * height > most_pixels:
        raise MercatoError(f"the image has {width}×{height} pixels, more than {most_pixels:,}")


def market_image(market: Path, path: str) -> tuple[str, bytes]:
    """The content type and bytes of an image that lies in a market's folder, re-encoded for display.

    Raises:
        MercatoError: `read_image` refuses it (it reaches outside the market, is broken, …).
    """
    return "image/jpeg", _jpeg(read_image(market, {"path": path}))


def _jpeg(image: Image.Image) -> bytes:
    image.thumbnail((_LONGEST, _LONGEST))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=90)
    return out.getvalue()
