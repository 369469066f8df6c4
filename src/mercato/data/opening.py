"""What a file is, by its name and its first bytes: compressed, in which encoding, and the text or table inside."""

from __future__ import annotations

import codecs
import gzip
import io
import zipfile
import zlib
from pathlib import Path, PurePath

from mercato.errors import MercatoError

TEXTS = (".csv", ".tsv", ".txt", ".json", ".jsonl", ".ndjson", ".xml")
KINDS = (*TEXTS, ".parquet", ".xlsx", ".xls", ".ods")
PACKED = (".gz", ".zip")

_UTF8 = codecs.BOM_UTF8
_MARKS = {  # the longer first: UTF-32's begins with UTF-16's
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_SEEN = 64  # bytes by which UTF-16 without a mark is known


def unpack(path: Path) -> tuple[str, bytes]:
    """The kind (one of `KINDS`) and the content of a file, of a packed one those of what is in it.

    Raises:
        MercatoError: there is no such file, it is of no such kind, or cannot be unpacked.
    """
    if kind_of(path) is None:
        raise MercatoError(
            f"{path}: cannot tell its format; use one of {', '.join(KINDS)}, or one of them in .gz or .zip"
        )
    if not path.is_file():
        raise MercatoError(f"{path}: no such file")
    name, content = PurePath(path.name), path.read_bytes()
    try:
        if name.suffix.lower() == ".gz":
            name, content = PurePath(name.stem), gzip.decompress(content)
        elif name.suffix.lower() == ".zip":
            name, content = _only_file(path, content)
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError) as error:  # encrypted, or packed otherwise
        raise MercatoError(f"{path}: cannot be unpacked: {error}") from None
    return name.suffix.lower(), content


def kind_of(path: Path) -> str | None:
    """The kind that a file's name tells, packed or not; "" for a .zip, which its content tells; None: none of these."""
    name = PurePath(path.name)
    if name.suffix.lower() == ".zip":
        return ""
    kind = PurePath(name.stem).suffix.lower() if name.suffix.lower() == ".gz" else name.suffix.lower()
    return kind if kind in KINDS else None


def utf8(path: Path, content: bytes, encoding: str | None) -> tuple[bytes, int | None]:
    """A text in UTF-8 without a byte order mark, and where it begins in the file; None: its bytes are others there.

    UTF-16 and UTF-32 are known by their marks, UTF-16 also by the zeros of its first characters.

    Args:
        path: for the messages.
        content: the file's bytes.
        encoding: what it is in; None: UTF-8, but for what the first bytes say.

    Raises:
        MercatoError: it is in another encoding; the message names line and byte, and the setting.
    """
    marked = next((known for mark, known in _MARKS.items() if content.startswith(mark)), None)
    encoding = encoding or marked or _unmarked(content[:_SEEN]) or "utf-8"
    if codecs.lookup(encoding).name in ("utf-8", "utf-8-sig"):
        mark = len(_UTF8) if content.startswith(_UTF8) else 0
        return content[mark:], mark
    try:
        return codecs.decode(content, encoding).removeprefix("\ufeff").encode(), None
    except UnicodeDecodeError as error:
        line = 1 + content.count(b"\n", 0, error.start)
        raise MercatoError(f"{path}: line {line}, byte {error.start}: is not {encoding}") from None
    except UnicodeEncodeError:
        raise MercatoError(f"{path}: is not {encoding}: it has halves of characters") from None


def _unmarked(start: bytes) -> str | None:
    """UTF-16 without a mark, of a text that begins with a line of ASCII."""
    if len(start) >= 4 and not any(start[1::2]) and all(start[::2]):
        return "utf-16-le"
    return "utf-16-be" if len(start) >= 4 and not any(start[::2]) and all(start[1::2]) else None


def _only_file(path: Path, content: bytes) -> tuple[PurePath, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/") and not name.startswith("__MACOSX/")]
        if len(names) != 1:
            inside = ", ".join(names[:5]) + ", …" * (len(names) > 5)
            raise MercatoError(f"{path}: holds {len(names)} files ({inside}); unpack it and give those that are meant")
        name = PurePath(names[0])
        if name.suffix.lower() not in KINDS:
            raise MercatoError(f"{path}: cannot tell the format of {name} in it; use one of {', '.join(KINDS)}")
        return name, archive.read(names[0])
