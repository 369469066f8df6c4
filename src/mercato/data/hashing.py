"""One hash of names, the same in every process and on every machine."""

from __future__ import annotations

import hashlib


def hash64(text: str) -> int:
    """A 64-bit hash; two of a billion names are alike with a chance of 3 %."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
