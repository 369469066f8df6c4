"""`mercato` as a base install has it: `python -m tests.support.base_install VERB…`.

Whatever is installed here beyond the base dependencies and what they need is absent.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


class Absent(MetaPathFinder):
    """Refuses to find any of these top-level modules."""

    def __init__(self, modules: set[str]) -> None:
        self.modules = modules

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: object = None) -> None:
        if name.partition(".")[0] in self.modules:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def needed(requirements: Sequence[str]) -> set[str]:
    """The distributions that pip installs for these requirements."""
    found, wanted = set(), [Requirement(text) for text in requirements]
    while wanted:
        requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        if name not in found and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            found.add(name)
            wanted += map(Requirement, distribution(name).requires or ())
    return found


def absent() -> set[str]:
    """The top-level modules that are installed here and would not be in a base install."""
    base = needed(tomllib.loads(PYPROJECT.read_text())["project"]["dependencies"]) | {"mercato"}
    makers = packages_distributions().items()
    return {module for module, names in makers if not {canonicalize_name(name) for name in names} & base}


if __name__ == "__main__":
    sys.meta_path.insert(0, Absent(absent()))
    from mercato.cli import main

    main()
