"""Prices as people and shops write them: currencies before or behind, thousands in groups, decimal points or commas.

"1.299" alone may be 1.299 or 1299: whoever writes "19,99" elsewhere in the column means the latter.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

DecimalMark = Literal[".", ","]

LONGEST = 60  # characters of a price
SYMBOLS = {
    "€": "EUR",
    "£": "GBP",
    "R$": "BRL",
    "zł": "PLN",
    "₹": "INR",
    "₩": "KRW",
    "₽": "RUB",
    "₺": "TRY",
    "₫": "VND",
    "₴": "UAH",
    "₦": "NGN",
    "₪": "ILS",
    "฿": "THB",
    "Kč": "CZK",
    "Ft": "HUF",
}
ISO_4217 = """
AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CLP CNY
COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HTG HUF IDR ILS INR
IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT MOP MRU MUR
MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF SAR SBD SCR SDG SEK SGD
SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD UYU UZS VES VND VUV WST XAF XCD XOF
XPF YER ZAR ZMW ZWG
"""
CODES = frozenset(ISO_4217.split())
SHARED = ("US$", "$", "¥", "￥", "kr", "kr.", "Rs", "Rs.")  # of several countries: they name no currency
WHOLE = {"JPY", "KRW", "VND", "CLP", "ISK", "¥", "￥"}  # nothing is smaller than one
SPACES = re.compile(r"(?<=\d)[\s\u00a0\u202f'\u2019](?=\d{3}(?!\d))")  # between thousands
_MARK = "|".join(re.escape(mark) for mark in sorted((*SYMBOLS, *SHARED), key=len, reverse=True))
PRICE = re.compile(
    rf"(?P<before>[A-Za-z]{{3}}|{_MARK})?\s*(?P<number>[-+]?[\d.,]*\d(?:[eE][-+]?\d+)?)[.,]?-*\s*(?P<behind>[A-Za-z]{{3}}|{_MARK})?"
)
RANGE = re.compile(r"\s+[-–—]\s+|\s*\|\|\s*|\s+to\s+")
GROUPS = re.compile(r"[-+]?[1-9]\d{0,2}(?:[.,]\d{3})+")


class Written(NamedTuple):
    """A price as it stands there."""

    number: str  # digits with points and commas
    currency: str | None  # an ISO 4217 code, where what is written names one
    is_whole: bool  # of a currency without a smaller unit
    is_plain: bool  # a number and nothing else


def written_price(text: str) -> Written:
    """What a text says; of a range its first price.

    Raises:
        ValueError: it is no price.
    """
    if len(text) > LONGEST:
        raise ValueError("is not a price")
    first = RANGE.split(SPACES.sub("", text.strip()), maxsplit=1)[0]
    match = PRICE.fullmatch(first)
    if match is None:
        raise ValueError("is not a price")
    marks = [mark for mark in (match["before"], match["behind"]) if mark]
    codes = [SYMBOLS.get(mark, mark.upper() if mark not in SHARED else None) for mark in marks]
    if not {code for code in codes if code} <= CODES:
        raise ValueError("is not a price")
    currency = next(filter(None, codes), None)
    return Written(match["number"], currency, bool(WHOLE & {*marks, currency}), first == match["number"])


def decimal_marks(values: Sequence[Any]) -> set[DecimalMark]:
    """The decimal marks that prices of a column show beyond doubt."""
    found: set[DecimalMark] = set()
    for value in values:
        try:
            number = written_price(value).number if isinstance(value, str) else ""
        except ValueError:
            continue
        mark = _last_mark(number)
        if mark and number.count(mark) == 1 and not _may_be_thousands(number):
            found.add(mark)
    return found


def price_currency(value: Any) -> str | None:
    """The currency that a price names, if it is text and names one."""
    try:
        return written_price(value).currency if isinstance(value, str) else None
    except ValueError:
        return None


def price_number(text: str, marks: set[DecimalMark]) -> float:
    """The number of a price, in a column that shows these decimal marks (or that of a map's `decimal`).

    Raises:
        ValueError: it is no price, or may be one of two.
    """
    written = written_price(text)
    number, mark = written.number, _last_mark(written.number)
    if mark is None:
        return float(number)
    other: DecimalMark = "," if mark == "." else "."
    if _may_be_thousands(number):
        if number.count(mark) > 1 or written.is_whole or marks == {other}:
            return float(number.replace(mark, ""))
        if marks == {mark} or (not marks and mark == "." and written.is_plain):
            return float(number.replace(",", "."))
        if marks or mark == ".":
            raise ValueError(f'may be thousands or decimals: say decimal = "." or "," in the map ({text.strip()})')
        return float(number.replace(",", ""))
    whole, decimals = number.rsplit(mark, 1)
    if not re.fullmatch(rf"[-+]?\d*|[-+]?\d{{1,3}}(?:{re.escape(other)}\d{{3}})+", whole):
        raise ValueError("is not a price")
    return float(f"{whole.replace(other, '')}.{decimals}")


def _last_mark(number: str) -> DecimalMark | None:
    marks = [mark for mark in number if mark in ".,"]
    return None if not marks else "." if marks[-1] == "." else ","


def _may_be_thousands(number: str) -> bool:
    return GROUPS.fullmatch(number) is not None and len({*number} & {".", ","}) == 1
