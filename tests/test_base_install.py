"""What a base install does, the extra `train` being absent: a finished run is indexed and served."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from mercato.data.market import Market
from tests.support.base_install import absent
from tests.support.serve_verb import post, serving

MERCATO = [sys.executable, "-m", "tests.support.base_install"]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*MERCATO, *map(str, arguments)], capture_output=True, text=True)


def test_what_trains_and_what_tests_is_absent():
    assert absent() >= {"torch", "transformers", "lightning", "polars", "faiss", "onnx", "scipy", "pytest", "httpx"}
    assert not absent() & {"mercato", "pyarrow", "onnxruntime", "fastapi"}


def test_tables_are_imported_checked_and_mined(tiny_market: Market, tmp_path: Path):
    products, events = (tiny_market.files(table)[0] for table in ("products", "events"))
    told = run("import", tmp_path / "market", "--products", products, "--events", events, "--json")
    assert told.returncode == 0, told.stderr
    assert run("check", tmp_path / "market").returncode == 0
    told = run("mine", tmp_path / "market", "--json")
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["pairs"]["train"]["engaged"] > 0


def test_a_finished_run_is_indexed_and_served(tiny_market: Market, tiny_run: Path, tmp_path: Path):
    market = shutil.copytree(tiny_market.path, tmp_path / "market")
    told = run("index", tiny_run, "--market", market, "--to", tmp_path / "index")
    assert told.returncode == 0, told.stderr
    serve = [*MERCATO, "serve", tiny_run, "--market", market, "--index", tmp_path / "index", "--port", "8787"]
    with serving(serve) as address:
        (hit,) = post(address, "/v1/search", {"query": "red bicycle", "page_size": 1})["hits"]
    assert hit["cosine"] is not None and hit["product"]["title"]


def test_what_needs_the_extra_names_it(tmp_path: Path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    verbs = ["demo D", "train que2search --market M --out R", "evaluate R --market M", "explain R --market M"]
    verbs += ["ablate que2search-table4 --market M --out D", "robustness R --market M", "export R"]
    verbs += ["tune R --market M --index I"]
    verbs += ["bench query", "bench train"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, script, *verbs]
    told = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert told.stdout.splitlines() == [*(f"{verb}: exit code 1" for verb in verbs), "load: MercatoError"], told.stderr
    assert told.stderr.count("pip install 'mercato[train]'") == len(verbs) + 1
    assert "Traceback" not in told.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["script.py"]


SCRIPT = """
import os, sys
os.environ["COLUMNS"] = "200"
from tests.support.base_install import Absent, absent
sys.meta_path.insert(0, Absent(absent()))
import mercato
from mercato.cli import main

for verb in sys.argv[1:]:
    sys.argv = ["mercato", *verb.split()]
    try:
        main()
    except SystemExit as end:
        print(f"{verb}: exit code {end.code}")
try:
    mercato.load("R")
except mercato.MercatoError as error:
    print("load: MercatoError")
    print(error, file=sys.stderr)
"""
