"""A backfill that dies: `python -m tests.support.backfill_process RUN MARKET INDEX CALLS` is killed after so many."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from mercato.catalogue import backfill as module
from mercato.data.market import Market
from tests.support.salted_runs import SaltedEncoder


class DyingEncoder(SaltedEncoder):
    calls = int(sys.argv[4])

    def encode_products(self, products, *, as_of=None):
        if self.calls == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.calls -= 1
        return super().encode_products(products, as_of=as_of)


if __name__ == "__main__":
    module.OnnxEncoder, module.PART = DyingEncoder, 8
    module.backfill(Path(sys.argv[1]), Market.open(Path(sys.argv[2])), sys.argv[3])
