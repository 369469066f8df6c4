"""`mercato serve` with an encoder untrained and all its settings: `python -m tests.support.served_verb RUN …`."""

from __future__ import annotations

import sys

from mercato.cli import app
from mercato.serving import deployment
from tests.support.served_run import OnnxEncoder

if __name__ in ("__main__", "__mp_main__"):  # a spawned worker imports this module under the latter name
    deployment.OnnxEncoder = OnnxEncoder
if __name__ == "__main__":
    app(["serve", *sys.argv[1:]])
