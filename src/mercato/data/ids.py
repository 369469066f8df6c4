"""What an id may be, in a table and over HTTP alike: a short line of text that stands in an address as it is."""

from __future__ import annotations

import re

LONGEST = 256  # characters

# For Python's regular expressions and for Arrow's.
WRONG = (
    ("has a control character or a line break", "[\\x00-\\x1f\\x7f\u0080-\u009f\u2028\u2029]"),
    ("begins or ends with white space", "^[ \u00a0\u3000]|[ \u00a0\u3000]$"),
    ("has . or .. between slashes, which clients take out of an address", r"(^|/)\.\.?(/|$)"),
)
TOO_LONG = f"is longer than {LONGEST} characters"


def checked(value: str) -> str:
    """The same id.

    Raises:
        ValueError: it can be none, and why.
    """
    for why, pattern in WRONG:
        if re.search(pattern, value):
            raise ValueError(why)
    if len(value) > LONGEST:
        raise ValueError(TOO_LONG)
    return value
