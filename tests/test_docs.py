"""The documentation is true where a machine can tell: links lead somewhere; commands, modules and files exist."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import typer.main

from mercato.cli import app

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
PACKAGE = ROOT / "src" / "mercato"
SOURCES = sorted(PACKAGE.rglob("*.py"))
ROOMS = sorted(path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__")
TOPS = ["src", "tests", "docs", "recipes", "benchmarks", ".ci"]
PROSE = [*PAGES, *SOURCES]
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


def test_modules_and_names_exist():
    named = [(file, name) for file in PROSE for name in names(written(file))]
    assert len(named) > 20
    wrong = [f"{file.relative_to(ROOT)}: {name}" for file, name in named if not defined(name)]
    assert not wrong, "\n".join(wrong)


def test_files_and_folders_exist():
    named = [(file, path) for file in PROSE for path in paths(written(file))]
    assert len(named) > 20
    wrong = [f"{file.relative_to(ROOT)}: {path}" for file, path in named if not exists(path)]
    assert not wrong, "\n".join(wrong)


def test_what_does_not_exist_is_found():
    right = "mercato.cli, mercato.load, mercato.data.market.Market.arrow, from mercato.files import write_atomic"
    assert all(map(defined, names(right)))
    wrong = "mercato.data.bazaar, mercato.data.market.Bazaar, mercato.data.market.Market.sell"
    assert names("from mercato.files import a, b\n") == {"mercato.files", "mercato.files.a", "mercato.files.b"}
    assert not any(map(defined, names(wrong)))
    text = "data/market.py, tests/data/, recipes/NAME.toml, docs/*.md, /docs/x, src/mercato/bazaar.py, data/bazaar.py"
    assert [path for path in paths(text) if not exists(path)] == ["src/mercato/bazaar.py", "data/bazaar.py"]
    tree = "    src/mercato/\n      data/     the market, not in bits/\n      bazaar/   another     cli.py   verbs\n"
    assert [path for path in paths(tree) if not exists(path)] == ["bazaar/"]


@cache
def written(file: Path) -> str:
    """What a page says; of a module, its docstrings and comments."""
    text = file.read_text()
    if file.suffix == ".md":
        return text
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = [ast.get_docstring(node) or "" for node in ast.walk(ast.parse(text)) if isinstance(node, documented)]
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return "\n".join([*docstrings, *(token.string for token in tokens if token.type == tokenize.COMMENT)])


def names(text: str) -> set[str]:
    """The dotted names that begin with the package's; `from a import b` names `a.b`."""
    imported = re.findall(r"from (mercato[\w.]*) import (?:\(([^)]*)\)|([\w, ]+))", text)
    named = {f"{module}.{name}" for module, *listed in imported for name in re.findall(r"\w+", "".join(listed))}
    return named | set(re.findall(r"(?<![\w./])mercato(?:\.[A-Za-z_]\w*)+", text))


def defined(name: str) -> bool:
    """Whether `mercato.a.b` is a module, or a name (or a class's) that a module defines or imports."""
    parts = name.split(".")[1:]
    for length in range(len(parts), -1, -1):
        stem = PACKAGE.joinpath(*parts[:length])
        file = next((file for file in (stem.with_suffix(".py"), stem / "__init__.py") if file.is_file()), None)
        if file is not None:
            node: ast.AST | None = module(file)
            for part in parts[length:]:
                node = members(node).get(part)
            return node is not None
    return False


@cache
def module(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def members(node: ast.AST | None) -> dict[str, ast.AST]:
    """The names that a module or class binds, also under an `if`."""
    found: dict[str, ast.AST] = {}
    for child in getattr(node, "body", ()):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found[child.name] = child
        elif isinstance(child, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name: child for alias in child.names}
        elif isinstance(child, ast.Assign | ast.AnnAssign):
            targets = child.targets if isinstance(child, ast.Assign) else [child.target]
            found |= {name.id: child for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
        elif isinstance(child, ast.If):
            found |= members(child)
    return found


def paths(text: str) -> Iterator[str]:
    """Paths from the top of the repository, files of a room, rooms, and the entries of a tree of `src/mercato/`.

    One with a word in capitals (`recipes/NAME.toml`) stands for any, and so does a folder that ends in no slash.
    """
    tops, rooms = "|".join(map(re.escape, TOPS)), "|".join(ROOMS)
    kinds = rf"(?:{tops})/[\w./*-]*\w|\w+(?:/[\w*]+)+\.py|(?:{rooms})/(?:\w+/)*"
    found = re.findall(rf"(?<![\w./…<>}}*-])({kinds})(?![\w<{{…])", text)
    for block in re.findall(r"(?m)^ {4}src/mercato/\n(?: {4}.*\n)+", text):
        found += re.findall(r"(?:(?<=\n)|(?<=  ))[a-z_]+(?:/|\.py)(?=  )", block)
    return (path for path in found if not re.search("[A-Z]{2}", path))


def exists(path: str) -> bool:
    return any(any(top.glob(path.rstrip("/"))) for top in (ROOT, PACKAGE))


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
