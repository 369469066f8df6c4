"""Every file that `mercato serve` reads, damaged in every way: the start is refused in one line that names the file."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
import sys
from contextlib import closing

import pytest

from mercato import cli
from mercato.catalogue import indexing
from mercato.catalogue.identity import IDENTITY
from mercato.data.market import CATALOGUE, Market
from mercato.manifest import MANIFEST
from mercato.serving import server

pytestmark = pytest.mark.chaos

EMPTIED, HALVED, RANDOM, FLIPPED, JSON, MISSING = "emptied", "halved", "random", "flipped", "json", "missing"
DAMAGES = (EMPTIED, HALVED, RANDOM, FLIPPED, JSON, MISSING)
RUN = ("recipe.toml", "features.json", "tokenizer.json", "model.safetensors", "query_tower.onnx", "product_tower.onnx")
RUN += ("image_encoder.onnx", "image_encoder.json")
GENERATION = (f"meta.json {MANIFEST} columns/vectors columns/ids columns/cell_codes shard/edge_config.json").split()
GENERATION += ["shard/segments/*/segment.json", "shard/segments/*/vector_storage/vectors/chunk_0.mmap"]
FILES = {
    **{f"run/{name}": "mercato export" if "tower" in name else "mercato train" for name in RUN},
    "run/retrieval.json": "mercato tune",
    f"run/{MANIFEST}": "put it back",
    **{f"index/generation-*/{name}": "mercato index" for name in GENERATION},
    "index/current": "mercato index",
    "market/products/*.parquet": "mercato check",
    f"market/{CATALOGUE}": "backup",
    f"market/{IDENTITY}": "remove it",
}
UNSEEN = {  # what nobody could tell from what was meant
    ("run/retrieval.json", FLIPPED),
    (f"run/{MANIFEST}", FLIPPED),
    (f"run/{MANIFEST}", MISSING),  # an older run
    (f"index/generation-*/{MANIFEST}", FLIPPED),
    (f"index/generation-*/{MANIFEST}", MISSING),
    ("market/products/*.parquet", FLIPPED),
    (f"market/{CATALOGUE}", FLIPPED),  # SQLite has no checksums: this byte is a product's
    (f"market/{IDENTITY}", FLIPPED),
    (f"market/{IDENTITY}", MISSING),  # a copy without it
}


def damaged(content: bytes, how: str) -> bytes:
    match how:
        case "emptied":
            return b""
        case "halved":
            return content[: len(content) // 2]
        case "random":
            return random.Random(0).randbytes(len(content))
        case "flipped":
            place = len(content) // 3
            return content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :]
    return b'{"it": ["is", "JSON"]}'


@pytest.fixture(scope="module")
def whole(tiny_market, tiny_run, tmp_path_factory):
    """A folder with a market, a run and an index, served once."""
    folder = tmp_path_factory.mktemp("whole")
    market, run = Market.open(shutil.copytree(tiny_market.path, folder / "market")), folder / "run"
    shutil.copytree(tiny_run, run)
    indexing.index_market(run, market, str(folder / "index"))
    return folder


@pytest.fixture
def mercato(monkeypatch, capfd):
    """Run a verb in this process: its exit code, and what it said on stdout and stderr."""
    monkeypatch.setattr(server, "serve", lambda *_: None)
    monkeypatch.setenv("COLUMNS", "5000")

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mercato", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        return int(end.value.code or 0), *capfd.readouterr()

    return run


@pytest.fixture
def serve(mercato, whole):
    return lambda: mercato("serve", whole / "run", "--market", whole / "market", "--index", whole / "index")


def test_what_is_whole_is_served(serve):
    assert serve()[0] == 0


@pytest.mark.parametrize(
    ("name", "how"), [(name, how) for name in FILES for how in DAMAGES if (name, how) not in UNSEEN]
)
def test_a_damaged_file_is_named_in_one_line_with_what_to_do(serve, whole, name, how):
    file = next(whole.glob(name))
    content = file.read_bytes()
    try:
        file.unlink() if how == MISSING else file.write_bytes(damaged(content, how))
        code, _, said = serve()
    finally:
        file.write_bytes(content)
    (line,) = [line for line in said.splitlines() if not line.startswith(("warning:", "  "))]  # beside progress
    assert (code, line[:7]) == (1, "error: ")
    assert str(file) in line or (how == MISSING and str(whole / name.split("/")[0]) in line)
    assert FILES[name] in line


def test_the_doctor_names_every_damaged_file(mercato, whole):
    """At once: those that a server would have stopped at one after the other."""
    code, told, _ = mercato("doctor", whole, "--json")
    found = json.loads(told)
    assert (code, found["ok"]) == (0, True)
    kinds = [finding["kind"] for finding in found["findings"]]
    assert sorted(kinds) == ["catalogue", "index", "market", "run", "together"]
    names = ("run/features.json", "run/query_tower.onnx", "index/generation-*/columns/ids", f"market/{CATALOGUE}")
    files = [next(whole.glob(name)) for name in (*names, "market/products/*.parquet")]
    contents = [file.read_bytes() for file in files]
    try:
        for file, content in zip(files, contents, strict=True):
            file.write_bytes(damaged(content, HALVED))
        code, told, _ = mercato("doctor", whole, "--json")
        lines = mercato("doctor", whole / "run", whole / "index", whole / "market")[1].splitlines()
    finally:
        for file, content in zip(files, contents, strict=True):
            file.write_bytes(content)
    wrong = [finding["said"] for finding in json.loads(told)["findings"] if not finding["ok"]]
    assert code == 1
    assert len(wrong) == len(files)
    for file in files:
        assert sum(str(file) in said for said in wrong) == 1
    assert sorted(line.split("  ", 2)[2] for line in lines if line.startswith("wrong")) == sorted(wrong)


def test_the_doctor_finds_what_no_start_reads(mercato, whole):
    """A flipped byte of a large file, and a log of the index with a hole."""
    (generation,) = (whole / "index").glob("generation-*")
    log = whole / "index" / json.loads((generation / "meta.json").read_text())["log"]
    first, second = log / "00000001", log / "00000002"
    assert first.is_file()
    second.write_bytes(b"")
    first.write_bytes(b"no batch")
    try:
        code, told, _ = mercato("doctor", whole / "index")
    finally:
        first.write_bytes(b"")
        second.unlink()
    assert code == 1
    assert f"{first} is damaged: of its 8 bytes 0 can be read" in told


def test_the_doctor_refuses_a_folder_of_nothing(mercato, tmp_path):
    assert mercato("doctor", tmp_path)[::2] == (1, f"error: {tmp_path} holds no market, run or index\n")
    assert mercato("doctor", tmp_path / "no")[0] == 1


@pytest.mark.parametrize("content", [b"", "foreign"])
def test_a_catalogue_that_is_none_is_not_begun_anew(serve, whole, content):
    file = whole / "market" / CATALOGUE
    before = file.read_bytes()
    file.unlink()
    try:
        if content == "foreign":
            with closing(sqlite3.connect(file)) as connection, connection:
                connection.execute("CREATE TABLE songs (title TEXT)")
        else:
            file.touch()
        found = file.read_bytes()
        code, _, said = serve()
        assert code == 1 and str(file) in said
        assert file.read_bytes() == found
    finally:
        file.write_bytes(before)


def test_a_run_and_an_index_of_before_there_were_manifests_are_served(serve, whole):
    manifests = [whole / "run" / MANIFEST, next((whole / "index").glob(f"generation-*/{MANIFEST}"))]
    contents = [file.read_bytes() for file in manifests]
    try:
        for file in manifests:
            file.unlink()
        assert serve()[0] == 0
    finally:
        for file, content in zip(manifests, contents, strict=True):
            file.write_bytes(content)
