"""The market's query rules as they are now: `rules.toml` is followed without a restart, in every process by itself."""

from __future__ import annotations

import logging
from pathlib import Path
from threading import Lock

from mercato.data.normalize import normalize
from mercato.data.query_rules import RULES, QueryRule, QueryRules, read_rules
from mercato.errors import MercatoError

log = logging.getLogger("mercato.search")

_Stamp = tuple[int, int, int]  # a file's time, size and number: another one says that it was written


class MarketRules:
    """The rules of a market; safe to share between threads."""

    def __init__(self, market: Path) -> None:
        """A file that is broken now has no rules until it is mended."""
        self._market, self._turn = market, Lock()
        self._rules: QueryRules = {}
        self._read: _Stamp | None = None  # None: there was no file

    def of(self, query: str, country: str | None) -> QueryRule | None:
        """The rule of a search: that of its country where there is one, else that of every country.

        Where the file has changed it is read again. One that is broken is told of once, and the rules of before go on.
        """
        stamp = self._stamp()
        if stamp != self._read:
            with self._turn:
                if stamp != self._read:
                    self._read = stamp
                    self._reload()
        if not self._rules:
            return None
        text = normalize(query)
        return self._rules.get((text, country)) or self._rules.get((text, None))

    def _reload(self) -> None:
        try:
            self._rules = read_rules(self._market)
        except MercatoError as error:
            log.error("%s; the rules of before go on", error)

    def _stamp(self) -> _Stamp | None:
        try:
            found = (self._market / RULES).stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino
