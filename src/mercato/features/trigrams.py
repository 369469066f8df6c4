"""Character trigrams as hash ids (Que2Search §3.1, after Huang et al. 2020)."""

from __future__ import annotations

import mmh3


def trigram_ids(normal_text: str, buckets: int, limit: int) -> list[int]:
    """MurmurHash3 ids of the sliding window of three characters, in 1…`buckets`; 0 is left for padding.

    The text is taken as normalised; one space marks each end, so that a text of one character has a trigram.
    At most `limit` ids; none for an empty text.
    """
    if not normal_text:
        return []
    padded = f" {normal_text} "
    return [mmh3.hash(padded[i : i + 3], signed=False) % buckets + 1 for i in range(min(len(padded) - 2, limit))]
