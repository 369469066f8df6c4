"""Contact data in queries: what somebody typed or pasted into a search field that tells who they are."""

from __future__ import annotations

import re
from collections.abc import Collection

import phonenumbers

_EMAIL = re.compile(r"[^\s@]+@[^\s@]+\.\w{2,}")
_DIGITS = 7  # of the shortest number that is dialled as it is


def has_contact(query: str, countries: Collection[str] = ()) -> bool:
    """Whether a query has an e-mail address, or a telephone number: an international one, or one of these countries.

    Countries are ISO 3166-1 alpha-2 codes. Numbers are those that exist (`phonenumbers`, of Google's libphonenumber).
    """
    if _EMAIL.search(query):
        return True
    if sum(map(str.isdigit, query)) < _DIGITS:
        return False
    regions = [None, *(country.upper() for country in countries)]
    return any(phonenumbers.PhoneNumberMatcher(query, region).has_next() for region in regions)
