"""Products whose texts say nothing of what is asked for: what a benchmark of photos searches."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from mercato.data.schema import PRODUCTS
from mercato.evaluation.looks import Looks

ENDINGS = ("ions", "ed")  # of a value's words: what is left of them takes any of INFLECTIONS
INFLECTIONS = r"(?:s|e|es|d|ed|en|ered|ing|ish|dish|y|ion|ions)?"
SPELLINGS = {"grey": "gr[ea]y"}


def words_of(values: Iterable[str]) -> re.Pattern[str]:
    """What finds every word of these values, simple inflections included: "Striped" finds stripe and stripes.

    Whole words, in any case; a hyphen ends a word.
    """
    stems = set()
    for word in {word for value in values for word in re.findall(r"\w+", value.lower())}:
        ending = next((e for e in ENDINGS if word.endswith(e) and len(word) - len(e) > 2), "")
        stem = word.removesuffix(ending)
        stems.add(SPELLINGS.get(stem, re.escape(stem)))
    return re.compile(rf"\b(?:{'|'.join(sorted(stems))}){INFLECTIONS}\b", re.IGNORECASE)


def without_words(text: str | None, words: re.Pattern[str]) -> str | None:
    """The text less these words, and the spaces that they leave."""
    return text and re.sub(r"[^\S\n]+", " ", words.sub(" ", text)).strip()


def derive(products: pa.Table, asked: Mapping[str, str]) -> tuple[pa.Table, dict[str, int]]:
    """The products whose text names no colour and no pattern, and how many products of it changed.

    `asked` is what is asked for, and the attribute that answers. The words of all values, and all of
    `mercato.evaluation.looks`, go from every text, not only a product's own from its own: a colour that is left in a
    text would tell that the product is of another.
    """
    attributes = [dict(row) for row in products["attributes"].to_pylist()]
    values = {own[key] for own in attributes for key in asked.values() if key in own}
    withheld = [*sorted(values), *Looks.of().words]
    words = words_of(withheld)
    texts = {name: products[name].to_pylist() for name in ("title", "description")}
    fresh = {name: [without_words(text, words) for text in column] for name, column in texts.items()}
    changed = {name: [bool(text and words.search(text)) for text in column] for name, column in texts.items()}
    counts = {name: sum(column) for name, column in changed.items()}
    counts["either"] = sum(map(max, *changed.values()))
    for kind, named in named_in_text(products, asked).items():
        known = [row for row, own in enumerate(attributes) if asked[kind] in own]
        counts |= {f"with {kind}": len(known), f"with {kind}, named in the text": len(named)}
    categories = products["category"].to_pylist()
    fresh["title"] = [
        title or (path or "").split(" > ")[-1] for title, path in zip(fresh["title"], categories, strict=True)
    ]
    for name, column in fresh.items():
        products = set_column(products, name, column)
    return products, {"products": len(products), "words": len(withheld), **counts}


def named_in_text(products: pa.Table, asked: Mapping[str, str]) -> dict[str, set[str]]:
    """By kind the ids of the products whose title or description names their own value of it."""
    ids, titles, descriptions, rows = (
        products[name].to_pylist() for name in ("product_id", "title", "description", "attributes")
    )
    found: dict[str, set[str]] = {}
    for kind, key in asked.items():
        values = [dict(row).get(key) for row in rows]
        finds = {value: words_of([value]) for value in values if value}
        found[kind] = {
            product
            for product, value, *texts in zip(ids, values, titles, descriptions, strict=True)
            if value and any(finds[value].search(text or "") for text in texts)
        }
    return found


def set_column(products: pa.Table, name: str, column: Sequence[Any]) -> pa.Table:
    """The products with another column."""
    field = PRODUCTS.field(name)
    return products.set_column(products.schema.get_field_index(name), field, pa.array(column, field.type))
