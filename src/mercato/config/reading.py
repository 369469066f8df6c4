"""A recipe's TOML with changes applied, before it is validated; and what is said where validation fails."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from mercato.config.older import UNREAD, drop_of_other_losses, new_name, rename_fields, written_out
from mercato.config.stages import losses_with
from mercato.errors import MercatoError


def read_recipe(text: str, source: str, changes: Sequence[str]) -> dict[str, Any]:
    """The fields of a recipe, unvalidated, by their present names; `changes` as in `Recipe.parse`.

    Raises:
        MercatoError: not TOML, a change has no place, or a field is given by its old name and by its new one.
    """
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise MercatoError(f"{source}: not valid TOML: {error}") from None
    older = written_out(content)
    rename_fields(content, source)
    named = {change.partition("=")[0].strip() for change in changes}
    for change in changes:
        place = change.partition("=")[0].strip()
        if (new := new_name(place)) in named and new != place:
            raise MercatoError(f"--set {change}: {new} is the new name of this field, and is set too")
        _apply(content, change, new)
    rename_fields(content, "--set")  # what stands inside a table that a change gives
    for stage in older:
        drop_of_other_losses(stage, UNREAD)
    stages = content.get("stages")
    for number, stage in enumerate(stages if isinstance(stages, list) else ()):
        if f"stages.{number}.loss" in named and isinstance(stage, dict):
            drop_of_other_losses(stage, UNREAD)  # what a recipe that is written out says of the loss that it had
    return content


def wrong_fields(error: ValidationError) -> list[str]:
    """Every wrong field with what is wrong: "stages.0.epochs: Input should be a valid integer"."""
    found, problems = [], error.errors()
    for problem in problems:
        inside = [
            other
            for other in problems
            if other is not problem and problem["loc"] == other["loc"][: len(problem["loc"])]
        ]
        if inside and problem["type"] == "too_short":  # what is left once a wrong item is gone
            continue
        place, message = [str(part) for part in problem["loc"]], problem["msg"]
        if place[:1] == ["stages"] and len(place) > 2:  # pydantic puts the loss in between
            loss = place.pop(2)
            if problem["type"] == "extra_forbidden" and (losses := losses_with(place[-1])):
                message = f"is a field of {', '.join(losses)}; this stage's loss is {loss}"
        elif problem["type"] == "union_tag_invalid":
            place.append("loss")
            message = f"{problem['ctx']['tag']} is none of {problem['ctx']['expected_tags']}"
        found.append(f"{'.'.join(place) or 'recipe'}: {message}")
    return found


def _apply(content: dict[str, Any], change: str, name: str) -> None:
    _, sign, text = change.partition("=")
    if not sign:
        raise MercatoError(f"--set {change}: must be field=value, such as stages.0.epochs=3")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word or path
    place: Any = content
    *parents, last = name.split(".")
    try:
        for parent in parents:
            if isinstance(place, list):
                place = _grown(place, int(parent), {})[int(parent)]
            else:
                place = place.setdefault(parent, {})
        if isinstance(place, list):
            _grown(place, int(last), value)[int(last)] = value
        elif text.strip():
            place[last] = value
        else:  # "blending=": as if the recipe did not name it
            place.pop(last, None)
    except (AttributeError, IndexError, TypeError, ValueError):
        raise MercatoError(f"--set {change}: the recipe has no place {name}") from None


def _grown(items: list[Any], place: int, item: Any) -> list[Any]:
    """A list with `item` at its end where `place` is the next one: "stages.1.loss" of a recipe with one stage."""
    if place == len(items):
        items.append(item)
    return items
