"""Processes that tidy a market's events each, the N-th of which dies as by `kill -9` at its N-th rename or removal:

    python -m tests.support.mortal_tidying NOW MARKET…

It prints which of them were killed and which lived.
"""

from __future__ import annotations

import os
import signal
import sys
from datetime import datetime
from pathlib import Path

from mercato.catalogue.log_mover import LogMover
from mercato.catalogue.store import Catalogue
from mercato.catalogue.tidying import tidy
from mercato.data.market import Market


def tidy_until(market: Market, step: int, now: datetime) -> None:
    left = step

    def die_in_time(event: str, given: tuple[object, ...]) -> None:
        nonlocal left
        if event in ("os.rename", "os.remove") and Path(str(given[0])).exists() and "live-" in str(given[0]):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    movers = [LogMover(Catalogue.open(market.path / "catalogue.sqlite"), market.path, "events")]
    sys.addaudithook(die_in_time)
    tidy(market, movers, now)


if __name__ == "__main__":
    for step, folder in enumerate(sys.argv[2:], 1):
        if (child := os.fork()) == 0:
            tidy_until(Market.open(Path(folder)), step, datetime.fromisoformat(sys.argv[1]))
            os._exit(0)
        print("killed" if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL else "lived")
