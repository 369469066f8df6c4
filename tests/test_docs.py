"""The documentation is true where a machine can tell: links lead somewhere, commands and targets exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer.main

from mercato.cli import app

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
COMMAND = typer.main.get_command(app)

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@pages
def test_links_lead_somewhere(page: Path):
    targets = re.findall(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"", page.read_text())
    local = [one or other for one, other in targets if not re.match(r"[a-z]+:|#", one or other)]
    assert [link for link in local if not (page.parent / link.partition("#")[0]).exists()] == []


def test_the_index_names_every_page():
    index = (ROOT / "docs" / "README.md").read_text()
    missing = [page.name for page in (ROOT / "docs").glob("*.md") if f"]({page.name})" not in index]
    assert missing == ["README.md"]


@pages
def test_commands_exist(page: Path):
    assert [problem for command in commands(page, "mercato") if (problem := misuse(command.split()[1:]))] == []


@pages
def test_make_targets_exist(page: Path):
    targets = set(re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {word for command in commands(page, "make") for word in command.split()[1:] if word.isalpha()}
    assert named - targets == set()


def commands(page: Path, program: str) -> list[str]:
    """What a page shows of a program: lines of its code blocks, continued ones joined, and `code` in the text."""
    text = re.sub(r"\\\n\s*", " ", page.read_text())
    blocks = re.findall(r"^```.*?\n(.*?)^```", text, re.MULTILINE | re.DOTALL) + re.findall(r"(?m)^ {4}.*", text)
    lines = re.findall(rf"^[ $]*(?:\.venv/bin/)?({program} [^\n#]+)", "\n".join(blocks), re.MULTILINE)
    return [*lines, *re.findall(rf"`({program} [^`\n]+)`", text)]


def misuse(words: list[str]) -> str | None:
    """Why the verb or an option does not exist, or None."""
    command, verbs = COMMAND, []
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        verbs.append(words.pop(0))
        if verbs[-1] in ("VERB", "…"):
            return None
        if verbs[-1] not in command.commands:
            return f"mercato {' '.join(verbs)}: no such verb"
        command = command.commands[verbs[-1]]
    known = {"--help", *(option for given in command.params for option in [*given.opts, *given.secondary_opts])}
    named = {option for word in words for option in re.findall(r"^\[?(--[a-z-]+|-[a-z])\b", word)}
    return f"mercato {' '.join(verbs)}: no {', '.join(sorted(named - known))}" if named - known else None
