"""How sellers write: what of a thing they say, where they say it, and what they leave out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mercato.simulation import language as words
from mercato.simulation.images import Look
from mercato.simulation.ontology import TYPE_NUMBER, TYPES, ProductType

SAYS_COLOUR, SAYS_PATTERN, SAYS_MATERIAL, SAYS_BRAND, SAYS_SIZE = 0.55, 0.5, 0.5, 0.5, 0.7
NO_DESCRIPTION, VAGUE_TITLE, TYPO = 0.25, 0.08, 0.07
SECOND_LANGUAGE = 0.06


@dataclass(frozen=True)
class Listing:
    """What a seller wrote, and what is really there (the last four fields are hidden from every model)."""

    title: str
    description: str | None
    brand: str | None
    category: str | None
    attributes: dict[str, str]
    written_language: str
    looks: tuple[Look, ...]
    true_brand: str
    true_size: str
    text_says: tuple[bool, bool, bool]  # whether the text gives colour, pattern, material


def write_listing(
    chance: np.random.Generator, kinds: list[ProductType], home: str, second: str, condition: str, years: int
) -> Listing:
    """One listing: of one thing, or a garage sale of several."""
    tongue = second if chance.random() < SECOND_LANGUAGE else home
    looks = tuple(_look(chance, kind) for kind in kinds)
    kind = kinds[0]
    brand = words.choose(chance, kind.brands, 0.8)
    size = words.choose(chance, kind.sizes) if kind.sizes else ""
    if len(kinds) > 1:
        return _garage_sale(chance, kinds, looks, tongue)
    look = looks[0]
    says = tuple(chance.random(3) < (SAYS_COLOUR, SAYS_PATTERN, SAYS_MATERIAL))
    told = [
        v for v, said in zip((look.colour, look.pattern, look.material), says, strict=True) if said and v != "plain"
    ]
    in_title = [value for value in told if chance.random() < 0.6]
    elsewhere = [value for value in told if value not in in_title]
    says_brand, says_size = chance.random() < SAYS_BRAND, bool(size) and chance.random() < SAYS_SIZE
    name = words.choose(chance, kind.names[tongue], 1.3)
    title = words.phrase(chance, tongue, name, in_title)
    if says_brand and chance.random() < 0.5:
        title = f"{brand} {title}" if chance.random() < 0.6 else f"{title} {brand}"
    if says_size and chance.random() < 0.6:
        title = f"{title} {words.size_words(tongue, size)}"
    if chance.random() < 0.18:
        title = f"{title}, {words.condition_words(chance, condition, tongue)}"
    if chance.random() < 0.15:
        title = f"{title} {words.choose(chance, words.TITLE_TALK[tongue])}"
    vague = chance.random() < VAGUE_TITLE
    if vague:
        title, elsewhere = words.choose(chance, words.VAGUE[tongue]), told
    if chance.random() < TYPO:
        title = words.add_typo(chance, title)
    if chance.random() < 0.5:
        title = title[0].upper() + title[1:]
    elif chance.random() < 0.12:
        title = title.upper()
    in_fields = {key for key in ("colour", "pattern", "material", "size") if chance.random() < 0.35}
    values = {
        "colour": look.colour,
        "pattern": look.pattern.replace("plain", ""),
        "material": look.material,
        "size": size,
    }
    stated = {"colour": says[0], "pattern": says[1], "material": says[2], "size": says_size}
    attributes = {key: value for key, value in values.items() if key in in_fields and stated[key] and value}
    in_fields_only = [value for value in elsewhere if value in attributes.values()]
    description = None
    if chance.random() > NO_DESCRIPTION:
        sentences = [words.phrase(chance, tongue, words.choose(chance, kind.names[tongue], 0.5), elsewhere)] \
            if elsewhere or vague or chance.random() < 0.55 else []  # fmt: skip
        if says_size and chance.random() < 0.5:
            sentences.append(words.size_words(tongue, size))
        if chance.random() < 0.5:
            sentences.append(words.condition_words(chance, condition, tongue))
        description = _prose(chance, tongue, sentences, kind, years)
        unsaid: set[str] = set()
    else:
        unsaid = {value for value in elsewhere if value not in in_fields_only}
    brand_field = brand if says_brand and (brand not in title or chance.random() < 0.5) else None
    return Listing(
        title=title,
        description=description,
        brand=brand_field,
        category=_category(chance, kind),
        attributes=attributes,
        written_language=tongue,
        looks=looks,
        true_brand=brand if says_brand else "",
        true_size=size if says_size and (size in title or size in (description or "") or "size" in attributes) else "",
        text_says=(
            says[0] and look.colour not in unsaid,
            says[1] and look.pattern not in unsaid,
            says[2] and look.material not in unsaid,
        ),
    )


def _garage_sale(
    chance: np.random.Generator, kinds: list[ProductType], looks: tuple[Look, ...], tongue: str
) -> Listing:
    named = [words.noun(words.choose(chance, kind.names[tongue], 1.0))[0] for kind in kinds if chance.random() < 0.5]
    sentences = [", ".join(named)] if named else []
    return Listing(
        title=words.choose(chance, words.GARAGE[tongue]),
        description=_prose(chance, tongue, sentences, kinds[0], 0) if chance.random() < 0.8 else None,
        brand=None,
        category=None if chance.random() < 0.4 else "Home > Garage sales",
        attributes={},
        written_language=tongue,
        looks=looks,
        true_brand="",
        true_size="",
        text_says=(False, False, False),
    )


def _prose(chance: np.random.Generator, tongue: str, sentences: list[str], kind: ProductType, years: int) -> str:
    """A description: what is said about the thing, among sales talk and now and then the name of another thing."""
    written = [sentence[0].upper() + sentence[1:] + "." for sentence in sentences]
    if years > 1 and chance.random() < 0.3:
        written.append(words.age_words(chance, tongue, years))
    talk = words.FILLER[tongue]
    written += [talk[i] for i in chance.permutation(len(talk))[: int(chance.integers(1, 4))]]
    if chance.random() < 0.14:  # words of a thing that is not in this listing
        other = TYPES[int(chance.integers(len(TYPES)))]
        name = words.noun(other.names[tongue][0])[0]
        written.append(words.also(tongue, name) if chance.random() < 0.5 else words.next_to(tongue, name))
    if chance.random() < 0.4:
        written = [written[i] for i in chance.permutation(len(written))]
    return " ".join(written)


def _look(chance: np.random.Generator, kind: ProductType) -> Look:
    plain = len(kind.patterns) == 1 or chance.random() < 0.55
    pattern = "plain" if plain else words.choose(chance, kind.patterns[1:])
    return Look(
        TYPE_NUMBER[kind.key],
        words.choose(chance, kind.colours, 0.35),
        pattern,
        words.choose(chance, kind.materials, 0.5),
    )


def _category(chance: np.random.Generator, kind: ProductType) -> str | None:
    """The category the seller picked: mostly right, sometimes a near one, a broader one or none."""
    dice = chance.random()
    if dice < 0.08:
        return None
    if dice < 0.16:
        return kind.category.rsplit(" > ", 1)[0]
    if dice < 0.21:
        return TYPES[TYPE_NUMBER[words.choose(chance, kind.near)]].category
    return kind.category
