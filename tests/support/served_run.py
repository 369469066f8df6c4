"""`mercato serve` with an encoder untrained: `python -m tests.support.served_run RUN MARKET INDEX PORT WORKERS`."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

from mercato.data.market import Market
from mercato.serving import deployment, server
from tests.support.small_market import TrigramEncoder


class OnnxEncoder(TrigramEncoder):
    """In place of the run's; a worker process, which imports this module too, has it as well."""

    def __init__(self, run: Path, *_: object, **__: object) -> None:
        self.recipe, self.image_encoder = SimpleNamespace(name=run.name), None
        self.featurizer = SimpleNamespace(spec=SimpleNamespace(context=None, image_shape=(3,), max_images=5))


if __name__ in ("__main__", "__mp_main__"):  # a spawned worker imports this module under the latter name
    deployment.OnnxEncoder = OnnxEncoder
if __name__ == "__main__":
    run, market, index, port, workers = sys.argv[1:]
    server.serve_run(Path(run), Market.open(Path(market)), index, "127.0.0.1", int(port), int(workers), open_rate=1e6)
