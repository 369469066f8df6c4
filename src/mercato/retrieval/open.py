"""An index by its URL: the functions here choose the engine, and load no other.

The one place that names engines: a new one is its folder in `engines/` and its line in `ENGINES`.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from mercato.errors import MercatoError
from mercato.retrieval.protocol import Engine, FrozenIndex, Generations, Index, IndexRecord

ENGINES = {  # a URL's scheme → the module of its engine
    "file": "mercato.retrieval.engines.qdrant_edge.index",
}


def open_index(url: str | Path, *, read_only: bool = False, fingerprint: str | None = None) -> Index:
    """Open the served generation of the index at `url` (a folder or a file:// URL is an embedded one), or another one.

    The other is known by its `fingerprint`: the standby, or what somebody still has open although a build took its
    place. The index goes on with its generation, and with what compactions make of it, through every swap. One that is
    opened `read_only`, by as many processes as like, sees what its owner writes; to write to it is an error.

    Raises a MercatoError where there is none, where its engine allows one owner and it is open elsewhere, and for a
    URL that no engine knows.
    """
    return _engine(url).open_index(str(url), read_only, fingerprint)


def build_index(
    url: str | Path, records: Iterable[IndexRecord], dimension: int, fingerprint: str = "", *, standby: bool = False
) -> dict[str, Any]:
    """Build a new generation of the index at `url`, whole or not at all, and return its description.

    It is served from then on, and what stood by is dropped; or with `standby` it stands by, in place of what did.
    A process that holds the generation before goes on with it; whoever opens the index from now on gets the new one. An
    error, from `records` too, leaves everything as it was. Of records with one product_id the last stands.
    `fingerprint` says which run made the vectors. `dimension` is theirs. The description has `engine`, `dimension`,
    `count` and `fingerprint`, and what the engine adds.

    Raises a MercatoError for a standby where nothing is served yet.
    """
    if dimension < 1:
        raise MercatoError(f"an index's dimension is at least 1, not {dimension}")
    return _engine(url).build_index(str(url), records, dimension, fingerprint, standby)


def generations(url: str | Path) -> Generations:
    """Say what is served at `url` and what stands by, by their fingerprints; cheap enough to ask every second.

    Raises a MercatoError where there is no index.
    """
    return _engine(url).generations(str(url))


def swap_index(url: str | Path, fingerprint: str | None = None) -> None:
    """Let the standby be served and the served generation stand by, in one step; once more, and it is as before.

    With a `fingerprint` that generation is served from then on, also where it is already. Whoever has one of them open
    keeps it, and its writes. Raises a MercatoError where nothing stands by, or neither is the one named.
    """
    _engine(url).swap_index(str(url), fingerprint)


def drop_standby(url: str | Path) -> None:
    """Let the standby go, where there is one; whoever has it open keeps it until it is closed."""
    _engine(url).drop_standby(str(url))


def examine_index(url: str | Path) -> list[str]:
    """Look all through the index at `url` for damage, what stands by too: every problem, in a line each.

    Nothing is changed, and others may search it and write to it meanwhile.
    """
    return _engine(url).examine_index(str(url))


def freeze_index(url: str | Path) -> AbstractContextManager[FrozenIndex]:
    """Hold what is served at `url` as it is at this moment, to be copied until the block ends, others going on with it.

    Raises a MercatoError where there is no index, or where one is no folder.
    """
    return _engine(url).freeze_index(str(url))


def _engine(url: str | Path) -> Engine:
    scheme = urlsplit(str(url)).scheme if "://" in str(url) else "file"
    if scheme in ENGINES:
        return cast(Engine, import_module(ENGINES[scheme]))
    if scheme in ("http", "https"):
        raise MercatoError(
            f"{url} is a cluster's URL, and this version has no cluster engine yet: give a folder for an embedded index"
        )
    raise MercatoError(f"{url}: an index is a folder or a file:// URL, not {scheme}://")
