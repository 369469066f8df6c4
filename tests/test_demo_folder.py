from __future__ import annotations

from pathlib import Path

import pytest

from mercato.data.market import MarketConfig, write_market_toml
from mercato.data.simulation import NAME
from mercato.demo import run_demo
from mercato.errors import MercatoError
from mercato.files import market_lock


def demo_of(folder: Path, name: str = NAME) -> list[Path]:
    """What a demo leaves, as far as it can be told by; every part holds something that deleting would lose."""
    for part, markers in (("market", ()), ("run", ("recipe.toml", "features.json")), ("index", ("current",))):
        (folder / part).mkdir(parents=True)
        for marker in markers:
            (folder / part / marker).touch()
        (folder / part / "precious").touch()
    write_market_toml(folder / "market", MarketConfig(name=name))
    return [folder / part / "precious" for part in ("market", "run", "index")]


def attempt(folder: Path) -> None:
    run_demo(folder, "no such size", 0, None)  # simulate, the first stage, refuses it


def test_a_demo_is_replaced(tmp_path: Path) -> None:
    demo_of(tmp_path)
    (tmp_path / "market" / "catalogue.sqlite").touch()
    with pytest.raises(MercatoError, match="size"):
        attempt(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("marker", ["market/market.toml", "run/recipe.toml", "run/features.json", "index/current"])
def test_what_may_be_somebody_elses_is_refused_and_all_parts_stay(tmp_path: Path, marker: str) -> None:
    precious = demo_of(tmp_path)
    (tmp_path / marker).unlink()
    with pytest.raises(MercatoError, match=marker.split("/")[1]):
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
