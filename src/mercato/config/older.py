"""Recipes of the version before: fields by their old names, and stages written out with the fields of every loss."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from typing import Any

from rich.markup import escape

from mercato.config.stages import DEFAULT_LOSS, STAGES
from mercato.errors import MercatoError
from mercato.progress import note

RENAMED = {  # a star stands for any place of a list
    "misspelled": "typos",
    "stages.*.shown": "unengaged",
    "pairs.catalogue.*.withhold": "drop_fields",
}
WRITTEN_OUT = {"margin", "reduction", "negatives", "shown"}  # a stage that has all was written by an older version
UNREAD = {
    "margin",
    "reduction",
    "unengaged",
    "engagement_bias",
}  # there: by a loss that does not have them, whatever they said


def rename_fields(content: dict[str, Any], source: str) -> None:
    """Give every field its present name, in place, with a note for each old name.

    Raises:
        MercatoError: a field is given by both its names.
    """
    for old, new in RENAMED.items():
        *parents, last = old.split(".")
        for name, place in _places(content, parents):
            if last in place:
                full = ".".join([*name, last])
                if new in place:
                    raise MercatoError(f"{source}: {full} is now called {new}, and is given by both names")
                note(f"[yellow]{escape(source)}: {full} is now called {new}; the next version reads only that[/]")
                place[new] = place.pop(last)


def written_out(content: dict[str, Any]) -> list[dict[str, Any]]:
    """The stages that an older version wrote out, with the fields of every loss, before these are renamed."""
    return [stage for _, stage in _places(content, ["stages", "*"]) if stage.keys() >= WRITTEN_OUT]


def drop_of_other_losses(stage: dict[str, Any], unread: AbstractSet[str] = frozenset()) -> None:
    """Drop the fields of other losses that say nothing, in place: those that hold their default, and `unread` ones.

    What says something, and what no loss has, stays, to be refused by its name.
    """
    loss = stage.get("loss", DEFAULT_LOSS)
    own = next((kind.model_fields.keys() for kind in STAGES if kind.model_fields["loss"].default == loss), None)
    for field in [] if own is None else [field for field in stage if field not in own]:
        defaults = [kind.model_fields[field].default for kind in STAGES if field in kind.model_fields]
        if field in unread or stage[field] in defaults:
            del stage[field]


def new_name(path: str) -> str:
    """The present name of a field such as "stages.0.shown"; most have it already."""
    parts = path.split(".")
    for old, new in RENAMED.items():
        pattern = old.split(".")
        if len(pattern) == len(parts) and all(p in ("*", part) for p, part in zip(pattern, parts, strict=True)):
            fresh = ".".join([*parts[:-1], new])
            note(f"[yellow]--set {path} is now called {fresh}; the next version reads only that[/]")
            return fresh
    return path


def _places(content: Any, path: list[str], name: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every table at a path, with where it stands."""
    if not path:
        if isinstance(content, dict):
            yield name, content
    elif path[0] == "*":
        for number, item in enumerate(content if isinstance(content, list) else ()):
            yield from _places(item, path[1:], (*name, str(number)))
    elif isinstance(content, dict) and path[0] in content:
        yield from _places(content[path[0]], path[1:], (*name, path[0]))
