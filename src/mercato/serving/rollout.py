"""The rollout: what lies at an index's URL is followed, and a swap there exchanges what serves, without a restart."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Event, Thread

from mercato.catalogue.ledger import GenerationLedger
from mercato.catalogue.store import Catalogue
from mercato.catalogue.worker import Target
from mercato.data.market import Market
from mercato.errors import MercatoError
from mercato.retrieval.open import generations, open_index
from mercato.search.rules import MarketRules
from mercato.serving.deployment import Deployment, Deployments
from mercato.serving.garbage import set_apart

log = logging.getLogger("mercato.serving")

LOOK_SECONDS = 1.0  # between two looks at what is served
_LOOKS, _SOON_LOOKS = 60, 5  # until what could not be opened is tried again; until then, where it is served


class Rollout:
    """The deployments of one process: what is served, and for the one that writes also what stands by.

    What is served by its URL serves here once its run is loaded and it holds what was written; until then, and where
    its run cannot be loaded, what served before goes on.
    """

    def __init__(self, url: str, market: Market, catalogue: Catalogue, *, writes: bool) -> None:
        """Open what is served and, for who `writes`, what stands by where that can be.

        One of several workers begins with what the others answer from: what is served at the URL may lack writes yet,
        or its run may be gone.

        Raises:
            MercatoError: it cannot be opened.
        """
        self._url, self._market, self._catalogue, self._writes = url, market, catalogue, writes
        self._ledger, self._rules = GenerationLedger(catalogue), MarketRules(market.path)
        self._open: dict[str, Deployment] = {}  # by fingerprint
        self._again: dict[str, float] = {}  # when what could not be opened is tried again
        self.deployments = Deployments(self._begun())
        self._note_serving()
        self._load(self._wanted())
        self._targeted = set(self._open)  # what `targets` are, and `retarget` was last told

    @property
    def targets(self) -> list[Target]:
        """Where ingestion has to write."""
        return _targets(self._open)

    @contextmanager
    def watching(self, retarget: Callable[[Sequence[Target]], None] = lambda _: None) -> Iterator[None]:
        """Look once a second, in a thread, until the block ends; `retarget` gets the targets where they change."""
        ended = Event()

        def watch() -> None:
            while not ended.wait(LOOK_SECONDS):
                try:
                    self.look(retarget)
                except Exception as error:  # a locked database, a full disk: what serves goes on
                    log.error("rollout: %s: %s; looking again", type(error).__name__, error)

        thread = Thread(target=watch, name="rollout", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def look(self, retarget: Callable[[Sequence[Target]], None]) -> None:
        """Take up what has changed."""
        wanted = self._wanted()
        self._load(wanted)
        self._retarget(self._open, retarget)
        served = self._open.get(wanted[0])
        if served and served is not self.deployments.served and self._ledger.is_up_to_date(wanted[0]):
            self.deployments.exchange(served)
        self._note_serving()
        if self._let_go(wanted, retarget):
            set_apart()  # what serves now lives long

    def close(self) -> None:
        """Close every index."""
        for deployment in self._open.values():
            deployment.close()

    def _wanted(self) -> list[str]:
        """The fingerprints of what has to be open, what is served first."""
        named = generations(self._url)
        return [named.served, named.standby] if self._writes and named.standby is not None else [named.served]

    def _load(self, wanted: Sequence[str]) -> None:
        """Open what is not open yet."""
        for fingerprint in wanted:
            if fingerprint not in self._open and time.monotonic() >= self._again.get(fingerprint, 0):
                why = None
                try:
                    self._open = {**self._open, fingerprint: self._opened(fingerprint)}
                except Exception as error:  # whatever is wrong with another run must not end what serves
                    why = str(error)
                    looks = _SOON_LOOKS if fingerprint == wanted[0] else _LOOKS
                    self._again[fingerprint] = time.monotonic() + looks * LOOK_SECONDS
                    log.error("%s: another generation is not taken up: %s", self._url, why)
                if self._writes:
                    self._ledger.refuse(fingerprint, why)

    def _let_go(self, wanted: Sequence[str], retarget: Callable[[Sequence[Target]], None]) -> int:
        """Close what neither has to be open nor serves; returns how many there were."""
        kept = {
            fingerprint: deployment
            for fingerprint, deployment in self._open.items()
            if fingerprint in wanted or deployment is self.deployments.served
        }
        self._retarget(kept, retarget)
        gone, self._open = [each for each in self._open.values() if each not in kept.values()], kept
        for deployment in gone:
            deployment.close()
        return len(gone)

    def _retarget(self, deployments: dict[str, Deployment], retarget: Callable[[Sequence[Target]], None]) -> None:
        if self._targeted != deployments.keys():
            retarget(_targets(deployments))
            self._targeted = set(deployments)

    def _begun(self) -> Deployment:
        """Open what answers first."""
        answering = None if self._writes else self._ledger.serving()
        if answering is not None:
            try:
                self._open[answering] = self._opened(answering)
                return self._open[answering]
            except MercatoError as error:  # it has just been closed everywhere
                log.info("%s: %s", self._url, error)
        served = generations(self._url).served
        self._open[served] = self._opened(served)
        return self._open[served]

    def _note_serving(self) -> None:
        if self._writes:
            self._ledger.note_serving(self.deployments.served.index.fingerprint)

    def _opened(self, fingerprint: str) -> Deployment:
        run = self._ledger.run_of(fingerprint)
        index = open_index(self._url, read_only=not self._writes, fingerprint=fingerprint)
        try:
            return Deployment.of_run(run, self._market.path, index, self._catalogue, self._rules)
        except BaseException:
            index.close()
            raise


def _targets(deployments: dict[str, Deployment]) -> list[Target]:
    return [Target(deployment.encoder, deployment.index) for deployment in deployments.values()]
