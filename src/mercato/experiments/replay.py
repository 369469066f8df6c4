"""Searches replayed as a server answers them: retrieved, ranked, paged, and read from a catalogue, at one moment."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from mercato.catalogue.belonging import check_made_by
from mercato.catalogue.seeding import seed
from mercato.catalogue.store import Catalogue
from mercato.data.market import Market
from mercato.ranking.ranker import Ranker
from mercato.retrieval.open import open_index
from mercato.retrieval.protocol import Index
from mercato.runs.encoder import RunEncoder
from mercato.runs.onnx_encoder import OnnxEncoder
from mercato.search.pipeline import Searcher
from mercato.search.policy import RetrievalPolicy


@dataclass(frozen=True)
class Replay:
    """What every replayed search shares; `searcher` answers under one policy and ranker."""

    encoder: RunEncoder
    index: Index
    catalogue: Catalogue
    as_of: datetime  # every search begins then, and listings have their age

    @classmethod
    @contextmanager
    def of_run(cls, run: Path, market: Market, url: str, as_of: datetime) -> Iterator[Replay]:
        """Open a run's index, beside a catalogue of the market's products table that is gone afterwards.

        Raises:
            MercatoError: the index was not made by this run.
        """
        with (
            tempfile.TemporaryDirectory() as folder,
            closing(Catalogue.open(Path(folder) / "catalogue.sqlite")) as catalogue,
            open_index(url, read_only=True) as index,
        ):
            check_made_by(run, market, url, index.fingerprint)
            seed(catalogue, market)
            yield cls(OnnxEncoder(run, market.path), index, catalogue, as_of)

    def searcher(self, policy: RetrievalPolicy, ranker: Ranker | None = None) -> Searcher:
        """A server's search under a policy; without a ranker in retrieval's order."""
        return Searcher(self.encoder, self.index, self.catalogue, policy, ranker, clock=self.as_of.timestamp)
