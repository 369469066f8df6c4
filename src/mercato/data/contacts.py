"""Contact data in queries: what somebody typed or pasted into a search field that tells who they are."""

from __future__ import annotations

import re
from collections.abc import Collection

import phonenumbers

_EMAIL = re.compile(r"[^\s@]+@[^\s@]+\.\w{2,}")
_DIGITS = 7  # of the shortest number that is dialled as it is


def contacts_in(query: str, countries: Collection[str] = ()) -> list[str]:
    """The e-mail addresses in a query, and the telephone numbers: international ones, and those of these countries.

    Countries are ISO 3166-1 alpha-2 codes. Numbers are those that exist (`phonenumbers`, of Google's libphonenumber).
    """
    found = _EMAIL.findall(query)
    if sum(map(str.isdigit, query)) >= _DIGITS:
        for region in (None, *(country.upper() for country in countries)):
            found += [match.raw_string for match in phonenumbers.PhoneNumberMatcher(query, region)]
    return found
