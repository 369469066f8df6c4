"""Query rules: what a merchandiser wants of single searches, in `rules.toml` beside `market.toml`."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator

from mercato.data.normalize import normalize
from mercato.errors import MercatoError

RULES = "rules.toml"
MOST_PINS = 100  # of a rule: as many as a page may have
MOST_TOLD = 5  # of what is wrong with a file

QueryRules = Mapping[tuple[str, str | None], "QueryRule"]  # by the query in normal form and the country; None: of all

_ProductId = Annotated[str, StringConstraints(min_length=1)]


class QueryRule(BaseModel):
    """What is done to the results of one query: `pin`ned products come first, in this order, and `bury`ed ones last."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    query: str
    country: Annotated[str, StringConstraints(pattern="^[a-z]{2}$")] | None = None  # the searcher's; None: any
    pin: tuple[_ProductId, ...] = Field((), max_length=MOST_PINS)
    bury: tuple[_ProductId, ...] = ()

    @field_validator("query")
    @classmethod
    def _some_words(cls, query: str) -> str:
        if not normalize(query):
            raise ValueError("is blank: a rule is of searches with words")
        return query

    @field_validator("pin", "bury")
    @classmethod
    def _each_once(cls, ids: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(ids)) < len(ids):
            raise ValueError(f"names {Counter(ids).most_common(1)[0][0]!r} twice")
        return ids

    @model_validator(mode="after")
    def _one_or_the_other(self) -> Self:
        if both := set(self.pin) & set(self.bury):
            raise ValueError(f"{min(both)!r} is in pin and in bury")
        if not self.pin and not self.bury:
            raise ValueError("has neither pin nor bury")
        return self


def read_rules(market: Path) -> QueryRules:
    """The rules of a market; none where it has no `rules.toml`.

    Raises:
        MercatoError: the file is not valid; the message has the number of each wrong rule, from 1, and the field.
    """
    file = market / RULES
    if file.exists() and not file.is_file():  # to read a pipe would wait for whoever writes it
        raise MercatoError(f"{file}: is not a regular file")
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise MercatoError(f"{file}: not valid TOML: {error}") from None
    try:
        rules = _File.model_validate(content).rules
    except ValidationError as error:
        wrong = [*_wrong(error)]
        more = [f"and {len(wrong) - MOST_TOLD} more"] * (len(wrong) > MOST_TOLD)
        raise MercatoError(f"{file}: {'; '.join(wrong[:MOST_TOLD] + more)}") from None
    found: dict[tuple[str, str | None], QueryRule] = {}
    for number, rule in enumerate(rules, 1):
        if found.setdefault((normalize(rule.query), rule.country), rule) is not rule:
            where = f"in {rule.country}" if rule.country else "in any country"
            raise MercatoError(f"{file}: rule {number}, field query: {rule.query!r} {where} has an earlier rule too")
    return found


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    rules: tuple[QueryRule, ...] = ()


def _wrong(error: ValidationError) -> Iterator[str]:
    """ "rule 2, field pin: …" of each."""
    for problem in error.errors():
        place, why = problem["loc"], problem["msg"].removeprefix("Value error, ")
        match place:
            case ("rules", int(number), *fields):
                yield ", field ".join([f"rule {number + 1}", *map(str, fields[:1])]) + f": {why}"
            case _:
                yield f"field {'.'.join(map(str, place))}: {why}"
