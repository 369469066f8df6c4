"""What people search for, and the strings they type for it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from mercato.data.schema import INTENTS
from mercato.simulation import language as words
from mercato.simulation.listings import Catalogue
from mercato.simulation.ontology import COLOURS, COUNTRIES, MATERIALS, PATTERNS, TYPES
from mercato.simulation.relevance import NOTHING, Floats, Intent, Ints

FOREIGN = {
    "us": ("es", 0.09),
    "gb": ("fr", 0.02),
    "es": ("en", 0.05),
    "mx": ("en", 0.06),
    "fr": ("en", 0.04),
    "de": ("en", 0.06),
}
STRINGS = 4  # spellings of one intent in its country's language; two in a foreign one
CAREFUL = 2  # the commonest spellings are plain: no typo, no abbreviation, no talk
TYPO, ABBREVIATED, NO_ACCENTS, WITH_TALK = 0.35, 0.2, 0.35, 0.1
KINDS = ("type", "colour", "material", "pattern", "colour+material", "colour+pattern", "brand", "size")
_KIND_SHARES = (0.0, 0.38, 0.14, 0.15, 0.08, 0.08, 0.10, 0.07)
_TALK = {
    "en": ("cheap", "used", "near me"),
    "es": ("barato", "segunda mano"),
    "fr": ("pas cher", "occasion"),
    "de": ("gebraucht", "günstig"),
}


@dataclass(frozen=True)
class Query:
    """One string typed in one country for one intent."""

    text: str
    country: int
    intent: Intent
    kind: str  # one of KINDS
    language: str
    typo: bool


@dataclass(frozen=True)
class Demand:
    """Every query that is typed, and how often; `weights` sum to 1."""

    queries: list[Query]
    weights: Floats
    by_intent: list[Ints]  # for each query, the other spellings of its intent in its country


def intents_table(demand: Demand) -> pa.Table:
    """Which query strings ask for the same thing (schema `INTENTS`), as evaluation's intervals need to know."""
    names = {"colour": COLOURS, "pattern": PATTERNS, "material": MATERIALS}

    def spelled(intent: Intent) -> str:
        asked = [f"{name}={values[at]}" for name, values in names.items() if (at := getattr(intent, name)) != NOTHING]
        asked += [f"{name}={value}" for name in ("brand", "size") if (value := getattr(intent, name))]
        return " ".join([TYPES[intent.type].key, *asked])

    rows = [(query.text, COUNTRIES[query.country].code, spelled(query.intent)) for query in demand.queries]
    return pa.table(list(zip(*rows, strict=True)), schema=INTENTS)


def make_demand(catalogue: Catalogue, intents: int, chance: np.random.Generator) -> Demand:
    """All types on offer, and `intents` more with attributes taken from listings that exist; Zipf-like weights.

    A string means one intent in one country: where two intents are spelled alike, the commoner one keeps the string.
    """
    offered = np.unique(catalogue.things.type)
    wanted = [(Intent(int(number)), "type") for number in offered if number != NOTHING]
    plain = len(wanted)
    wanted += list(dict.fromkeys(_with_attributes(catalogue, chance) for _ in range(intents)))
    popularity = np.array([TYPES[intent.type].popularity for intent, _ in wanted])
    attributed = np.array([kind != "type" for _, kind in wanted])
    rank = np.arange(1, len(wanted) + 1)
    weight = popularity**1.3 * np.where(attributed, 1.8 * np.maximum(rank - plain, 1) ** -0.5, 1.0)
    weight *= chance.lognormal(0, 0.4, len(wanted))
    order = np.argsort(-weight, kind="stable")
    queries: dict[tuple[str, int], tuple[Query, float, int]] = {}
    for place_number, place in enumerate(COUNTRIES):
        foreign, share = FOREIGN[place.code]
        for number in order:
            intent, kind = wanted[number]
            for tongue, part in ((place.language, 1 - share), (foreign, share)):
                base = weight[number] / weight.sum() * place.share * part
                for text, text_share, typo in _spellings(
                    chance, intent, tongue, STRINGS if tongue == place.language else 2
                ):
                    query = Query(text, place_number, intent, kind, tongue, typo)
                    queries.setdefault((text, place_number), (query, base * text_share, int(number)))
    found = list(queries.values())
    weights = np.array([value for _, value, _ in found])
    families: dict[tuple[int, int], list[int]] = {}
    for position, (query, _, number) in enumerate(found):
        families.setdefault((number, query.country), []).append(position)
    members = {key: np.array(value) for key, value in families.items()}
    return Demand(
        [query for query, _, _ in found],
        weights / weights.sum(),
        [members[number, query.country] for query, _, number in found],
    )


def _with_attributes(catalogue: Catalogue, chance: np.random.Generator) -> tuple[Intent, str]:
    """An intent that at least one listing answers: its type with some of its attributes."""
    while True:
        row = int(chance.integers(len(catalogue.listings)))
        listing, look = catalogue.listings[row], catalogue.listings[row].looks[0]
        kind = KINDS[int(chance.choice(len(KINDS), p=_KIND_SHARES))]
        asked = kind.split("+")
        if ("pattern" in asked and look.pattern == "plain") or (
            "material" in asked and len(TYPES[look.type].materials) == 1
        ):
            continue
        if ("brand" in asked and not listing.true_brand) or ("size" in asked and not listing.true_size):
            continue

        def number(name: str, names: tuple[str, ...], value: str, asked: list[str] = asked) -> int:
            return names.index(value) if name in asked else NOTHING

        return Intent(
            look.type,
            colour=number("colour", COLOURS, look.colour),
            pattern=number("pattern", PATTERNS, look.pattern),
            material=number("material", MATERIALS, look.material),
            brand=listing.true_brand if "brand" in asked else "",
            size=listing.true_size if "size" in asked else "",
        ), kind


def _spellings(chance: np.random.Generator, intent: Intent, tongue: str, count: int) -> list[tuple[str, float, bool]]:
    """Strings for an intent with their shares (steep: the first is the commonest) and whether they have a typo."""
    shares = np.arange(1, count + 1) ** -1.3
    spelled = []
    for rank, share in enumerate(shares / shares.sum()):
        text, wrong = _spell(chance, intent, tongue, careful=rank < CAREFUL)
        spelled.append((text, float(share), wrong))
    return spelled


def _spell(chance: np.random.Generator, intent: Intent, tongue: str, careful: bool) -> tuple[str, bool]:
    name = words.choose(chance, TYPES[intent.type].names[tongue], 3.0 if careful else 1.0)
    adjectives = [
        names[value]
        for value, names in ((intent.colour, COLOURS), (intent.material, MATERIALS), (intent.pattern, PATTERNS))
        if value >= 0
    ]
    text = words.phrase(chance, tongue, name, adjectives, loose=True).lower()
    if intent.brand:
        text = f"{intent.brand} {text}".lower() if chance.random() < 0.6 else f"{text} {intent.brand}".lower()
    if intent.size:
        text = f"{text} {words.size_words(tongue, intent.size) if chance.random() < 0.5 else intent.size}".lower()
    if chance.random() < NO_ACCENTS:
        text = words.without_accents(text)
    if careful:
        return text, False
    if chance.random() < WITH_TALK:
        text = f"{text} {words.choose(chance, _TALK[tongue])}"
    if chance.random() < ABBREVIATED:
        text = words.abbreviate(text)
    typed = words.add_typo(chance, text) if chance.random() < TYPO else text
    return typed, typed != text
