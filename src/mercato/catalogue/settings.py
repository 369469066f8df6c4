"""Settings and secrets that every process on a catalogue shares."""

from __future__ import annotations

import secrets

import sqlalchemy as sa

from mercato.catalogue.database import Database
from mercato.catalogue.tables import SETTINGS


class SettingStore:
    """Named texts, and secrets made once."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, name: str) -> str | None:
        """A stored setting, or None."""
        with self._database.read() as connection:
            value = connection.execute(sa.select(SETTINGS.c.value).where(SETTINGS.c.name == name)).scalar()
        return None if value is None else str(value)

    def set(self, name: str, value: str) -> None:
        """Store a setting."""
        with self._database.write() as connection:
            insert = self._database.insert(SETTINGS).values(name=name, value=value)
            connection.execute(insert.on_conflict_do_update(index_elements=["name"], set_={"value": value}))

    def secret(self, name: str) -> bytes:
        """32 random bytes made at the first call and the same ever after, for every process on this catalogue."""
        with self._database.write() as connection:
            insert = self._database.insert(SETTINGS).values(name=name, value=secrets.token_hex(32))
            connection.execute(insert.on_conflict_do_nothing())
            return bytes.fromhex(connection.execute(sa.select(SETTINGS.c.value).filter_by(name=name)).scalar_one())
