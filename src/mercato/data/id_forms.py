"""Ids that one table writes in another form than the catalogue: spreadsheets and data frames take them for numbers."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from decimal import Decimal
from typing import NamedTuple

_NUMBER = re.compile(r"\d+(\.\d+)?([eE]\+?\d{1,2})?", re.ASCII)
_ROUNDED = re.compile(r"\d\.(\d+)[eE]\+\d{2}", re.ASCII)  # as spreadsheets show what is too long for a cell


class OtherForm(NamedTuple):
    """Ids that the catalogue has in another form.

    Attributes:
        ids: these, as the table writes them.
        here, there: one of them, and the same id in the catalogue.
    """

    ids: frozenset[str]
    here: str
    there: str

    def __str__(self) -> str:
        both = f"{self.here} {self.there}".lower()
        how = "scientific notation" if "e" in both else "a decimal point" if "." in both else "leading zeros"
        return (
            f"ids that the products table has in another form ({how}: {self.here!r} here, {self.there!r} there); export"
            " them as text on both sides (pandas: dtype=str; a spreadsheet: format the column as text before the file"
            " is opened) and import again"
        )


def other_form(strangers: Iterable[str], known: Iterable[str]) -> OtherForm | None:
    """Those of `strangers`, ids that are not in `known`, that are there but for the form of their number; None: none.

    "00123", "123", "123.0" and "1.23E+02" are one id, and "1.23457E+11" is any that a spreadsheet would show so.
    """
    theirs = {text: number for text in strangers if (number := _number(text))}
    if not theirs:
        return None
    ours: dict[str, str] = {}
    for text in known:
        if number := _number(text):
            ours.setdefault(number, text)
    found = {text: ours[number] for text, number in theirs.items() if number in ours}
    for digits in _rounded_to(theirs):
        shown = {_rounded(number, digits): text for number, text in ours.items()}
        found |= {
            text: shown[key]
            for text in theirs
            if _digits(text) == digits and (key := _rounded(theirs[text], digits)) in shown
        }
    for digits in _rounded_to(ours.values()):
        shown = {_rounded(number, digits): text for number, text in ours.items() if _digits(text) == digits}
        found |= {text: shown[key] for text, number in theirs.items() if (key := _rounded(number, digits)) in shown}
    if not found:
        return None
    here = min(found)
    return OtherForm(frozenset(found), here, found[here])


def _number(text: str) -> str | None:
    """The whole number that an id is, without its form; None where it is none."""
    if text.isascii() and text.isdigit():
        return text.lstrip("0") or "0"
    if not _NUMBER.fullmatch(text) or (number := Decimal(text)) != number.to_integral_value():
        return None
    return str(int(number))


def _rounded_to(texts: Collection[str]) -> set[int]:
    return {digits for text in texts if (digits := _digits(text))}


def _digits(text: str) -> int:
    """To how many digits a number was rounded when it was written so; 0: it was not."""
    written = _ROUNDED.fullmatch(text)
    return 1 + len(written[1]) if written else 0


def _rounded(number: str, digits: int) -> str:
    return f"{Decimal(number):.{digits - 1}E}"
