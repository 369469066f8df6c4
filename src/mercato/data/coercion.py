"""Type coercion: imported values → the schema's types; a value of no such type becomes null, reported with its row."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from mercato.data.prices import DecimalMark, decimal_marks, price_number
from mercato.data.reading import Values, python_values
from mercato.data.schema import IMAGE, TIMESTAMP

THOUSANDS = re.compile(r"[-+]?\d{1,3}(,\d{3})+(\.\d+)?")
CURRENCY = "$€£¥₹₩₽₺₫₴₦ \u00a0"
MISSING = ("NULL", "Null", "null", "(null)", r"\N", "None", "nan", "NaN", "NAN", "N/A", "n/a", "#N/A", "undefined")
"""How dumps, spreadsheets and programs write that there is no value. A country's NA is Namibia."""
UNTYPED = ("NULL", r"\N")  # of these, what nobody searches for: nan is bread
TYPED_BY_PEOPLE = ("query", "user_query")
ZONE = re.compile(r"(.*\d) ?(?:UTC|GMT)", re.IGNORECASE)
SLASHES = re.compile(r"(\d{4})/(\d{1,2})/(\d{1,2})")
COMPACT = {8: "%Y%m%d", 14: "%Y%m%d%H%M%S"}  # whole numbers of so many digits that are dates
JOINED_BY = {"category": " > "}  # a list of names in a text column; elsewhere it is one line each


class Bad(NamedTuple):
    """A value that was dropped: its row, why, and the value itself as a short text."""

    row: int
    why: str
    value: str


def coerce(
    column: str,
    kind: pa.DataType,
    values: Values,
    missing: Sequence[str] = MISSING,
    decimal: DecimalMark | None = None,
) -> tuple[pa.ChunkedArray, list[Bad]]:
    """Turn a column into the schema's type, leniently.

    Numbers may be text ("1,299.00", "$5"), prices what `mercato.data.prices` reads, with this `decimal` mark or that of
    the column's other prices, times what `parse_time` reads, text is trimmed, and null where it is empty,
    attributes may be objects, JSON text or key/value pairs, images may be bytes, paths, or lists of them. A text that
    is one of `missing` is null; of queries, which people type, those alone that nobody would.

    Returns:
        The column, null where a value could not be understood, and those values.

    Raises:
        MercatoError: the file's type cannot be read at all.
    """
    values = _present(values, [word for word in missing if column not in TYPED_BY_PEOPLE or word in UNTYPED])
    if isinstance(values, pa.ChunkedArray):
        fast = _fast(kind, values)
        if fast is not None:
            return _lower(column, fast), []
    given = python_values(values)
    parse = _price_parser(given, decimal) if column == "price" else _parser(column, kind)
    result, bad = [], []
    for row, value in enumerate(given):
        try:
            result.append(None if value is None else parse(value))
        except (ValueError, TypeError, OverflowError, ArithmeticError) as error:
            result.append(None)
            bad.append(Bad(row, str(error) or "cannot be understood", shorten(value)))
    return _lower(column, pa.chunked_array([pa.array(result, kind)], kind)), bad


def parse_time(value: Any) -> datetime:
    """A time as exports write it → UTC datetime.

    ISO 8601 (UTC where it has no zone), BigQuery's "2026-11-01 10:00:00 UTC", a year-first date with slashes, RFC 2822,
    a date, a whole number that is one (20261101, 20261101100000), or an epoch in s, ms, µs or ns by its size.

    Raises:
        ValueError: it is none of these, or outside the years 1 to 9999.
    """
    if isinstance(value, str):
        value = _time_of_text(value.strip())
    if isinstance(value, datetime):
        try:
            return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
        except OverflowError:
            raise ValueError("is not a time in the years 1 to 9999") from None
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal) or not math.isfinite(value):
        raise ValueError("is not an ISO 8601 time or an epoch")
    if (format_ := COMPACT.get(len(str(int(value))))) is not None and value == int(value):
        try:
            return datetime.strptime(str(int(value)), format_).replace(tzinfo=UTC)
        except ValueError:
            pass
    size = abs(float(value))
    unit = 1 if size < 1e11 else 1e3 if size < 1e14 else 1e6 if size < 1e17 else 1e9
    try:
        return datetime.fromtimestamp(float(value) / unit, UTC)
    except (ValueError, OverflowError, OSError):
        raise ValueError("is not a time in the years 1 to 9999") from None


def _time_of_text(text: str) -> datetime | float:
    zoned = ZONE.fullmatch(text)
    try:
        return datetime.fromisoformat(SLASHES.sub(_dashed, f"{zoned[1]}+00:00" if zoned else text, count=1))
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return parsedate_to_datetime(text)
    except ValueError:
        raise ValueError("is not an ISO 8601 time or an epoch") from None


def _dashed(date: re.Match[str]) -> str:
    return f"{date[1]}-{date[2]:0>2}-{date[3]:0>2}"


def shorten(value: Any) -> str:
    """A value as text of at most 80 characters, for messages."""
    text = f"{len(value)} bytes" if isinstance(value, bytes) else str(value)
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= 80 else text[:79] + "…"


def shorten_at(values: pa.ChunkedArray, row: int) -> str:
    """`shorten` of one value of a column, whatever its type."""
    try:
        return shorten(values[row].as_py())
    except (ValueError, OverflowError):
        return "a value out of range"


def _present(values: Values, missing: Sequence[str]) -> Values:
    """The column with nulls in place of what says that there is no value."""
    if isinstance(values, pa.ChunkedArray):
        kind = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
        if not pa.types.is_string(kind) and not pa.types.is_large_string(kind):
            return values
        values = values.cast(pa.string())
        said = pc.is_in(pc.utf8_trim_whitespace(values), pa.array(missing, pa.string()))
        return pc.if_else(said, pa.scalar(None, pa.string()), values)
    return [None if isinstance(value, str) and value.strip() in missing else value for value in values]


def _fast(kind: pa.DataType, values: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """The column by Arrow's own casts, where these mean the same as the value-by-value way; None where they do not."""
    had = values.type
    try:
        if pa.types.is_dictionary(had):
            values, had = values.cast(had.value_type), had.value_type
        if pa.types.is_string(had) or pa.types.is_large_string(had):
            values = pc.utf8_trim_whitespace(values.cast(pa.string()))
            values = pc.if_else(pc.equal(values, ""), pa.scalar(None, pa.string()), values)
            if kind == pa.string() or kind == pa.float64():
                return values.cast(kind)
        elif kind == pa.string():
            return values.cast(kind) if pa.types.is_integer(had) else None
        elif kind == TIMESTAMP:
            return values.cast(kind, safe=False) if pa.types.is_timestamp(had) or pa.types.is_date(had) else None
        elif kind in (pa.float64(), pa.int64()):
            return values.cast(kind) if pa.types.is_integer(had) or pa.types.is_floating(had) else None
        elif kind == pa.list_(IMAGE):
            images = values.cast(kind)
            flat = pc.list_flatten(images)
            path, content = pc.struct_field(flat, "path"), pc.struct_field(flat, "bytes")
            given_as_path = pc.and_(pc.is_null(content), pc.is_valid(path))
            return None if pc.any(given_as_path).as_py() else images
        elif pa.types.is_nested(kind):
            return values.cast(kind)
    except (pa.ArrowException, ValueError):
        return None
    return None


def _parser(column: str, kind: pa.DataType) -> Callable[[Any], Any]:
    if column == "attributes":
        return _attributes
    if column == "images":
        return _images
    if column == "image_embeddings":
        return _vectors
    if kind == pa.string():
        return lambda value: _text(value, JOINED_BY.get(column, "\n"))
    if kind == TIMESTAMP:
        return parse_time
    return _whole if kind == pa.int64() else _number


def _price_parser(values: Sequence[Any], decimal: DecimalMark | None) -> Callable[[Any], Any]:
    marks = {decimal} if decimal else decimal_marks(values)

    def parse(value: Any) -> float | None:
        if isinstance(value, str):
            return price_number(value, marks) if value.strip() else None
        return _number(value)

    return parse


def _lower(column: str, values: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.utf8_lower(values) if column in ("country", "language") else values


def _text(value: Any, joined_by: str = "\n") -> str | None:
    if isinstance(value, str):
        text = value if value.isascii() else value.encode("utf-8", "replace").decode()
        return text.strip() or None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else str(value)
    if isinstance(value, int | Decimal | date):
        return str(value)
    if isinstance(value, bytes):
        return value.decode().strip() or None
    if isinstance(value, list) and not any(isinstance(item, list | dict) for item in value):
        return joined_by.join(filter(None, map(_text, value))) or None
    raise ValueError("is not text")


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        text = value.strip().strip(CURRENCY)
        if not text:
            return None
        try:
            return float(text.replace(",", "") if THOUSANDS.fullmatch(text) else text)
        except ValueError:
            raise ValueError("is not a number") from None
    if isinstance(value, int | float | Decimal):
        return float(value)
    raise ValueError("is not a number")


def _whole(value: Any) -> int | None:
    number = _number(value)
    if number is None or math.isnan(number):
        return None
    if not number.is_integer() or abs(number) >= 2**53:
        raise ValueError("is not a whole number")
    return int(number)


def _json(value: str) -> Any:
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        return None


def _attributes(value: Any) -> list[tuple[str, str]]:
    if isinstance(value, str):
        if not value.strip():
            return []
        value = _json(value)
    if isinstance(value, list):
        pairs = [tuple(item.values()) if isinstance(item, dict) else item for item in value]
        if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
            raise ValueError("is not a list of key/value pairs")
        value = {_text(key): item for key, item in pairs if key is not None}
    if not isinstance(value, Mapping):
        raise ValueError("is not a map of names to values")
    texts = {_text(key): _text(item, ", ") for key, item in value.items() if key is not None and item is not None}
    return [(key, text) for key, text in texts.items() if key is not None and text is not None]


def _images(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, str) and value.strip().startswith("["):
        value = _json(value)
    return [image for image in map(_image, value if isinstance(value, list) else [value]) if image]


def _image(value: Any) -> dict[str, Any] | None:
    content, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (None, value)
    if isinstance(value, bytes):
        content, path = value, None
    if content is not None and not isinstance(content, bytes):
        raise ValueError("is not an image: its bytes are not bytes")
    if path is not None and not isinstance(path, str):
        raise ValueError("is not an image path")
    if content is None and path is not None and "://" in path:
        raise ValueError("is a link: download the image and give its path or bytes")
    path = _text(path) if path else None
    return {"bytes": content, "path": path} if content or path else None


def _vectors(value: Any) -> list[list[float]]:
    if isinstance(value, str):
        value = _json(value)
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, list):
        raise ValueError("is not a list of vectors")
    if value and not isinstance(value[0], list):
        value = [value]
    if any(not isinstance(vector, list) or any(type(x) not in (int, float) for x in vector) for vector in value):
        raise ValueError("is not a list of vectors of numbers")
    return [[float(x) for x in vector] for vector in value]
