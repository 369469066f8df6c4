"""`mercato serve`: a run, a market and an index as one running server, of one process or with workers."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from fastapi import FastAPI

from mercato.catalogue.belonging import open_catalogue
from mercato.catalogue.fingerprints import products_fingerprint
from mercato.catalogue.identity import Made
from mercato.catalogue.ledger import GenerationLedger
from mercato.catalogue.seeding import seed
from mercato.catalogue.store import Catalogue
from mercato.catalogue.worker import IngestionWorker
from mercato.data.market import CATALOGUE, Market
from mercato.data.query_rules import read_rules
from mercato.disk import Disk
from mercato.errors import MercatoError
from mercato.files import market_lock
from mercato.retrieval.open import generations
from mercato.runs.image_vectors import CACHE
from mercato.search.market_info import MarketInfo, market_info
from mercato.serving.access import AREAS
from mercato.serving.app import create_app
from mercato.serving.audit import show_audit
from mercato.serving.connections import DEFAULTS, Limits
from mercato.serving.process import listen, serve, serve_with_workers
from mercato.serving.rollout import Rollout
from mercato.serving.services import Services, Settings
from mercato.serving.wake import WakeReceiver, WakeSender

SAMPLED = 50_000  # products that tell what the market is like: to read a million takes 18 s

KEY = "MERCATO_API_KEY"
KEY_FILE = ".api-key"


def serve_run(
    run: Path,
    market: Market,
    url: str,
    host: str,
    port: int,
    workers: int = 0,
    logged: float = 0.1,
    open_areas: Sequence[str] = AREAS,
    limits: Limits = DEFAULTS,
    open_rate: float = Settings.open_rate,
    open_depth: int = Settings.open_depth,
) -> None:
    """Serve until interrupted.

    This process holds the market: it writes the index and moves what is logged. Without workers it answers as well;
    workers are processes of their own, which read the index and share what the catalogue holds.

    Keys are the catalogue's (`mercato keys`) and that in MERCATO_API_KEY, which may do everything. Where there is
    neither, one is made for this run and left in the market's folder (`.api-key`, mode 0600). What is in
    `open_areas` needs none; of searches then `open_rate` a second are answered to an address, of `open_depth` products.

    What serves is the index's served generation with the run that made it: `run`, or after a swap another that is known
    to the catalogue. Swaps are followed. Of the share `logged` of the searches, the features that their hits were
    ordered by are kept in the market's table `features`.

    Raises:
        MercatoError: the market is served already, its `rules.toml` is not valid, market, catalogue, index and run do
            not belong together, a file of theirs is broken, or there is no such area to open.
    """
    if unknown := set(open_areas) - set(AREAS):
        raise MercatoError(f"--open: {', '.join(sorted(unknown))!r} is no area; there are {', '.join(AREAS)}")
    areas = tuple(area for area in AREAS if area in open_areas)
    show_audit()
    read_rules(market.path)  # while it serves, a broken one changes nothing; at its start somebody is there to mend it
    with market_lock(market.path), closing(open_catalogue(market, url)) as catalogue, ExitStack() as opened:
        _check_served(run, market, url, GenerationLedger(catalogue))
        seed(catalogue, market)
        rollout = opened.enter_context(closing(Rollout(url, market, catalogue, writes=True)))
        file = market.path / KEY_FILE
        made = _key_for_this_run(catalogue, file)
        key = os.environ.get(KEY) or made
        settings = Settings(api_key=key, logged=logged, opened=areas, open_rate=open_rate, open_depth=open_depth)
        info = market_info(market, catalogue.products.documents(most=SAMPLED))
        # The market's lock allows one server: what a killed one held on the outbox is this one's.
        disks = _disks(market.path, url)
        ingestion = IngestionWorker(catalogue, rollout.targets, market.path, "server", disks=disks)
        with listen(port, host) as listening, ingestion, rollout.watching(ingestion.retarget):
            if made:
                _write_private(file, made)
                _say(f"key for writes, made for this run: in {file} (`mercato keys add` makes your own)")
            address = f"[{host}]" if ":" in host else host
            at = f"http://{address}:{listening.getsockname()[1]}/"
            _say(f"serving {market.config.name}: {at}  (API: /docs; stop with Ctrl-C)")
            if workers == 0:
                services = Services(market, info, rollout.deployments, catalogue, ingestion.wake, settings, disks)
                serve(create_app(services), listening, limits)
            else:
                with WakeReceiver(ingestion.wake) as receiver:
                    worker = partial(worker_app, market.path, info, url, receiver.sender, settings)
                    serve_with_workers(worker, listening, limits, workers, market.path / CACHE / "metrics")


def worker_app(market_path: Path, info: MarketInfo, url: str, wake: WakeSender, settings: Settings) -> FastAPI:
    """The application of a worker process: it reads the index that the server writes."""
    show_audit()
    market = Market.open(market_path)
    with ExitStack() as opened:
        catalogue = opened.enter_context(closing(Catalogue.open(market.path / CATALOGUE)))
        rollout = opened.enter_context(closing(Rollout(url, market, catalogue, writes=False)))
        opened.enter_context(rollout.watching())
        services = Services(market, info, rollout.deployments, catalogue, wake, settings, _disks(market_path, url))
        return create_app(services, opened.pop_all())


def _disks(market: Path, url: str) -> list[Disk]:
    """The disks that a server writes to: the market's, and that of an embedded index."""
    index = urlsplit(url)
    return [Disk(market), *([Disk(Path(index.path))] if index.scheme in ("", "file") else [])]


def _check_served(run: Path, market: Market, url: str, ledger: GenerationLedger) -> None:
    """Note where the run lies, and say so where another serves in its place or the tables are newer than the index."""
    noted, fingerprint = ledger.note_run(run), generations(url).served
    if not market.imported_files("products"):
        raise MercatoError(f"{market.path} has no products table: put it back, `mercato check {market.path}` says more")
    made = Made.of(fingerprint)
    if made.run != noted:
        try:
            other = ledger.run_of(fingerprint)
        except MercatoError as error:
            raise MercatoError(
                f"{url} was indexed by another run than {run}: build it again with `mercato index {run} --market"
                f" {market.path} --to {url}` ({error})"
            ) from None
        _say(f"note: {url} was swapped, and {other} serves in place of {run}")
    if made.products != products_fingerprint(market):
        _say("warning: the market's tables changed after this index was built: run `mercato index` again")


def _say(line: str) -> None:
    """Print on stderr, also for those who asked for quiet: without the address a server is of no use."""
    print(line, file=sys.stderr, flush=True)


def _key_for_this_run(catalogue: Catalogue, file: Path) -> str | None:
    """A new key where nobody has one that may write; a file with an earlier one is removed."""
    file.unlink(missing_ok=True)
    if os.environ.get(KEY) or any("write" in key.scopes and not key.revoked_at for key in catalogue.keys.all()):
        return None
    return secrets.token_urlsafe(24)


def _write_private(file: Path, text: str) -> None:
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(text + "\n")
