"""Visual cues: colours and patterns that a query names and on which a product's texts are silent, from tables alone.

A *look* is a colour or a pattern, whatever the language. Its names are a small general list (`looks.toml`) and the
values that the market's own products have in attributes of colours and patterns. A query names a look only by a word
that means little else. A text may name it by less: a compound, an inflection, a word that means other things too. So
what is left is named nowhere; some of what only a photo tells is left out.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import chain
from typing import Any, Literal, Self

import pyarrow as pa

from mercato.data.market import Market
from mercato.data.words import words
from mercato.evaluation.stems import stem
from mercato.evaluation.texts import product_texts
from mercato.fields import SEARCHED

Kind = Literal["colours", "patterns"]
Phrase = tuple[str, ...]  # words of one language, in the form in which `_stems` compares them

KINDS: tuple[Kind, ...] = ("colours", "patterns")
OWN = ""  # the language of a market's own values: nobody knows it, and their words have no stems
LONGEST = 3  # words of a phrase
FEWEST = 3  # products that share a value, for it to be a name
TELLING = 4  # letters that tell a word: as a stem, inside of another, as one of a phrase


@dataclass(frozen=True)
class Look:
    """A colour or pattern, and the words of which each, in a product's text, may name it."""

    name: str
    kind: Kind
    told: frozenset[str]

    def in_text(self, text: Iterable[str]) -> bool:
        """Whether any of a text's words may name it: as it stands, inflected or in a compound."""
        return any(_may_be(word, name) for word in text for name in self.told)


@dataclass(frozen=True)
class Looks:
    """What colours and patterns are called: by language, the phrases that name a look and little else."""

    phrases: Mapping[str, Mapping[Phrase, Look]]

    @classmethod
    def of(cls, values: Mapping[Kind, Iterable[str]] = {}) -> Self:
        """The general list, and a market's own values by kind."""
        general = _general()
        own: dict[Phrase, Look] = {}
        nothing = {tuple(words(value)) for value in _list()["attributes"]["nothing"]}
        for kind, some in values.items():
            for value in some:
                phrase = tuple(words(value))
                within = general.cues(value)
                known = any(_stems(language, phrase) in named for language, named in general.phrases.items())
                if 0 < len(phrase) <= LONGEST and phrase not in nothing and not known:
                    told = _telling(value).union(*(look.told for cue in within for look in cue))
                    own[phrase] = Look(" ".join(phrase), kind, told)
        return cls({**general.phrases, OWN: own})

    @classmethod
    def of_market(cls, market: Market) -> Self:
        """The names that a market's tables know: values that several products have."""
        counts: dict[Kind, Counter[str]] = {kind: Counter() for kind in KINDS}
        for attributes in market.arrow("products", ["attributes"])["attributes"].chunks:
            rows = pa.table({"name": attributes.keys, "value": attributes.items}).group_by(["name", "value"])
            for row in rows.aggregate([([], "count_all")]).to_pylist():
                named = set(words(row["name"]))
                for kind in KINDS:
                    if row["value"] and not named.isdisjoint(_list()["attributes"][kind]):
                        counts[kind][row["value"]] += row["count_all"]
        return cls.of({kind: sorted(v for v, count in own.items() if count >= FEWEST) for kind, own in counts.items()})

    @property
    def words(self) -> list[str]:
        """Every word that may name a look in a product's text."""
        return sorted({word for named in self.phrases.values() for look in named.values() for word in look.told})

    def cues(self, text: str) -> list[frozenset[Look]]:
        """The looks that a text names, one entry a phrase: all that it may mean in some language. Longer ones first."""
        found: dict[tuple[int, int], set[Look]] = {}
        own = words(text)
        for language, phrases in self.phrases.items():
            stems = _stems(language, own)
            for start in range(len(stems)):
                for end in range(start + 1, min(start + LONGEST, len(stems)) + 1):
                    if (look := phrases.get(stems[start:end])) is not None:
                        found.setdefault((start, end), set()).add(look)
        cues, taken = [], set[int]()
        for start, end in sorted(found, key=lambda span: (span[0] - span[1], span)):
            if taken.isdisjoint(range(start, end)):
                taken.update(range(start, end))
                cues.append(frozenset(found[start, end]))
        return cues


def visual_pairs(market: Market, queries: Sequence[str], products: Sequence[int]) -> list[bool]:
    """Of pairs of a query and a row of the products table: whether the query names a look that only a photo can tell.

    No text of the product names that look, and none names another of its kind: a red sofa's photo shows no blue one.
    Texts are read of the products of queries that name a look, and of no others.
    """
    looks = Looks.of_market(market)
    cues = {query: looks.cues(query) for query in set(queries)}
    rows = sorted({product for query, product in zip(queries, products, strict=True) if cues[query]})
    if not rows:
        return [False] * len(queries)
    texts = dict(zip(rows, product_texts(market.arrow("products", list(SEARCHED)).take(rows)), strict=True))
    told = {row: frozenset(words(text)) for row, text in texts.items()}
    kinds = {row: {look.kind for cue in looks.cues(text) for look in cue} for row, text in texts.items()}
    return [
        any(not any(look.kind in kinds[product] or look.in_text(told[product]) for look in cue) for cue in cues[query])
        for query, product in zip(queries, products, strict=True)
    ]


def _may_be(word: str, name: str) -> bool:
    if len(name) >= TELLING:
        return name in word
    return word.startswith(name) and len(word) - len(name) <= 2  # "rot", "roter"


def _telling(phrase: str) -> frozenset[str]:
    """The words of a phrase of which each tells it: its one word, or of several those that are no "de" and no "à"."""
    found = words(phrase)
    return frozenset((word for word in found if len(word) >= TELLING) if len(found) > 1 else found)


def _stems(language: str, own: Sequence[str]) -> Phrase:
    """Words as they are compared in a language: by their stems, those that are left with few letters as they stand."""
    stems = [stem(language, word) for word in own]
    return tuple(short if len(short) >= TELLING else word for word, short in zip(own, stems, strict=True))


@cache
def _general() -> Looks:
    phrases: dict[str, dict[Phrase, Look]] = {}
    for kind in KINDS:
        for name, by_language in _list()[kind].items():
            look = Look(name, kind, frozenset().union(*map(_telling, chain(*by_language.values()))))
            for language, own in by_language.items():
                if language != "also":
                    phrases.setdefault(language, {}).update({_stems(language, words(each)): look for each in own})
    return Looks(phrases)


@cache
def _list() -> Mapping[str, Any]:
    return tomllib.loads(resources.files(__package__).joinpath("looks.toml").read_text("utf-8"))
