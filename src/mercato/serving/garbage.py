"""The garbage collector is kept from what lives long: to look at all of it stops every request for some 100 ms."""

from __future__ import annotations

import atexit
import gc


def set_apart() -> None:
    """Collect what is dead; what is alive is looked at no more, until this is called again."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)
