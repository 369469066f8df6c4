"""The project as a whole: import contracts, dependencies, and what ships."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable, Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder
from typer.testing import CliRunner

from mercato.cli import app
from mercato.config import Recipe, load_recipe
from mercato.data.mapping import ImportMap
from mercato.extras import TRAIN

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "mercato"
SOURCES = sorted(PACKAGE.rglob("*.py"))
RECIPES = sorted((ROOT / "recipes").glob("*.toml"))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT, CONTRACTS = PYPROJECT["project"], PYPROJECT["tool"]["importlinter"]["contracts"]
EXTRAS = PROJECT["optional-dependencies"]
VERB_MODULES = ("mercato.cli", "mercato.benchmarks.verbs", "mercato.catalogue.verbs", "mercato.serving.verbs")
BASE_VERBS = {
    "simulate",
    "import_",
    "check",
    "doctor",
    "mine",
    "erase",
    "index",
    "swap",
    "serve",
    "add_key",
    "bench_search",
}


def test_the_import_contracts_hold():
    told = lint_imports(ROOT / "src")
    assert told.returncode == 0, told.stdout


def test_each_import_contract_can_fail(tmp_path: Path):
    shutil.copytree(PACKAGE, tmp_path / "mercato")
    deliberate = {
        "data/schema.py": "mercato.training.optimizer",  # rooms
        "losses/multi_label.py": "mercato.losses.scaled_bce",  # a circle, with the next
        "losses/scaled_bce.py": "mercato.losses.multi_label",
        "evaluation/dataset.py": "mercato.simulation.truth",  # the simulator
        "catalogue/store.py": "fastapi",  # HTTP
        "features/trigrams.py": "torch",  # what serves
        "search/paging.py": "mercato.retrieval.engines.qdrant_edge.index",  # engines
        "serving/process.py": "qdrant_edge",  # a store's library
        "retrieval/protocol.py": "pytest",  # test runner
    }
    for file, module in deliberate.items():
        path = tmp_path / "mercato" / file
        path.write_text(f"{path.read_text()}\nimport {module}\n")
    (tmp_path / "mercato" / "room_without_a_layer").mkdir()
    (tmp_path / "mercato" / "room_without_a_layer" / "__init__.py").touch()
    told = lint_imports(tmp_path)
    broken = set(re.findall(r"^(.+) BROKEN$", told.stdout, re.MULTILINE))
    assert broken == {contract["name"] for contract in CONTRACTS}, told.stdout
    assert "room_without_a_layer" in told.stdout


def test_what_is_imported_is_declared():
    used = {name for path in SOURCES for name in imports(path)}
    assert undeclared(used, [*PROJECT["dependencies"], *EXTRAS["train"], *EXTRAS["bench"]]) == set()


def test_a_base_install_has_all_that_its_verbs_import():
    """The modules that importing these verbs' modules loads; what a function imports later is `test_base_install`'s."""
    by_name = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in SOURCES}
    functions = [f for name in VERB_MODULES for f in ast.parse(by_name[name].read_text()).body]
    verbs = [f for f in functions if isinstance(f, ast.FunctionDef) and f.name in BASE_VERBS]
    assert len(verbs) == len(BASE_VERBS)
    reached, wanted, used = (
        set(),
        {name for verb in verbs for name in imported(ast.walk(verb))} | {*VERB_MODULES},
        set(),
    )
    while wanted:
        name = wanted.pop()
        own = next((part for part in (name, name.rpartition(".")[0]) if part in by_name), None)
        if own is None:
            used.add(name)
        elif own not in reached:
            reached.add(own)
            wanted |= set(imported(ast.parse(by_name[own].read_text()).body))
    assert undeclared(used, PROJECT["dependencies"]) == set()


def test_the_extra_names_the_modules_that_it_brings():
    brought = {canonical(requirement) for requirement in EXTRAS["train"]}
    providers = packages_distributions()
    makers = {module: {canonical(maker) for maker in providers[module]} for module in TRAIN}
    assert [module for module, names in makers.items() if not names & brought] == []
    assert set().union(*makers.values()) >= brought


def test_constraints_pin_every_dependency_and_name_no_place():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []  # a version; no path, no build
    wanted = {canonical(r) for r in [*PROJECT["dependencies"], *EXTRAS["train"], *EXTRAS["dev"]]}
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
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == []


def test_the_installed_command_runs():
    command = Path(sys.executable).with_name("mercato")
    told = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
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


def lint_imports(source: Path) -> subprocess.CompletedProcess[str]:
    """Hold the package under `source` to the contracts of pyproject.toml."""
    code = "import sys, importlinter.cli as cli; sys.exit(cli.lint_imports(sys.argv[1], no_cache=True))"
    return subprocess.run(
        [sys.executable, "-c", code, ROOT / "pyproject.toml"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(source)},
    )


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, at once or later."""
    return imported(ast.walk(ast.parse(path.read_text())))


def imported(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Every module that these nodes import; `from a import b` counts as `a.b`."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"a relative import hides which room it reaches into: {ast.unparse(node)}"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def undeclared(used: Iterable[str], requirements: Iterable[str]) -> set[str]:
    """The top-level modules among `used` that are neither ours, nor Python's, nor of these distributions."""
    providers, declared = packages_distributions(), {canonical(requirement) for requirement in requirements}
    foreign = {name.partition(".")[0] for name in used} - {"mercato", *sys.stdlib_module_names}
    return {name for name in foreign if not declared & {canonical(maker) for maker in providers.get(name, [name])}}


def canonical(requirement: str) -> str:
    return re.split(r"[<>=!~\[; ]", requirement)[0].lower().replace("_", "-")
