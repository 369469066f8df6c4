"""How sellers and searchers write: words in four languages, sales talk, abbreviations, typos."""

from __future__ import annotations

import unicodedata

import numpy as np

# Colour, pattern and material words: "masculine/feminine" where they differ; the first entry is English.
_ADJECTIVES: dict[str, tuple[str, str, str, str]] = {
    "red": ("red", "rojo/roja", "rouge", "rot"),
    "blue": ("blue", "azul", "bleu/bleue", "blau"),
    "green": ("green", "verde", "vert/verte", "grün"),
    "yellow": ("yellow", "amarillo/amarilla", "jaune", "gelb"),
    "black": ("black", "negro/negra", "noir/noire", "schwarz"),
    "white": ("white", "blanco/blanca", "blanc/blanche", "weiß"),
    "grey": ("gray|grey", "gris", "gris/grise", "grau"),
    "brown": ("brown", "marrón|café", "marron", "braun"),
    "pink": ("pink", "rosa", "rose", "rosa|pink"),
    "orange": ("orange", "naranja", "orange", "orange"),
    "purple": ("purple|violet", "morado/morada", "violet/violette", "lila|violett"),
    "beige": ("beige|cream", "beige|crema", "beige|crème", "beige|creme"),
    "striped": ("striped|stripes", "a rayas|rayado/rayada", "à rayures|rayé/rayée", "gestreift|Streifen"),
    "dotted": ("polka dot|spotted", "de lunares|con puntos", "à pois", "gepunktet|Punkte"),
    "checked": ("checked|plaid|tartan", "de cuadros", "à carreaux|écossais/écossaise", "kariert|Karo"),
    "floral": ("floral|flowery", "floral|de flores", "fleuri/fleurie|à fleurs", "geblümt|Blumen"),
    "fabric": ("fabric|cloth|cotton", "de tela|de algodón", "en tissu|en coton", "Stoff|Baumwolle"),
    "wood": ("wooden|wood|oak", "de madera", "en bois", "Holz|Massivholz"),
    "metal": ("metal|steel", "de metal|de acero", "en métal|en acier", "Metall|Stahl"),
    "leather": ("leather", "de piel|de cuero", "en cuir", "Leder"),
    "plastic": ("plastic", "de plástico", "en plastique", "Kunststoff|Plastik"),
    "glass": ("glass", "de cristal|de vidrio", "en verre", "Glas"),
    "ceramic": ("ceramic|porcelain", "de cerámica", "en céramique", "Keramik"),
    "rattan": ("rattan|wicker", "de ratán|de mimbre", "en rotin|en osier", "Rattan|Korb"),
}

CONDITION_WORDS: dict[str, tuple[tuple[str, ...], ...]] = {
    "new": (("brand new", "never used"), ("nuevo", "a estrenar"), ("neuf", "jamais servi"), ("neu", "unbenutzt")),
    "like_new": (
        ("like new", "as new"),
        ("como nuevo", "casi nuevo"),
        ("comme neuf", "état neuf"),
        ("wie neu", "neuwertig"),
    ),
    "good": (
        ("good condition", "used"),
        ("buen estado", "usado"),
        ("bon état", "occasion"),
        ("guter Zustand", "gebraucht"),
    ),
    "fair": (
        ("some wear", "used but ok"),
        ("con uso", "algo de desgaste"),
        ("état correct", "quelques traces"),
        ("Gebrauchsspuren", "älter"),
    ),
    "worn": (
        ("needs some love", "for repair"),
        ("para reparar", "bastante usado"),
        ("à rénover", "usé"),
        ("für Bastler", "abgenutzt"),
    ),
}

# Talk that says nothing about the thing, and that every listing may carry.
FILLER: dict[str, tuple[str, ...]] = {
    "en": (
        "Must go this weekend!",
        "Cash only, no time wasters.",
        "Pick up only, from a smoke free home.",
        "Price is negotiable, message me.",
        "We are moving house and have no room for it.",
        "Can deliver locally for a small fee.",
        "First come first served.",
        "Great gift, you will love it.",
        "Selling for a friend.",
        "Check my other listings too.",
    ),
    "es": (
        "¡Urge vender!",
        "Solo efectivo, precio negociable.",
        "Se recoge en mano, hogar sin humo.",
        "Lo vendo por mudanza.",
        "Puedo enviarlo por poco más.",
        "No hago cambios.",
        "Mándame un mensaje si te interesa.",
        "Un regalo perfecto.",
        "Mira mis otros anuncios.",
    ),
    "fr": (
        "À venir chercher sur place.",
        "Prix négociable, faire offre.",
        "Je vends pour cause de déménagement.",
        "Maison non fumeur.",
        "Envoi possible.",
        "Pas d'échange, paiement en espèces.",
        "Idéal pour un cadeau.",
        "Contactez-moi pour plus d'infos.",
        "Voir mes autres annonces.",
    ),
    "de": (
        "Nur Abholung, Nichtraucherhaushalt.",
        "Preis ist VB.",
        "Verkaufe wegen Umzug.",
        "Versand gegen Aufpreis möglich.",
        "Privatverkauf, keine Garantie, keine Rücknahme.",
        "Bei Interesse einfach melden.",
        "Tolles Geschenk.",
        "Schaut auch meine anderen Anzeigen an.",
    ),
}
TITLE_TALK = {
    "en": ("must see", "bargain", "great deal", "OBO", "reduced", "!!"),
    "es": ("oportunidad", "ganga", "chollo", "barato", "urge", "!!"),
    "fr": ("bonne affaire", "à saisir", "pas cher", "urgent", "!!"),
    "de": ("Schnäppchen", "top", "VB", "günstig", "super", "!!"),
}
VAGUE = {  # titles that do not say what it is
    "en": (
        "For sale, see photos",
        "Great find",
        "Must go, make an offer",
        "Vintage piece",
        "Lovely gift idea",
        "Barely used",
    ),
    "es": ("Se vende, ver fotos", "Urge vender", "Pieza única", "Regalo ideal", "Como nuevo, ver foto"),
    "fr": ("À vendre, voir photos", "Belle trouvaille", "Idée cadeau", "Cause déménagement", "Pièce unique"),
    "de": ("Zu verkaufen, siehe Foto", "Schönes Stück", "Muss weg", "Geschenkidee", "Kaum benutzt"),
}
GARAGE = {
    "en": (
        "Garage sale",
        "Moving sale, everything must go",
        "Yard sale this weekend",
        "House clearance, lots of things",
    ),
    "es": ("Venta de garaje", "Venta por mudanza", "Vacío piso, varias cosas", "Lote de cosas para casa"),
    "fr": ("Vide-grenier", "Vide maison, tout doit partir", "Lot divers déménagement", "Braderie de la maison"),
    "de": ("Garagenflohmarkt", "Haushaltsauflösung", "Umzug, alles muss raus", "Flohmarkt Kiste"),
}
_ALSO = {
    "en": "Also selling: {}.",
    "es": "También vendo: {}.",
    "fr": "Je vends aussi : {}.",
    "de": "Ebenfalls zu haben: {}.",
}
_NEXT_TO = {
    "en": "Looks great next to a {}.",
    "es": "Queda muy bien con: {}.",
    "fr": "Va très bien avec : {}.",
    "de": "Passt gut zu: {}.",
}
_SIZE = {"en": "size {}", "es": "talla {}", "fr": "taille {}", "de": "Gr. {}"}
_AGREES = {
    "en": ("a bit of history: about {} years old", "bought {} years ago"),
    "es": ("tiene unos {} años", "comprado hace {} años"),
    "fr": ("environ {} ans d'âge", "acheté il y a {} ans"),
    "de": ("ca. {} Jahre alt", "vor {} Jahren gekauft"),
}
_LANGUAGE_NUMBER = {"en": 0, "es": 1, "fr": 2, "de": 3}
_SHORT = {  # what searchers type for short
    "television": "tv",
    "bicycle": "bike",
    "refrigerator": "fridge",
    "black": "blk",
    "white": "wht",
    "wooden": "wood",
    "bicicleta": "bici",
    "para": "p",
    "schwarz": "schw",
    "gebraucht": "gebr",
    "télévision": "tv",
    "ordinateur": "ordi",
    "dining": "din",
    "leather": "lthr",
    "escritorio": "escrit",
}
_NEIGHBOURS = {
    "a": "sq",
    "b": "vn",
    "c": "xv",
    "d": "sf",
    "e": "wr",
    "f": "dg",
    "g": "fh",
    "h": "gj",
    "i": "uo",
    "j": "hk",
    "k": "jl",
    "l": "k",
    "m": "n",
    "n": "bm",
    "o": "ip",
    "p": "o",
    "q": "wa",
    "r": "et",
    "s": "ad",
    "t": "ry",
    "u": "yi",
    "v": "cb",
    "w": "qe",
    "x": "zc",
    "y": "tu",
    "z": "x",
}

Chance = np.random.Generator


def choose(chance: Chance, items: tuple[str, ...], steep: float = 0.0) -> str:
    """One of `items`; with `steep` > 0 the first ones are likelier (weight 1 / rank^steep)."""
    if not steep:
        return items[int(chance.integers(len(items)))]
    weights = np.arange(1, len(items) + 1) ** -steep
    return items[int(np.searchsorted(np.cumsum(weights / weights.sum()), chance.random()))]


def describe(chance: Chance, value: str, language: str, feminine: bool) -> str:
    """A word for a colour, pattern or material, in agreement with its noun."""
    word = choose(chance, tuple(_ADJECTIVES[value][_LANGUAGE_NUMBER[language]].split("|")), 1.0)
    return word.split("/")[-1 if feminine else 0]


def noun(name: str) -> tuple[str, bool]:
    """Split an ontology name into the written word and whether it is feminine."""
    return name.replace("~", ""), "~" in name


def phrase(chance: Chance, language: str, name: str, adjectives: list[str], loose: bool = False) -> str:
    """A noun with its adjectives in the language's order; `loose` writes them in any order, as searchers do."""
    word, feminine = noun(name)
    said = [describe(chance, value, language, feminine) for value in adjectives]
    if loose and chance.random() < 0.3:
        parts = [word, *said]
        return " ".join(parts[i] for i in chance.permutation(len(parts)))
    before = language == "en" or (language == "de" and chance.random() < 0.4)
    return " ".join([*said, word] if before else [word, *said])


def size_words(language: str, size: str) -> str:
    """How a size is written: with a word for clothes and shoes, bare for inches, gigabytes and centimetres."""
    return _SIZE[language].format(size) if len(size) <= 2 and size.isalnum() else size


def condition_words(chance: Chance, condition: str, language: str) -> str:
    """A phrase for a condition."""
    return choose(chance, CONDITION_WORDS[condition][_LANGUAGE_NUMBER[language]])


def also(language: str, words: str) -> str:
    """The sentence that lists other things for sale."""
    return _ALSO[language].format(words)


def next_to(language: str, words: str) -> str:
    """The sentence that names another thing that is *not* for sale here."""
    return _NEXT_TO[language].format(words)


def age_words(chance: Chance, language: str, years: int) -> str:
    """The sentence about the age of a thing."""
    return choose(chance, _AGREES[language]).format(years).capitalize() + "."


def add_typo(chance: Chance, text: str) -> str:
    """A text with one typo in a longer word: a letter dropped, doubled, swapped or from the key beside it."""
    words = text.split(" ")
    long = [i for i, word in enumerate(words) if len(word) >= 4]
    if not long:
        return text
    at = long[int(chance.integers(len(long)))]
    word = words[at]
    i = int(chance.integers(1, len(word) - 1))
    kind = int(chance.integers(4))
    if kind == 0:
        word = word[:i] + word[i + 1 :]
    elif kind == 1:
        word = word[:i] + word[i] + word[i:]
    elif kind == 2:
        word = word[:i] + word[i + 1] + word[i] + word[i + 2 :]
    else:
        word = word[:i] + choose(chance, tuple(_NEIGHBOURS.get(word[i].lower(), "e"))) + word[i + 1 :]
    words[at] = word
    return " ".join(words)


def abbreviate(text: str) -> str:
    """The text with its well-known short forms."""
    return " ".join(_SHORT.get(word.lower(), word) for word in text.split(" "))


def without_accents(text: str) -> str:
    """The text as typed on a keyboard without accents."""
    plain = unicodedata.normalize("NFD", text.replace("ß", "ss"))
    return "".join(letter for letter in plain if not unicodedata.combining(letter))
