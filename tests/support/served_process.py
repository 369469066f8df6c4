"""A server process to kill: `python -m tests.support.served_process MARKET PORT [die-before-drop]`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from mercato.catalogue.row_log import RowLog
from mercato.data.market import Market
from mercato.serving.connections import Limits
from mercato.serving.process import listen, serve
from tests.support.served import application


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    folder, port, *faults = sys.argv[1:]
    with application(Market.open(Path(folder)), flush_seconds=0.1 if faults else 600) as app:
        if "die-before-drop" in faults:  # the events' file is written, the catalogue still has them
            RowLog.delete = die
        serve(app, listen(int(port)), Limits())
