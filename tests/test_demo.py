"""The main job, whole: `mercato demo` on a tiny market, then its server under a shopper's searches."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path

import pytest

from mercato.data.market import Market
from mercato.demo import RECIPES, choose
from mercato.reports.evaluate import compare_runs
from tests.support.serve_verb import post, serving
from tests.support.served import wait_until

pytestmark = pytest.mark.slow
MERCATO = [sys.executable, "-m", "mercato.cli"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("demo") / "demo"
    done = subprocess.run([*MERCATO, "demo", folder, "--size", "tiny", "--no-serve"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder, done.stderr + done.stdout


@pytest.fixture(scope="module")
def address(demo: tuple[Path, str]) -> Iterator[str]:
    folder, _ = demo
    (command,) = re.findall("^    mercato (.+)$", (folder / "README.md").read_text(), re.MULTILINE)
    with serving([*MERCATO, *command.split(), "--port", "8765"], MERCATO_API_KEY="secret") as found:
        yield found


def search(address: str, **wanted: object) -> list[dict]:
    return post(address, "/v1/search", wanted)["hits"]


def test_it_ends_with_a_table_of_what_was_learned(demo: tuple[Path, str]) -> None:
    folder, said = demo
    for word in ("simulate", "check", "mine", "train", "evaluate", "export", "index", "rank", "bm25", "random"):
        assert word in said
    assert {path.name for path in folder.iterdir()} == {"market", "runs", "index", "README.md"}
    assert "ranked less cosine" in said or "served in the order of the cosine" in said, "so small a market may be both"
    for run, other in permutations(RECIPES):
        metrics = json.loads((folder / "runs" / run / "metrics.json").read_text())
        for part in ("relevance", "engagement"):
            assert metrics[part]["roc_auc"] > metrics["baselines"]["random"][part]["roc_auc"]
        beside = json.loads((folder / "runs" / other / "metrics.json").read_text())
        assert metrics["baselines"][other]["knn"] == beside["knn"], "the same questions"
        assert other in (folder / "runs" / run / "report.html").read_text()


def test_it_says_which_model_is_served_and_why(demo: tuple[Path, str]) -> None:
    folder, said = demo
    validated = compare_runs([folder / "runs" / recipe for recipe in RECIPES], Market.open(folder / "market"))
    chosen, why = choose(validated, *RECIPES)
    assert {validated.n.parts[part].split for part in ("relevance", "engagement")} == {"validation"}
    readme = (folder / "README.md").read_text()
    assert f"{chosen} is served. {why}" in readme and f"mercato serve {folder}/runs/{chosen} " in readme
    assert f"{chosen} is served." in said and all(name in said.split("what was learned")[1] for name in RECIPES)


def test_a_misspelled_a_spanish_and_a_filtered_search_are_answered(demo: tuple[Path, str], address: str) -> None:
    assert search(address, query="bycicle")
    assert search(address, query="bicicleta roja", country="es")
    browsed = [hit["product"] for hit in search(address, query="")]
    centre = next(p for p in browsed if p["latitude"] is not None and p["price"] is not None and p["price"] <= 5000)
    near = search(
        address,
        query=centre["title"],
        location={"latitude": centre["latitude"], "longitude": centre["longitude"]},
        radius_miles=50,
        filters={"price_min": 1, "price_max": 5000},
    )
    assert centre["product_id"] in {hit["product"]["product_id"] for hit in near}
    for hit in near:
        assert hit["distance_km"] <= 50 * 1.609344 + 0.01
        assert 1 <= hit["product"]["price"] <= 5000
        assert {"cosine", "bm25", "found_by"} <= set(hit)


def test_a_new_product_is_found(address: str) -> None:
    product = {"product_id": "fresh-1", "title": "zyxwv theremin, purple", "price": 10.0}
    post(address, "/v1/products", {"products": [product]}, **{"x-api-key": "secret"})

    def first() -> list[str]:
        return [hit["product"]["product_id"] for hit in search(address, query="zyxwv theremin", mode="text")][:1]

    wait_until(lambda: first() == ["fresh-1"], seconds=120)
