"""How a market, its catalogue and an index of it name each other.

A market has an id, made when it is first indexed or served, in `identity.json` beside its tables: a market that is
copied or moved is the same one, whatever its tables become. The file names the market's catalogue too, and that names
the market. An index has the id in its fingerprint. What was made before there were ids names nobody.
"""

from __future__ import annotations

import json
import secrets
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from mercato.files import write_atomic
from mercato.manifest import reading

IDENTITY = "identity.json"
MARKET = "market"  # the setting of a catalogue: the id of its market


@dataclass(frozen=True)
class Identity:
    """What `identity.json` says: the market's id, and that of its catalogue once it has one."""

    market: str
    catalogue: str | None = None

    @classmethod
    def of(cls, market: Path) -> Self | None:
        """What the file of a market says; None where there is none.

        Raises:
            DamagedError: it cannot be read.
        """
        file = market / IDENTITY
        if not file.is_file():
            return None
        with reading(file, "remove it, and index and serve the market again: it is made anew from its catalogue"):
            own = cls(**json.loads(file.read_bytes()))
            if not (own.market and all(part is None or isinstance(part, str) for part in (own.market, own.catalogue))):
                raise ValueError("it names no market")
            return own

    def write(self, market: Path) -> None:
        """Let it be the market's."""
        write_atomic(market / IDENTITY, json.dumps(asdict(self)) + "\n")


@dataclass(frozen=True)
class Made:
    """What an index's fingerprint says of how its vectors were made, as far as it says so."""

    run: str
    products: str = ""  # what the products table was
    moment: str = ""
    market: str = ""  # whose

    @classmethod
    def of(cls, fingerprint: str) -> Self:
        """Read a fingerprint."""
        return cls(*fingerprint.split(" ")[:4])

    def fingerprint(self) -> str:
        """As the index has it. The moment makes every build another: what the API wrote since must be indexed again,
        also by the same run.
        """
        return " ".join(filter(None, (self.run, self.products, self.moment, self.market)))


def new_id() -> str:
    """An id that nothing else has."""
    return secrets.token_hex(8)


def market_id(market: Path) -> str:
    """The id of a market, made where it has none; "" where it has none and nobody may write there."""
    own = Identity.of(market)
    if own is None:
        with suppress(PermissionError):
            own = Identity(new_id())
            own.write(market)
            return own.market
        return ""
    return own.market
