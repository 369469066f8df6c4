"""`mercato serve`: a run, a market and an index as one running server, of one process or with workers."""

from __future__ import annotations

import os
import secrets
import sys
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

from fastapi import FastAPI

from mercato.catalogue.indexing import products_fingerprint, run_fingerprint
from mercato.catalogue.seeding import seed
from mercato.catalogue.store import Catalogue
from mercato.catalogue.worker import IngestionWorker
from mercato.data.market import CATALOGUE, Market
from mercato.errors import MercatoError
from mercato.files import market_lock
from mercato.retrieval.open import open_index
from mercato.runs.onnx_encoder import OnnxEncoder
from mercato.search.market_info import MarketInfo, market_info
from mercato.search.policy import RetrievalPolicy
from mercato.serving.app import create_app
from mercato.serving.process import listen, serve, serve_with_workers
from mercato.serving.services import Services, Settings
from mercato.serving.wake import WakeReceiver, WakeSender

KEY = "MERCATO_API_KEY"
KEY_FILE = ".api-key"


def serve_run(run: Path, market: Market, url: str, host: str, port: int, workers: int = 1) -> None:
    """Serve until interrupted.

    This process holds the market: it writes the index and moves the events. One worker is a part of it, several are
    processes of their own, which read the index and share what the catalogue holds.

    Where MERCATO_API_KEY is not set, a key for writes is made and left in the market's folder (`.api-key`, mode 0600).

    Raises:
        MercatoError: the market is served already, or the index was made by another run, whose vectors this one cannot
            be compared with.
    """
    encoder = OnnxEncoder(run, market.path)
    with (
        market_lock(market.path),
        open_index(url) as index,
        closing(Catalogue.open(market.path / CATALOGUE)) as catalogue,
    ):
        made_by, _, rest = index.fingerprint.partition(" ")
        if made_by != run_fingerprint(run):
            raise MercatoError(f"{url} was indexed by another run than {run}: run `mercato index {run} …` again")
        if rest.split(" ")[0] != products_fingerprint(market):
            _say("warning: the market's tables changed after this index was built: run `mercato index` again")
        seed(catalogue, market)
        key = os.environ.get(KEY)
        settings = Settings(
            api_key=key or secrets.token_urlsafe(24),
            model_name=encoder.recipe.name,
            policy=RetrievalPolicy.of_run(run),
            image_dimension=encoder.featurizer.spec.image_dimension,
        )
        info = market_info(market, catalogue.products.documents())
        # The market's lock allows one server: what a killed one held on the outbox is this one's.
        ingestion = IngestionWorker(catalogue, encoder, index, market.path / "events", "server")
        with listen(port, host) as listening, ingestion:
            if not key:
                file = market.path / KEY_FILE
                _write_private(file, settings.api_key)
                _say(f"key for writes, made for this run: in {file} ({KEY} sets your own)")
            address = f"[{host}]" if ":" in host else host
            at = f"http://{address}:{listening.getsockname()[1]}/"
            _say(f"serving {market.config.name}: {at}  (API: /docs; stop with Ctrl-C)")
            if workers == 1:
                services = Services(market, info, encoder, index, catalogue, ingestion.wake, settings)
                serve(create_app(services), listening)
            else:
                with WakeReceiver(ingestion.wake) as receiver:
                    worker = partial(worker_app, run, market.path, info, url, receiver.sender, settings)
                    serve_with_workers(worker, listening, workers)


def worker_app(
    run: Path, market_path: Path, info: MarketInfo, url: str, wake: WakeSender, settings: Settings
) -> FastAPI:
    """The application of a worker process: it reads the index that the server writes."""
    market = Market.open(market_path)
    with ExitStack() as opened:
        index = opened.enter_context(open_index(url, read_only=True))
        catalogue = opened.enter_context(closing(Catalogue.open(market.path / CATALOGUE)))
        services = Services(market, info, OnnxEncoder(run, market.path), index, catalogue, wake, settings)
        return create_app(services, opened.pop_all())


def _say(line: str) -> None:
    """Print on stderr, also for those who asked for quiet: without the address a server is of no use."""
    print(line, file=sys.stderr, flush=True)


def _write_private(file: Path, text: str) -> None:
    file.unlink(missing_ok=True)  # one with other rights, or a link
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(text + "\n")
