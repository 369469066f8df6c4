"""`mercato serve`: a run, a market and an index as one running server."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

from mercato.catalogue.indexing import products_fingerprint, run_fingerprint
from mercato.catalogue.seeding import seed
from mercato.catalogue.store import Catalogue
from mercato.data.market import CATALOGUE, Market
from mercato.errors import MercatoError
from mercato.files import market_lock
from mercato.retrieval.open import open_index
from mercato.runs.onnx_encoder import OnnxEncoder
from mercato.search.policy import RetrievalPolicy
from mercato.serving.app import create_app
from mercato.serving.process import free_port, serve
from mercato.serving.services import Settings

KEY = "MERCATO_API_KEY"
KEY_FILE = ".api-key"


def serve_run(run: Path, market: Market, url: str, host: str, port: int) -> None:
    """Serve until interrupted.

    Where MERCATO_API_KEY is not set, a key for writes is made and left in the market's folder (`.api-key`, mode 0600).

    Raises:
        MercatoError: the market is served already, or the index was made by another run, whose vectors this one cannot
            be compared with.
    """
    encoder = OnnxEncoder(run, market.path)
    with market_lock(market.path), open_index(url) as index:
        made_by, _, rest = index.fingerprint.partition(" ")
        if made_by != run_fingerprint(run):
            raise MercatoError(f"{url} was indexed by another run than {run}: run `mercato index {run} …` again")
        if rest.split(" ")[0] != products_fingerprint(market):
            _say("warning: the market's tables changed after this index was built: run `mercato index` again")
        catalogue = Catalogue.open(market.path / CATALOGUE)
        try:
            seed(catalogue, market)
            key = os.environ.get(KEY)
            settings = Settings(
                api_key=key or secrets.token_urlsafe(24),
                model_name=encoder.recipe.name,
                index_name=index.fingerprint,
                worker="server",  # the market's lock allows one: what a killed server held is its own
                policy=RetrievalPolicy.of_run(run),
                image_dimension=encoder.featurizer.spec.image_dimension,
            )
            app = create_app(market, encoder, index, catalogue, settings)
            port = free_port(port, host)
            if not key:
                file = market.path / KEY_FILE
                _write_private(file, settings.api_key)
                _say(f"key for writes, made for this run: in {file} ({KEY} sets your own)")
            address = f"[{host}]" if ":" in host else host
            _say(f"serving {market.config.name}: http://{address}:{port}/  (API: /docs; stop with Ctrl-C)")
            serve(app, host, port)
        finally:
            catalogue.close()


def _say(line: str) -> None:
    """Print on stderr, also for those who asked for quiet: without the address a server is of no use."""
    print(line, file=sys.stderr, flush=True)


def _write_private(file: Path, text: str) -> None:
    file.unlink(missing_ok=True)  # one with other rights, or a link
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(text + "\n")
