"""The memory that this process has freed and the C library still keeps."""

from __future__ import annotations

import ctypes
from contextlib import suppress


def give_back() -> None:
    """Return it to the system, where there is a way (glibc).

    What takes the place of something large of many parts, such as an index's open generation, is put together while
    the old one is still there, and does not fit into the gaps that it leaves: without this a process grows each time.
    """
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
