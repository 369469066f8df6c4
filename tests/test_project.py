"""The house as a whole: which room may know of which, what is installed, and what ships."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder
from typer.testing import CliRunner

from mercato.cli import app
from mercato.config import Recipe, load_recipe
from mercato.data.mapping import ImportMap

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "mercato"
SOURCES = sorted(PACKAGE.rglob("*.py"))
RECIPES = sorted((ROOT / "recipes").glob("*.toml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

GROUND = ["errors", "progress", "files", "config"]  # what every room stands on
ROOMS = ["data", "text", "models", "losses", "evaluation", "training", "retrieval", "ranking", "serving"]
ROOF = ["benchmarks", "ablation", "demo", "cli"]  # each of them may use every room
MAY_SIMULATE = {"data", "benchmarks", "demo", "cli"}


def test_rooms_import_earlier_rooms_only():
    order = {name: height for height, name in enumerate([*ROOMS, *ROOF])}
    wrong = [
        f"{room(path)} imports {target}: {path.name}"
        for path in SOURCES
        for target in own_imports(path)
        if (here := room(path)) in order and order.get(target.split(".")[0], -1) > order[here]
    ]
    assert wrong == []


def test_the_ground_knows_of_no_room():
    wrong = [
        f"{path.name} imports {target}"
        for path in SOURCES
        for target in own_imports(path)
        if room(path) in GROUND and target.split(".")[0] in [*ROOMS, *ROOF]
    ]
    assert wrong == []


def test_every_module_has_a_place_in_the_order():
    assert {room(path) for path in SOURCES} - {"__init__"} <= {*GROUND, *ROOMS, *ROOF}


def test_nothing_that_learns_or_measures_knows_the_simulator():
    wrong = [
        f"{room(path)}/{path.name}"
        for path in SOURCES
        for target in own_imports(path)
        if target.startswith("data.simulation") and room(path) not in MAY_SIMULATE
    ]
    assert wrong == []


def test_the_simulator_is_only_reached_from_outside_data():
    inside = [path for path in SOURCES if room(path) == "data" and "simulation" not in path.parts]
    assert [path.name for path in inside if any(t.startswith("data.simulation") for t in own_imports(path))] == []


def test_what_is_imported_is_declared():
    providers = packages_distributions()
    declared = {canonical(r) for r in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["bench"]]}
    used = {name.split(".")[0] for path in SOURCES for name in imports(path)} - {"mercato", *sys.stdlib_module_names}
    undeclared = {name for name in used if not declared & {canonical(maker) for maker in providers.get(name, [name])}}
    assert undeclared == set()


def test_constraints_pin_every_dependency_and_name_no_place():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []  # a version; no path, no build
    wanted = {canonical(r) for r in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]}
    assert wanted <= {canonical(line) for line in lines}


def test_files_stay_readable_and_small():
    long = [path.name for path in SOURCES if len(path.read_text().splitlines()) > 400]
    kept = [path for top in ("src", "tests", "docs", "recipes") for path in (ROOT / top).rglob("*") if path.is_file()]
    large = [str(path.relative_to(ROOT)) for path in kept if path.stat().st_size > 1_000_000]
    assert (long, large) == ([], [])


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_valid_and_survives_its_own_toml(path: Path):
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    assert Recipe.parse(recipe.toml()) == recipe


@pytest.mark.parametrize("path", sorted((ROOT / "recipes" / "maps").glob("*.toml")), ids=lambda path: path.stem)
def test_an_import_map_is_valid(path: Path):
    ImportMap.read(path)


def test_the_wheel_carries_all_that_the_code_opens(tmp_path: Path):
    wheel = next(WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"]))
    packed = set(zipfile.ZipFile(wheel).namelist())
    shipped = [path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    wanted = {f"mercato/{path.relative_to(PACKAGE)}" for path in shipped}
    wanted |= {f"mercato/{path.relative_to(ROOT)}" for path in (ROOT / "recipes").rglob("*.toml")}
    assert wanted - packed == set()
    assert "mercato/py.typed" in packed


def test_importing_mercato_and_asking_for_help_stay_light():
    heavy = ("torch", "transformers", "lightning", "onnxruntime", "matplotlib", "fastapi")
    code = f"import sys, mercato, mercato.cli; print(*sorted(set({heavy!r}) & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert loaded.stdout.split() == []


def test_the_installed_command_runs():
    command = Path(sys.executable).with_name("mercato")
    told = subprocess.run([command, "--version"], capture_output=True, text=True, timeout=120, check=True)
    assert told.stdout.strip() == PROJECT["version"]


@pytest.mark.parametrize(
    "verb",
    [
        "demo",
        "simulate",
        "import",
        "check",
        "mine",
        "train",
        "evaluate",
        "ablate",
        "explain",
        "robustness",
        "export",
        "index",
        "serve",
        "bench",
    ],
)
def test_every_verb_explains_itself(verb: str):
    told = CliRunner().invoke(app, [verb, "--help"])
    assert told.exit_code == 0, told.output
    assert "Usage" in told.output


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def own_imports(path: Path) -> Iterator[str]:
    return (name.removeprefix("mercato.") for name in imports(path) if name.startswith("mercato."))


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, lazily or not; `from a import b` counts as `a.b`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides which room it reaches into"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def canonical(requirement: str) -> str:
    return re.split(r"[<>=!~\[; ]", requirement)[0].lower().replace("_", "-")
