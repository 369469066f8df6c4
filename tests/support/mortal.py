"""Mercato's processes, which die where a test wants them to:

    python -m tests.support.mortal serve RUN MARKET INDEX PORT WORKERS AT_ONCE
    python -m tests.support.mortal backfill RUN MARKET INDEX
    python -m tests.support.mortal swap INDEX

The file that the environment's MERCATO_DIES names says who dies where: "serve rotate left". Who comes there removes it
and is gone as by `kill -9`; a worker of the server is called "worker". They compact, look and settle often, and an
index of more than AT_ONCE products is compacted in a process of its own. Where MERCATO_KEPT_FREE is set, so many bytes
of a disk are left free.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from importlib import import_module
from pathlib import Path

from mercato import disk
from mercato.catalogue import backfill, worker
from mercato.data.market import Market
from mercato.retrieval.engines.qdrant_edge import index as edge
from mercato.retrieval.open import swap_index
from mercato.serving import deployment, rollout, server
from tests.support.salted_runs import SaltedEncoder

EDGE = "mercato.retrieval.engines.qdrant_edge"
STEPS = {  # what is called there; a process dies as it is entered or left
    # a compaction, in its order; a backfill builds by the same ones
    "rotate": f"{EDGE}.log:LogWriter.rotate",
    "compact": f"{EDGE}.index:compact",
    "compact elsewhere": f"{EDGE}.elsewhere:Elsewhere.run",
    "seal": f"{EDGE}.build:ColumnsWriter.seal",
    "name": f"{EDGE}.generations:write_atomic",  # which generations there are: also what a swap writes
    "go on": f"{EDGE}.index:EdgeIndex._go_on_with",
    "remove": f"{EDGE}.generations:_remove_free",
    # a backfill
    "vectors": "mercato.catalogue.backfill:embed_each",
    "embed": "mercato.catalogue.backfill:_embed",
    "note read": "mercato.catalogue.ledger:GenerationLedger.note_read",
    "built": "mercato.catalogue.backfill:_Work.built",
    "swap": "mercato.catalogue.backfill:swap_index",
    "end": "mercato.catalogue.backfill:_Work.end",
    # a server takes up a generation, follows a swap and lets one go
    "open": "mercato.serving.rollout:open_index",
    "lapse": "mercato.catalogue.ledger:GenerationLedger.lapse",
    "replay": "mercato.catalogue.outbox:Outbox.replay",
    "follow": "mercato.catalogue.ledger:GenerationLedger.follow",
    "exchange": "mercato.serving.deployment:Deployments.exchange",
    "close": "mercato.serving.deployment:Deployment.close",
    # every write
    "flush": f"{EDGE}.index:EdgeIndex.flush",
    "acknowledge": "mercato.catalogue.outbox:Outbox.ack",
}


def make_mortal(role: str, dies: Path) -> None:
    """Have this process look, at every step, whether it is to die there."""
    for step, where in STEPS.items():
        module, _, path = where.partition(":")
        *owners, name = path.split(".")
        owner = functools.reduce(getattr, owners, import_module(module))
        setattr(owner, name, _mortal(getattr(owner, name), f"{role} {step}", dies))


def _mortal(called, step: str, dies: Path):
    @functools.wraps(called)
    def stepping(*given, **named):
        _die_at(f"{step} entered", dies)
        returned = called(*given, **named)
        _die_at(f"{step} left", dies)
        return returned

    return stepping


def _die_at(step: str, dies: Path) -> None:
    try:
        if dies.read_text() != step:
            return
        dies.unlink()
    except FileNotFoundError:  # nobody is to die, or another one has
        return
    os.kill(os.getpid(), signal.SIGKILL)


class EagerLoop(worker._Loop):
    def __init__(self, name, work, pause_seconds, goes_on=True) -> None:
        super().__init__(name, work, min(pause_seconds, 0.2), goes_on)


if __name__ in ("__main__", "__mp_main__"):  # a spawned worker imports this module under the latter name
    worker._Loop = EagerLoop
    worker._COMPACT_LEAST, worker._COMPACT_SHARE, worker._COMPACT_AGAIN_SECONDS = 8, 0, 0.5
    rollout.LOOK_SECONDS = 0.1
    backfill.PART, backfill._POLL_SECONDS = 8, 0.05
    deployment.OnnxEncoder = backfill.OnnxEncoder = SaltedEncoder
    disk.KEPT_FREE = int(os.environ.get("MERCATO_KEPT_FREE", disk.KEPT_FREE))
    make_mortal(sys.argv[1] if __name__ == "__main__" else "worker", Path(os.environ["MERCATO_DIES"]))
if __name__ == "__main__":
    match sys.argv[1:]:
        case "serve", run, market, index, port, workers, at_once:
            edge.AT_ONCE = int(at_once)
            server.serve_run(
                Path(run), Market.open(Path(market)), index, "127.0.0.1", int(port), int(workers), open_rate=1e6
            )
        case "backfill", run, market, index:
            backfill.backfill(Path(run), Market.open(Path(market)), index)
        case "swap", index:
            swap_index(index)
