"""The main job, whole: `mercato demo` on a tiny market, then its server under a shopper's searches."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path

import pytest

from mercato.data.market import Market
from mercato.demo import RECIPES, choose
from mercato.reports.evaluate import compare_runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
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
    (told,) = re.findall("^    mercato (.+)$", (folder / "README.md").read_text(), re.MULTILINE)
    command = [*told.split(), "--port", "8765"]
    environment = os.environ | {"MERCATO_API_KEY": "secret", "COLUMNS": "200"}
    server = subprocess.Popen([*MERCATO, *command], stderr=subprocess.PIPE, text=True, env=environment)
    assert server.stderr is not None
    said = ""
    while "http://" not in said:
        line = server.stderr.readline()
        assert line, said
        said += line
    found = re.search(r"http://[\d.]+:\d+", said)
    assert found
    for _ in range(100):
        try:
            urllib.request.urlopen(f"{found[0]}/readyz", timeout=5)
            break
        except OSError:
            time.sleep(0.1)
    yield found[0]
    server.terminate()
    assert server.wait(30) == 0


def search(address: str, **wanted: object) -> list[dict]:
    request = urllib.request.Request(
        f"{address}/v1/search", json.dumps(wanted).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)["hits"]


def test_it_ends_with_a_table_of_what_was_learned(demo: tuple[Path, str]) -> None:
    folder, said = demo
    for word in ("simulate", "check", "mine", "train", "evaluate", "export", "index", "bm25", "random"):
        assert word in said
    assert {path.name for path in folder.iterdir()} == {"market", "runs", "index", "README.md"}
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
    assert {validated["n"][part]["split"] for part in ("relevance", "engagement")} == {"validation"}
    readme = (folder / "README.md").read_text()
    assert f"{chosen} is served. {why}" in readme and f"mercato serve {folder}/runs/{chosen} " in readme
    assert f"{chosen} is served." in said and all(name in said.split("what was learned")[1] for name in RECIPES)


def test_a_misspelled_a_spanish_and_a_filtered_search_are_answered(demo: tuple[Path, str], address: str) -> None:
    assert search(address, query="bycicle")
    assert search(address, query="bicicleta roja", country="es")
    centre = next(hit["product"] for hit in search(address, query="") if hit["product"]["latitude"] is not None)
    near = search(
        address,
        query="something",
        location={"latitude": centre["latitude"], "longitude": centre["longitude"]},
        radius_miles=50,
        filters={"price_min": 1, "price_max": 5000},
    )
    assert near
    for hit in near:
        assert hit["distance_km"] <= 50 * 1.609344 + 0.01
        assert 1 <= hit["product"]["price"] <= 5000
        assert {"cosine", "bm25", "found_by"} <= set(hit)


def test_a_new_product_is_found_within_seconds(address: str) -> None:
    product = {"product_id": "fresh-1", "title": "zyxwv theremin, purple", "price": 10.0}
    request = urllib.request.Request(
        f"{address}/v1/products",
        json.dumps({"products": [product]}).encode(),
        {"content-type": "application/json", "x-api-key": "secret"},
    )
    urllib.request.urlopen(request, timeout=30)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        hits = search(address, query="zyxwv theremin", mode="text")
        if hits and hits[0]["product"]["product_id"] == "fresh-1":
            return
        time.sleep(0.1)
    pytest.fail("the product never became searchable")
