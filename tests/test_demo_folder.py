from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mercato.data.market import MarketConfig, write_market_toml
from mercato.demo import HEADING, RECIPES, run_demo
from mercato.errors import MercatoError
from mercato.files import market_lock
from mercato.simulation.simulate import NAME
from mercato.training.train import partial_folder

RUNS = [f"runs/{recipe}" for recipe in RECIPES]
MARKERS = {"market": (), "index": ("current",)} | dict.fromkeys(RUNS, ("recipe.toml", "features.json"))


def demo_of(folder: Path, name: str = NAME) -> list[Path]:
    """What a demo leaves, as far as it can be told by; every part holds something that deleting would lose."""
    for part, markers in MARKERS.items():
        (folder / part).mkdir(parents=True)
        for marker in (*markers, "precious"):
            (folder / part / marker).touch()
    write_market_toml(folder / "market", MarketConfig(name=name))
    (folder / "README.md").write_text(f"{HEADING}\nwhatever else\n")
    return [folder / part / "precious" for part in MARKERS]


def attempt(folder: Path) -> None:
    run_demo(folder, "no such size", 0, None)  # simulate, the first stage, refuses it


def test_a_demo_is_replaced(tmp_path: Path) -> None:
    demo_of(tmp_path)
    (tmp_path / "market" / "catalogue.sqlite").touch()
    with pytest.raises(MercatoError, match="size"):
        attempt(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_demo_that_was_interrupted_is_replaced(tmp_path: Path) -> None:
    demo_of(tmp_path)
    shutil.rmtree(tmp_path / "index")
    (tmp_path / "README.md").unlink()
    for run in RUNS:
        partial_folder(tmp_path / run).mkdir()
        shutil.rmtree(tmp_path / run)
    with pytest.raises(MercatoError, match="size"):
        attempt(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "marker",
    [
        "market/market.toml",
        "index/current",
        *(f"{run}/{name}" for run in RUNS for name in ("recipe.toml", "features.json")),
    ],
)
def test_what_may_be_somebody_elses_is_refused_and_all_parts_stay(tmp_path: Path, marker: str) -> None:
    precious = demo_of(tmp_path)
    (tmp_path / marker).unlink()
    with pytest.raises(MercatoError, match=marker.split("/")[-1]):
        attempt(tmp_path)
    assert all(path.exists() for path in precious)


def test_a_market_of_another_name_and_one_that_is_served_are_refused(tmp_path: Path) -> None:
    mine = demo_of(tmp_path / "mine", name="My shop")
    with pytest.raises(MercatoError, match="My shop"):
        attempt(tmp_path / "mine")
    served = demo_of(tmp_path / "served")
    with market_lock(tmp_path / "served" / "market"), pytest.raises(MercatoError, match="mercato serve"):
        attempt(tmp_path / "served")
    assert all(path.exists() for path in mine + served)


def test_a_file_and_a_folder_of_other_things_are_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    for target in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(MercatoError):
            attempt(target)
    assert (tmp_path / "thesis.txt").is_file()


@pytest.mark.parametrize("other", ["runs/my-best-run", "run", "README.md"])
def test_another_run_and_another_readme_are_refused(tmp_path: Path, other: str) -> None:
    precious = demo_of(tmp_path)
    if other == "README.md":
        (tmp_path / other).write_text("# My market\n")
    else:
        (tmp_path / other).mkdir()
    with pytest.raises(MercatoError, match=other.split("/")[-1]):
        attempt(tmp_path)
    assert all(path.exists() for path in [*precious, tmp_path / other])
