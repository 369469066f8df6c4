"""CSV and TSV text as rows: where each begins, and which a stray quote has spoiled. No row swallows another."""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np

from mercato.errors import MercatoError

Quote = Literal['"', ""]

STRAY = (
    "has a quote out of place: within quotes write it twice, or set in the map"
    r""" quote = "" (quotes are text) or escape = '\' (a backslash before a quote makes it text)"""
)
INSIDE = "may be the inside of a row before it that has a quote out of place"
SEVERAL = (
    "is one row with line breaks within quotes, or several rows with stray quotes:"
    ' set in the map quote = \'"\' (one) or quote = "" (several)'
)
_TELLING = 3  # columns from which on a line that has as many fields is hardly one of prose


class Row(NamedTuple):
    """A row: its first line and its end (as indexes of lines), and why it cannot be read."""

    first: int
    end: int
    why: str | None


class Delimited:
    """A text of delimited rows.

    Attributes:
        content: the text.
        starts: where each of its lines begins, and where the last one ends.
    """

    def __init__(self, content: bytes, delimiter: bytes, quote: Quote | None = None, escape: bool = False) -> None:
        """`delimiter` is one byte. `quote` encloses fields, "" none does; None: it does, but there may be strays.

        With `escape`, a backslash within quotes makes text of the quote or backslash that follows.
        """
        self.content, self._delimiter, self._quote, self._escape = content, delimiter, quote, escape
        self.starts = _line_starts(content)
        inside = rb'[^"\\]*+(?:(?:""|\\["\\]?)[^"\\]*+)*+' if escape else rb'[^"]*+(?:""[^"]*+)*+'
        self._quoted = re.compile(rb'"' + inside + rb'"')
        self._plain = re.compile(rb"[^\r\n%b]*+" % delimiter)

    def line(self, number: int) -> bytes:
        """A line without its end."""
        return self.content[self.starts[number] : self.starts[number + 1]].rstrip(b"\r\n")

    def header(self) -> tuple[list[str], int]:
        """The names of the columns, and the line after them; no names where the text is empty.

        Raises:
            MercatoError: a quote is out of place, or the names go over several lines and nothing says that they may.
        """
        first = next((number for number in range(len(self.starts) - 1) if self.line(number)), None)
        if first is None:
            return [], 0
        fields, end, why = self._fields(first)
        if why is None and end > first + 1 and self._quote is None:
            why = SEVERAL
        if why is not None:
            raise MercatoError(f"line {first + 1}, the header, {why}")
        return [self._value(field).decode() for field in fields], end

    def rows(self, width: int, first: int) -> Iterator[Row]:
        """The rows from a line on; an empty line is none.

        Where a quote is out of place, its line alone is set aside and reading goes on in the next one; lines that may
        be the inside of the same row are set aside as well.
        """
        field = rb'(?:%b|(?!")%b)' % (self._quoted.pattern, self._plain.pattern)
        field = self._plain.pattern if self._quote == "" else field
        whole = re.compile(field + rb"(?:%b%b){%d}(?:\r\n|\n|\r|\Z)" % (re.escape(self._delimiter), field, width - 1))
        number, end = first, len(self.starts) - 1
        while number < end:
            found = whole.match(self.content, self.starts[number])
            after = number + 1
            if found and found.end() != self.starts[after]:
                after = bisect_left(self.starts, found.end(), after)
            if self.content[self.starts[number]] in b"\r\n":
                pass
            elif not found:
                yield from (rows := self._spoiled(number, width))
                after = rows[-1].end
            elif after > number + 1 and self._quote is None and self._looks_like_several(number, after, width):
                yield from self._several(number, after, width)
            else:
                yield Row(number, after, None)
            number = after

    def plain(self, row: Row) -> bytes:
        """The text of a row that can be read, with quotes written twice where backslashes escape them."""
        text = self.content[self.starts[row.first] : self.starts[row.end]]
        if not self._escape:
            return text
        fields = [
            b'"' + self._value(field).replace(b'"', b'""') + b'"' if field.startswith(b'"') else field
            for field in self._fields(row.first)[0]
        ]
        return self._delimiter.join(fields) + b"\n"

    def _quote_in(self, line: bytes) -> bool:
        return self._quote != "" and b'"' in line

    def _value(self, field: bytes) -> bytes:
        if not self._quote_in(field[:1]):
            return field
        twice = rb'""|\\["\\]' if self._escape else rb'""'
        return re.sub(twice, lambda pair: pair[0][1:], field[1:-1])

    def _fields(self, first: int, width: int | None = None) -> tuple[list[bytes], int, str | None]:
        """The fields of the row that begins in a line, the line after it, and what is wrong with its quotes.

        A row that has more than `width` fields is followed no further than its first line.
        """
        fields: list[bytes] = []
        at = self.starts[first]
        while True:
            pattern = self._quoted if self._quote_in(self.content[at : at + 1]) else self._plain
            if (found := pattern.match(self.content, at)) is None:
                return fields, len(self.starts) - 1, STRAY
            fields.append(found[0])
            at = found.end()
            after, end = self.content[at : at + 1], max(first + 1, bisect_left(self.starts, at))
            if after in (b"\r", b"\n", b""):
                return fields, end, None
            if after != self._delimiter or (width is not None and len(fields) > width and end > first + 1):
                return fields, end, STRAY
            at += 1

    def _looks_like_row(self, number: int, width: int) -> bool:
        """Whether a line would be a row if quotes were text. Prose has spaces after its commas."""
        fields = self.line(number).split(self._delimiter)
        return len(fields) == width and not any(field.startswith(b" ") for field in fields)

    def _looks_like_several(self, first: int, end: int, width: int) -> bool:
        """Whether what may be one row holds two whole ones: the second, and the first as far as its quote is text."""
        whole = sum(self._looks_like_row(number, width) for number in range(first + 1, end))
        return whole + (self.line(first).count(self._delimiter) >= width - 1) > 1

    def _several(self, first: int, end: int, width: int) -> list[Row]:
        """Lines of which the first opens a quote that the last closes, though they look like rows."""
        return [Row(first, first + 1, SEVERAL), *self._rest(first + 1, end, width, SEVERAL, width >= _TELLING)]

    def _spoiled(self, first: int, width: int) -> list[Row]:
        """A line in which a row begins that cannot be read, and those that may be its inside."""
        fields, end, why = self._fields(first, width)
        if why is None and end == first + 1:
            return [Row(first, end, _ragged(len(fields), width))]
        row = Row(first, first + 1, STRAY)
        if end == first + 1 and self.line(first).count(b'"') % 2 == 0:
            return [row]
        for number in range(first + 1, len(self.starts) - 1):
            closes = self._closes(number)
            if closes:
                return [row, *self._rest(first + 1, number + 1, width, INSIDE, True)]
            if closes is not None:
                break
        return [row]

    def _rest(self, first: int, end: int, width: int, why: str, telling: bool) -> list[Row]:
        """Lines up to one that closes a quote of the line before them: rows, where all look like it, else none is."""
        within = [number for number in range(first, end - 1) if self.line(number)]
        rows = telling and all(self._looks_like_row(n, width) and self._closes(n) is None for n in within)
        return [*(Row(n, n + 1, None if rows else why) for n in within), Row(end - 1, end, why)]

    def _closes(self, number: int) -> bool | None:
        """Whether a line closes a quote of an earlier one, as its first telling quote says; None: none tells."""
        for field in self.line(number).split(self._delimiter):
            if field.startswith(b'"'):
                return False
            if field.endswith(b'"') and field.count(b'"') % 2:
                return True
        return None


def _ragged(fields: int, width: int) -> str:
    return f"has {fields} fields, the header {width}"


def _line_starts(content: bytes) -> array[int]:
    """Where each line begins, and the end: lines end with a line feed, a carriage return or both."""
    octets = np.frombuffer(content, np.uint8)
    feeds, returns = octets == ord("\n"), octets == ord("\r")
    returns[:-1] &= ~feeds[1:]
    starts = np.unique(np.concatenate([[0], np.flatnonzero(feeds | returns) + 1, [len(content)]]))
    return array("q", starts.astype(np.int64).tobytes())
