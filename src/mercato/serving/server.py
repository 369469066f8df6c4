"""`mercato serve`: a run, a market and an index as one running server."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from mercato.data.market import Market
from mercato.errors import MercatoError
from mercato.models.run import load_recipe_and_featurizer
from mercato.progress import note
from mercato.retrieval.index import open_index
from mercato.serving.api import Settings, create_app
from mercato.serving.app import free_port, serve
from mercato.serving.catalogue import Catalogue
from mercato.serving.indexing import CATALOGUE, run_fingerprint
from mercato.serving.predictor import Predictor
from mercato.serving.seeding import seed

KEY = "MERCATO_API_KEY"


def serve_run(run: Path, market: Market, url: str, host: str, port: int) -> None:
    """Serve until interrupted.

    Raises:
        MercatoError: the index was made by another run, whose vectors this one cannot be compared with.
    """
    predictor = Predictor(run, market.path)
    with open_index(url) as index:
        if index.fingerprint.split(" ")[0] != run_fingerprint(run):
            raise MercatoError(f"{url} was indexed by another run than {run}: run `mercato index {run} …` again")
        catalogue = Catalogue.open(market.path / CATALOGUE)
        try:
            seed(catalogue, market)
            name = load_recipe_and_featurizer(run)[0].name
            key = os.environ.get(KEY)
            settings = Settings(model_name=name, index_name=index.fingerprint)
            if key:
                settings = replace(settings, api_key=key)
            app = create_app(market, predictor, index, catalogue, settings)
            port = free_port(port, host)
            note(
                f"\n[bold green]serving {market.config.name}: http://{host}:{port}/[/]  (API: /docs; stop with Ctrl-C)"
            )
            if not key:
                note(f"key for writes, made for this run ({KEY} sets your own): {settings.api_key}")
            serve(app, host, port)
        finally:
            catalogue.close()
