"""The catalogue of record: one database of products and their images, the outbox, what was logged, settings, keys.

What a write acknowledges is on disk; a product and its outbox row are one transaction.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

from mercato.catalogue.database import Database
from mercato.catalogue.keys import KeyStore
from mercato.catalogue.outbox import Outbox
from mercato.catalogue.products import ProductStore
from mercato.catalogue.row_log import RowLog
from mercato.catalogue.settings import SettingStore
from mercato.catalogue.tables import EVENTS, FEATURES


class Catalogue:
    """The catalogue: its parts over one database. Safe to share between threads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.outbox = Outbox(database)
        self.products = ProductStore(database, self.outbox)
        self.events, self.features = RowLog(database, EVENTS), RowLog(database, FEATURES)
        self.settings, self.keys = SettingStore(database), KeyStore(database)

    @classmethod
    def open(cls, where: str | Path) -> Self:
        """Open or create a catalogue: a file path (SQLite; only its owner may read it) or an SQLAlchemy URL.

        One made by an older version of Mercato is brought up to date.

        Raises:
            MercatoError: it cannot be opened, is not a catalogue, or was made by a newer version of Mercato.
        """
        return cls(Database.open(where))

    @property
    def name(self) -> str:
        """Tells its live files (`mercato.data.live`) from those of another catalogue of the market."""
        return self.settings.secret("name").hex()[:8]

    def check(self) -> None:
        """Look for damage in the file of a SQLite database, where it is small enough for that.

        Raises:
            DamagedError: there is some.
        """
        self._database.check()

    def last_number(self) -> int:
        """The number of the last write that was committed; who reads now sees it and all before it."""
        return self._database.last_number()

    def close(self) -> None:
        """Close every connection."""
        self._database.close()
