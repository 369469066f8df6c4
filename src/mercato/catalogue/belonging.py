"""Whether what a verb was given belongs together: a market with its catalogue, an index, and a run."""

from __future__ import annotations

from pathlib import Path

from mercato.catalogue.fingerprints import products_fingerprint, run_fingerprint
from mercato.catalogue.identity import IDENTITY, MARKET, Identity, Made, new_id
from mercato.catalogue.store import Catalogue
from mercato.data.market import CATALOGUE, Market
from mercato.errors import MercatoError
from mercato.retrieval.open import generations


def open_catalogue(market: Market, url: str | None = None) -> Catalogue:
    """Open or create the catalogue of a market that is searched by the index at `url`, where there is one yet.

    What was made before these three named each other does so from now on.

    Raises:
        MercatoError: two of them do not belong together, the index is broken, or the catalogue is, or it is missing.
    """
    made = Made("") if url is None else Made.of(generations(url).served)
    file, known = market.path / CATALOGUE, Identity.of(market.path)
    if known and known.catalogue and not file.exists():
        raise MercatoError(
            f"{file} is missing, and {market.path} was served with it: put it, or a backup, back. To begin anew without"
            f" what was written to it, remove {market.path / IDENTITY} and index the market again"
        )
    catalogue = Catalogue.open(file)
    try:
        catalogue.check()
        told = catalogue.settings.get(MARKET)
        if known and known.catalogue not in (None, catalogue.name):
            raise MercatoError(
                f"{file} is not the catalogue that {market.path} was served with: put that one back. To go on with this"
                f" one, remove {market.path / IDENTITY} and index the market again"
            )
        own = (known and known.market) or told or _copied(made, market) or new_id()
        if told not in (None, own):
            raise MercatoError(
                f"{file} is the catalogue of another market than {market.path}: put the market's own in its place, or"
                " move it away to begin without one"
            )
        check_market(market, url or "", made, own)
        if told is None:
            catalogue.settings.set(MARKET, own)
        if known != (now := Identity(own, catalogue.name)):
            now.write(market.path)
    except BaseException:
        catalogue.close()
        raise
    return catalogue


def check_made_by(run: Path, market: Market, url: str, fingerprint: str) -> None:
    """Refuse an index, by its fingerprint, that another run made, or of another market.

    Raises:
        MercatoError: it is that, or the folder is not a run.
    """
    made = Made.of(fingerprint)
    if made.run != run_fingerprint(run):
        raise MercatoError(
            f"{url} was not made by {run}: build it again with `mercato index {run} --market {market.path} --to {url}`"
        )
    known = Identity.of(market.path)
    check_market(market, url, made, known.market if known else _copied(made, market))


def check_market(market: Market, url: str, made: Made, own: str) -> None:
    """Refuse an index of another market than the one with the id `own`.

    Raises:
        MercatoError: it is that.
    """
    if made.market and made.market != own:
        raise MercatoError(
            f"{url} is the index of another market than {market.path}: build this one's with"
            f" `mercato index RUN --market {market.path} --to NEW`"
        )


def _copied(made: Made, market: Market) -> str:
    """The id of a market without one that has the table of which an index was made: a copy of that market."""
    return made.market if made.products == products_fingerprint(market) else ""
