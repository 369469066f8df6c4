"""Pictures as browsers show them: JPEG, PNG and WebP as they came, anything else that can be read as JPEG."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from mercato.data.images import read_image
from mercato.errors import MercatoError

MAX_BYTES = 10 * 2**20
_LONGEST = 1200  # pixels of a picture that is made for showing


def content_type(content: bytes) -> str | None:
    """The type of a JPEG, PNG or WebP by its first bytes (nothing is decoded); None for anything else."""
    if content.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    return "image/webp" if content[:4] == b"RIFF" and content[8:12] == b"WEBP" else None


def checked_picture(content: bytes, field: str) -> tuple[str, bytes]:
    """Decode a picture to know that it is one; returns its content type and bytes.

    Raises:
        MercatoError: it is larger than 10 MiB or `read_image` refuses it; the message begins with `field`.
    """
    if len(content) > MAX_BYTES:
        raise MercatoError(f"{field}: has {len(content):,} bytes, more than {MAX_BYTES:,}")
    try:
        picture = read_image(Path(), {"bytes": content})
    except MercatoError as error:
        raise MercatoError(f"{field}: {error}") from None
    kind = content_type(content)
    return (kind, content) if kind else ("image/jpeg", _jpeg(picture))


def market_picture(market: Path, path: str) -> tuple[str, bytes]:
    """A picture that lies in a market's folder, made for showing.

    Raises:
        MercatoError: `read_image` refuses it (it reaches outside the market, is broken, …).
    """
    return "image/jpeg", _jpeg(read_image(market, {"path": path}))


def _jpeg(picture: Image.Image) -> bytes:
    picture.thumbnail((_LONGEST, _LONGEST))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=90)
    return out.getvalue()
