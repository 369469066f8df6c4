"""The marketplace's old search engine: words in common, freshness and nearness, and slots from its other sources.

It is what the log was made with, so it decides what anyone could have seen. It matches tokens of the title (weight 2)
and of the description (weight .7) within the searcher's country. About three slots in ten, and all that words do not
fill, it takes from listings fresh, near or keenly priced in the category that clicks on the query have taught it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from mercato.simulation.listings import Catalogue
from mercato.simulation.ontology import COUNTRIES, TYPES
from mercato.simulation.queries import Query
from mercato.simulation.relevance import Bools, Floats, Ints

PAGE = 14
OTHER_SLOTS = 0.30  # share of slots filled from other sources although words would fill them
CATEGORY_KNOWN = 0.85  # how often the category learned from clicks is the right one
MATCHES, OTHERS = 48, 60  # candidates kept from each source
SOLD_SHOWN = 3.0  # days that a sold listing stays up


@dataclass(frozen=True)
class Searches:
    """Searches of one query: when (days) and from where."""

    time: Floats
    latitude: Floats
    longitude: Floats


@dataclass(frozen=True)
class Pages:
    """What S searches displayed, (S, slots): catalogue rows, whether the slot is filled, how far the thing is."""

    rows: Ints
    shown: Bools
    kilometres: Floats


def tokens(text: str) -> list[str]:
    """Lower-case words; what a plain engine indexes."""
    return re.findall(r"[\w\"-]+", text.lower())


class Engine:
    """An index of the catalogue, one posting list a country and token."""

    def __init__(self, catalogue: Catalogue, sold: Floats) -> None:
        self.catalogue = catalogue
        self.sold = sold
        self._rows = [np.flatnonzero(catalogue.country == number) for number in range(len(COUNTRIES))]
        self._place = np.zeros(len(catalogue.ids), np.int64)
        self._postings: list[dict[str, tuple[Ints, Floats]]] = []
        self._leaf = np.array([listing.category or "" for listing in catalogue.listings], object)
        for rows in self._rows:
            self._place[rows] = np.arange(len(rows))
            self._postings.append(self._index(rows))

    def _index(self, rows: Ints) -> dict[str, tuple[Ints, Floats]]:
        found: dict[str, dict[int, float]] = {}
        for position, row in enumerate(rows.tolist()):
            listing = self.catalogue.listings[row]
            for text, weight in ((listing.title, 2.0), (listing.description or "", 0.7)):
                for token in set(tokens(text)):
                    posting = found.setdefault(token, {})
                    posting[position] = posting.get(position, 0.0) + weight
        return {
            token: (np.array(list(posting)), np.array(list(posting.values())) * np.log(1 + len(rows) / len(posting)))
            for token, posting in found.items()
        }

    def matches(self, text: str, country: int, limit: int = MATCHES) -> tuple[Ints, Floats]:
        """Catalogue rows that share words with the query and their scores, best first."""
        rows = self._rows[country]
        scores = np.zeros(len(rows))
        for token in set(tokens(text)):
            if posting := self._postings[country].get(token):
                scores[posting[0]] += posting[1]
        hits = np.flatnonzero(scores)
        best = hits[np.argsort(-scores[hits], kind="stable")[:limit]]
        return rows[best], scores[best]

    def country_rows(self, country: int) -> Ints:
        """All listings of a country."""
        return self._rows[country]

    def pages(self, query: Query, searches: Searches, chance: np.random.Generator) -> Pages:
        """What each search of a query displays."""
        lexical, scores = self.matches(query.text, query.country)
        other, other_weight = self._others(query, chance)
        strength = scores / scores[0] if len(scores) else scores
        km_lexical, km_other = self._distance(lexical, searches), self._distance(other, searches)
        appeal = strength + self._context(lexical, km_lexical, searches) + chance.gumbel(0, 0.08, km_lexical.shape)
        draw = (
            np.log(other_weight) + 2.5 * self._context(other, km_other, searches) + chance.gumbel(0, 1, km_other.shape)
        )
        slots = PAGE + 4  # some are doubles and dropped
        first, first_there = _ranked(appeal, slots)
        second, second_there = _ranked(draw, slots)
        turn = _merge(first_there.sum(1), second_there.sum(1), slots, chance)
        place_first = np.clip(np.cumsum(turn == 0, 1) - 1, 0, max(first.shape[1] - 1, 0))
        place_second = np.clip(np.cumsum(turn == 1, 1) - 1, 0, max(second.shape[1] - 1, 0))
        rows, km = np.full(turn.shape, -1), np.zeros(turn.shape)
        for number, table, kilometres, order, place in (
            (0, lexical, km_lexical, first, place_first), (1, other, km_other, second, place_second),
        ):  # fmt: skip
            if len(table):
                pick = np.take_along_axis(order, place, 1)
                rows = np.where(turn == number, table[pick], rows)
                km = np.where(turn == number, np.take_along_axis(kilometres, pick, 1), km)
        shown = (rows >= 0) & ~_repeated(rows)
        shown &= np.cumsum(shown, 1) <= PAGE
        return Pages(rows, shown, km)

    def _others(self, query: Query, chance: np.random.Generator) -> tuple[Ints, Floats]:
        """Candidates that need no word in common, and how likely each is to be taken."""
        rows, wanted = self._rows[query.country], TYPES[query.intent.type]
        near = {TYPES[n].category for n in range(len(TYPES)) if TYPES[n].key in wanted.near} - {wanted.category}
        leaf = self._leaf[rows]
        inside, beside = rows[leaf == wanted.category], rows[np.isin(leaf, list(near))]
        picked = [
            (chance.permutation(inside)[: OTHERS * 3 // 4], CATEGORY_KNOWN),
            (chance.permutation(beside)[: OTHERS // 4], 1 - CATEGORY_KNOWN),
            (chance.choice(rows, min(len(rows), 6), replace=False), 0.02),
        ]
        unique, first = np.unique(np.concatenate([some for some, _ in picked]), return_index=True)
        weights = np.concatenate([np.full(len(some), share / max(len(some), 1)) for some, share in picked])[first]
        return unique, weights * np.exp(-0.5 * self.catalogue.unfairness[unique])

    def _distance(self, rows: Ints, searches: Searches) -> Floats:
        """Kilometres from each search to each listing (S, C), on a flat earth: good to a per cent within a country."""
        north = (self.catalogue.latitude[rows] - searches.latitude[:, None]) * 111.2
        east = (self.catalogue.longitude[rows] - searches.longitude[:, None]) * 111.2
        return np.asarray(np.hypot(north, east * np.cos(np.radians(searches.latitude))[:, None]), np.float64)

    def _context(self, rows: Ints, kilometres: Floats, searches: Searches) -> Floats:
        """Freshness and nearness, 0..0.6 (S, C); -inf for a listing that is not up at that moment."""
        age = searches.time[:, None] - self.catalogue.created[rows]
        up = (age >= 0) & (searches.time[:, None] < self.sold[rows] + SOLD_SHOWN)
        return np.where(up, 0.25 * np.exp(-age / 14) + 0.35 * np.exp(-kilometres / 120), -np.inf)


def _ranked(scores: Floats, slots: int) -> tuple[Ints, Bools]:
    """Column numbers by falling score (S, ≤ slots) and which of them are up."""
    order = np.argsort(-scores, 1)[:, :slots]
    return order, np.isfinite(np.take_along_axis(scores, order, 1))


def _merge(first: Ints, second: Ints, slots: int, chance: np.random.Generator) -> Ints:
    """Which source fills each slot (S, slots): 0 words, 1 others, -1 none; `first`, `second`: how many each has."""
    other = chance.random((len(first), slots)) < OTHER_SLOTS
    out = np.cumsum(~other, 1) > first[:, None]
    other |= out
    empty = other & (np.cumsum(other, 1) > second[:, None])
    return np.where(empty, -1, other.astype(np.int64))


def _repeated(rows: Ints) -> Bools:
    """Whether a row number stood further up on the same page."""
    order = np.argsort(rows, 1, kind="stable")
    ordered = np.take_along_axis(rows, order, 1)
    again = np.zeros(rows.shape, bool)
    again[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    result = np.zeros(rows.shape, bool)
    np.put_along_axis(result, order, again, 1)
    return result
