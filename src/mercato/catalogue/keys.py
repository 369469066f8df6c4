"""API keys: several, each with scopes of its own, of which the catalogue holds a digest alone."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, get_args

import sqlalchemy as sa

from mercato.catalogue.database import Database
from mercato.catalogue.tables import KEYS
from mercato.errors import MercatoError

Scope = Literal["read", "write", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
PREFIX = "mk"  # so that scanners of repositories know one


@dataclass(frozen=True, kw_only=True)
class ApiKey:
    """A key as the catalogue knows it."""

    key_id: str
    name: str
    scopes: frozenset[Scope]
    rate: float | None  # requests a second; None: as many as the server answers
    digest: str
    made_at: float  # Unix time
    revoked_at: float | None = None

    def matches(self, secret: str) -> bool:
        """Whether the secret is this key's; it takes as long for a wrong one."""
        return hmac.compare_digest(self.digest, _digest(secret))


class KeyStore:
    """The keys of a catalogue."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, name: str, scopes: Collection[Scope], rate: float | None = None) -> tuple[ApiKey, str]:
        """Make a key.

        Returns:
            What is stored, and the key itself, `mk_ID_SECRET`, which nobody can tell from that.

        Raises:
            MercatoError: a scope is unknown or there is none, or the rate is not above 0.
        """
        if unknown := set(scopes) - set(SCOPES):
            raise MercatoError(f"scope: {', '.join(sorted(unknown))!r} is none; there are {', '.join(SCOPES)}")
        if not scopes:
            raise MercatoError(f"scope: a key needs one of {', '.join(SCOPES)}")
        if rate is not None and not rate > 0:
            raise MercatoError("rate: requests a second, above 0")
        secret = secrets.token_urlsafe(32)  # of 256 random bits: a slow hash would protect nothing more
        key = ApiKey(
            key_id=secrets.token_hex(4),
            name=name,
            scopes=frozenset(scopes),
            rate=rate,
            digest=_digest(secret),
            made_at=time.time(),
        )
        row = vars(key) | {"scopes": " ".join(sorted(scopes))}
        with self._database.write() as connection:
            connection.execute(sa.insert(KEYS).values(row))
        return key, f"{PREFIX}_{key.key_id}_{secret}"

    def all(self) -> list[ApiKey]:
        """Every key, the revoked ones too, in the order in which they were made.

        Raises:
            MercatoError: the database cannot be read.
        """
        try:
            with self._database.read() as connection:
                rows = connection.execute(sa.select(KEYS).order_by(KEYS.c.made_at, KEYS.c.key_id)).mappings().all()
        except sa.exc.SQLAlchemyError as error:
            raise MercatoError(f"the keys cannot be read: {getattr(error, 'orig', error)}") from None
        return [ApiKey(**{**row, "scopes": frozenset(row["scopes"].split())}) for row in rows]

    def revoke(self, key_id: str) -> None:
        """Let a key open nothing any more; one that was revoked stays so.

        Raises:
            MercatoError: there is none of this id.
        """
        known = sa.update(KEYS).where(KEYS.c.key_id == key_id)
        revoked = known.values(revoked_at=sa.func.coalesce(KEYS.c.revoked_at, time.time()))
        with self._database.write() as connection:
            if not connection.execute(revoked).rowcount:
                raise MercatoError(f"key {key_id}: there is none of this id; `mercato keys list` shows all")


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()
