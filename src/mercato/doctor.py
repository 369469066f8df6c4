"""`mercato doctor`: markets with catalogues, runs, indexes, backups looked through whole, and what belongs together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow.parquet as pq

from mercato.catalogue.backup import ABOUT
from mercato.catalogue.examining import examine_catalogue
from mercato.catalogue.fingerprints import run_fingerprint
from mercato.catalogue.identity import Identity, Made
from mercato.catalogue.restore import MEND, read_backup
from mercato.data.market import CATALOGUE, MARKET, Market
from mercato.data.query_rules import read_rules
from mercato.data.schema import TABLES
from mercato.errors import MercatoError
from mercato.manifest import MANIFEST, damage, one_line
from mercato.ranking.ranker import FOLDER as RANKING
from mercato.ranking.ranker import Ranker
from mercato.retrieval.open import examine_index, generations
from mercato.runs.folder import QUERY_TOWER, RECIPE, SPEC, WEIGHTS, load_recipe_and_featurizer, mend
from mercato.runs.onnx_encoder import OnnxEncoder
from mercato.search.policy import RetrievalPolicy

Kind = Literal["market", "catalogue", "run", "index", "together", "backup"]

_DEEP = 2  # folders below the given one that are looked into: a demo's has runs in a folder of theirs


@dataclass(frozen=True)
class Finding:
    """What was found of one thing; `said`: what is wrong and what mends it, or what it holds."""

    kind: Kind
    path: str
    ok: bool
    said: str

    def __str__(self) -> str:
        return f"{'ok   ' if self.ok else 'wrong'}  {self.kind}  {f'{self.path}: ' * self.ok}{self.said}"


@dataclass
class _Found:
    """The folders by what they are."""

    markets: list[Path] = field(default_factory=list)
    runs: list[Path] = field(default_factory=list)
    indexes: list[Path] = field(default_factory=list)
    backups: list[Path] = field(default_factory=list)

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.markets) + len(self.runs) + len(self.indexes) + len(self.backups)

    def look(self, folder: Path, deep: int = _DEEP) -> None:
        """Take in a folder, or those in it."""
        if (folder / ABOUT).is_file():
            self.backups.append(folder)
            return
        if (folder / MARKET).is_file() or (folder / CATALOGUE).is_file():
            self.markets.append(folder)
        elif any((folder / name).is_file() for name in (RECIPE, SPEC, WEIGHTS)):
            self.runs.append(folder)
            return
        elif (folder / "current").is_file() or any(folder.glob("generation-*")):
            self.indexes.append(folder)
            return
        if deep:
            for inner in sorted(folder.iterdir()):
                if inner.is_dir() and not inner.name.startswith("."):
                    self.look(inner, deep - 1)


def examine(folders: Sequence[Path]) -> Iterator[Finding]:
    """Look through folders, each a market, a run or an index, or one that holds some; and whether they belong together.

    Raises:
        MercatoError: a folder is not there, or holds none of them.
    """
    found = _Found()
    for folder in folders:
        if not folder.is_dir():
            raise MercatoError(f"{folder} is no folder: give a market, a run, an index, or a folder of them")
        before = found.count
        found.look(folder)
        if before == found.count:
            raise MercatoError(f"{folder} holds no market, run or index")
    for market in found.markets:
        yield from _told("market", market, _market_problems, _market)
        if (market / CATALOGUE).is_file():
            yield from _told("catalogue", market / CATALOGUE, lambda _: (), examine_catalogue)
    for run in found.runs:
        yield from _told("run", run, _run_problems, _run)
    for index in found.indexes:
        yield from _told("index", index, examine_index, _index)
        yield from _told("together", index, lambda url: _strangers(url, found), lambda _: "belongs to what was given")
    for backup in found.backups:
        yield from _told("backup", backup, _backup_problems, _backup)


def _told(
    kind: Kind, path: Path, problems: Callable[[Path], Iterable[str]], holds: Callable[[Path], str]
) -> Iterator[Finding]:
    """Its problems, a line each; where there are none, what it holds."""
    try:
        wrong = [*problems(path)]
        if not wrong:
            yield Finding(kind, str(path), True, holds(path))
    except MercatoError as error:
        wrong = [str(error)]
    yield from (Finding(kind, str(path), False, line) for line in wrong)


def _market_problems(path: Path) -> Iterator[str]:
    market = Market.open(path)
    read_rules(path)
    identity = Identity.of(path)
    if identity and identity.catalogue and not (path / CATALOGUE).is_file():
        yield f"{path / CATALOGUE} is missing, which this market was served with: put it back"
    for table in TABLES:
        for file in market.files(table):
            try:
                with one_line(file, f"import the market again, or put it back; `mercato check {path}` says more"):
                    for _ in pq.ParquetFile(file, page_checksum_verification=True).iter_batches():
                        pass
            except MercatoError as error:
                yield str(error)


def _market(path: Path) -> str:
    market = Market.open(path)
    return f"{market.config.name}: {', '.join(table for table in TABLES if market.has(table))}"


def _run_problems(run: Path) -> Iterator[str]:
    for folder, name in ((run, ""), (run / RANKING, f"{RANKING}/")):
        for file, wrong in damage(folder, most=None):
            again = f"`mercato rank {run} --market DIR --index URL` trains it anew" if name else mend(run, file)
            yield f"{folder / file} {wrong}: {again}"


def _run(run: Path) -> str:
    """Load it as a server does, and embed with it."""
    recipe, _ = load_recipe_and_featurizer(run)
    parts = [f"{recipe.name}, {recipe.dimension} numbers a vector"]
    RetrievalPolicy.of_run(run, 0)
    if (run / QUERY_TOWER).is_file():
        encoder = OnnxEncoder(run)
        if head := encoder.query_head:
            parts.append(f"{len(head.queries):,} queries to predict")
        vectors = np.concatenate([encoder.encode_queries(["sofa"]), encoder.encode_products([{"title": "Sofa"}])])
        if vectors.shape != (2, recipe.dimension) or not np.isfinite(vectors).all():
            raise MercatoError(
                f"{run}: its towers make no vectors of {recipe.dimension} numbers: {mend(run, QUERY_TOWER)}"
            )
    else:
        parts.append(f"not exported (`mercato export {run}`)")
    if Ranker.of_run(run):
        parts.append("with a ranker")
    if not (run / MANIFEST).is_file():
        parts.append("no checksums: made before runs had any")
    return ", ".join(parts)


def _index(url: Path) -> str:
    named = generations(url)
    return f"made by the run {Made.of(named.served).run}" + (", with a standby" if named.standby else "")


def _backup_problems(folder: Path) -> Iterator[str]:
    read_backup(folder)
    yield from (f"{folder / name} {wrong}: {MEND}" for name, wrong in damage(folder, most=None))


def _backup(folder: Path) -> str:
    names, about = read_backup(folder)
    return f"made {about.made_at}, {len(names):,} files"


def _strangers(url: Path, found: _Found) -> Iterator[str]:
    """What of the markets and runs that were given an index was not made of."""
    made = Made.of(generations(url).served)
    ids = {market: own.market for market in found.markets if (own := Identity.of(market))}
    if ids and made.market and made.market not in ids.values():
        market = next(iter(ids))
        yield f"{url} is the index of another market than {market}: `mercato index RUN --market {market} --to NEW`"
    runs = {run: run_fingerprint(run) for run in found.runs if (run / WEIGHTS).is_file()}
    if runs and made.run not in runs.values():
        run = next(iter(runs))
        yield f"{url} was made by another run than {run}: `mercato index {run} --market DIR --to {url}`"
