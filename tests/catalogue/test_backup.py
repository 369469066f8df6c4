"""Backups of a market that is written to, and what they bring back."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
import stat
import time
from contextlib import closing, contextmanager

import pytest
from fastapi.testclient import TestClient
from filelock import Timeout
from hypothesis import given, settings
from hypothesis import strategies as st

from mercato.catalogue import backup as backing_up
from mercato.catalogue import migrations
from mercato.catalogue.backup import ABOUT, back_up
from mercato.catalogue.log_mover import moving_lock
from mercato.catalogue.restore import restore
from mercato.catalogue.snapshot import Snapshot
from mercato.catalogue.store import Catalogue
from mercato.copying import Piece
from mercato.data.live import rewriting_lock
from mercato.data.market import CATALOGUE, Market
from mercato.data.schema import LOGGED
from mercato.disk import Disk
from mercato.errors import DamagedError, MercatoError
from mercato.manifest import MANIFEST
from mercato.retrieval.open import open_index
from tests.support.served import WRITE, application, event, ids, search, server, wait_until
from tests.support.small_market import make_market
from tests.support.stored import stored


@pytest.fixture
def market(tmp_path) -> Market:
    market = make_market(tmp_path / "market")
    Catalogue.open(market.path / CATALOGUE).close()
    return market


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A backup with its index, to read only."""
    folder = tmp_path_factory.mktemp("made")
    market = make_market(folder / "market")
    Catalogue.open(market.path / CATALOGUE).close()
    back_up(market, folder / "backup", str(market.path / "index"))
    return folder / "backup"


def restored(backup, to) -> Market:
    """As the helpers of the tests serve it: with its index in the market."""
    restore(backup, to)
    shutil.move(to / "index", to / "market" / "index")
    return Market.open(to / "market")


def write(client, product_id: str, title: str) -> None:
    body = {"products": [{"product_id": product_id, "title": title}]}
    client.post("/v1/products", json=body, headers=WRITE).raise_for_status()


def delete(client, product_id: str) -> None:
    client.delete(f"/v1/products/{product_id}", headers=WRITE).raise_for_status()


def report(client, session: str) -> None:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    client.post("/v1/events", json={"events": [event(session_id=session, timestamp=now)]}).raise_for_status()


def settled(client) -> None:
    """Once all that was written is in the index, and the outbox knows it."""
    wait_until(lambda: client.app.state.services.catalogue.outbox.oldest() is None)


def sessions(market: Market) -> list[str]:
    return sorted(market.arrow("events")["session_id"].to_pylist())


def state(client) -> dict[str, str]:
    """What a browse shows: id → title."""
    page = search(client, query="", page_size=100)
    assert page["total"] == len(page["hits"]), "the index holds what the catalogue has not"
    return {hit["product"]["product_id"]: hit["product"]["title"] for hit in page["hits"]}


def test_what_is_written_at_every_moment_of_a_backup_is_in_the_catalogue_and_in_the_index_or_in_neither(
    market, tmp_path, monkeypatch
):
    """Each write is indexed and acknowledged at once, so that no outbox tells of it any more."""
    freeze, copy = backing_up.freeze_index, backing_up._copy_catalogue

    with application(market, flush_seconds=0.1) as app, TestClient(app) as client:

        @contextmanager
        def freezing(url):
            change("noted")
            with freeze(url) as frozen:
                change("held")
                yield frozen

        def copying(*given):
            change("copied")
            app.state.services.deployments.served.index.compact()
            for number in range(3):
                write(client, f"last{number}", "purple xylophone")
            copy(*given)

        def change(moment: str) -> None:
            """Something new, something changed, something deleted, something reported, all in the index and settled."""
            number = {"before": 1, "noted": 2, "held": 3, "copied": 4}[moment]
            write(client, moment, f"{moment} hammock")
            write(client, "p40", f"{moment} gramophone")
            write(client, f"p1{number}", f"{moment} trombone")
            delete(client, f"p0{number}")
            report(client, moment)
            settled(client)

        monkeypatch.setattr(backing_up, "freeze_index", freezing)
        monkeypatch.setattr(backing_up, "_copy_catalogue", copying)
        change("before")
        told = back_up(market, tmp_path / "backup", str(market.path / "index"))
        expected = state(client)
    assert told["index"] == "" and told["schema"] == migrations.newest()
    for number, moment in ((4, "copied"),):  # what came after the moment of the backup is not in it
        expected |= {"p40": "held gramophone", f"p0{number}": "green bicycle", f"p1{number}": "blue lamp"}
        del expected[moment]
    expected = {key: title for key, title in expected.items() if not key.startswith("last")}
    rows = {row["product_id"]: row["title"] for row in market.arrow("products").to_pylist()}
    expected |= {key: rows[key] for key in ("p04", "p14")}

    again = restored(tmp_path / "backup", tmp_path / "again")
    with server(again) as client:
        wait_until(lambda: client.get("/readyz").status_code == 200)
        settled(client)
        assert state(client) == expected
        for key, title in expected.items():
            assert client.get(f"/v1/products/{key}").json()["title"] == title
        for moment in ("before", "noted", "held"):
            assert ids(search(client, query=f"{moment} hammock", mode="semantic", page_size=1)) == [moment]
        assert ids(search(client, query="held gramophone", mode="semantic", page_size=1)) == ["p40"]
        report(client, "after")
    assert sessions(again) == ["after", "before", "held", "noted"]


def test_a_backup_with_nothing_written_meanwhile_brings_nothing_to_the_index_anew(market, tmp_path):
    with server(market) as client:
        write(client, "n", "orange hammock")
        settled(client)
    back_up(market, tmp_path / "backup", str(market.path / "index"))
    restore(tmp_path / "backup", tmp_path / "again")
    with closing(Catalogue.open(tmp_path / "again" / "market" / CATALOGUE)) as catalogue:
        assert json.loads(catalogue.settings.get("read ")) == [catalogue.last_number(), []]
        assert catalogue.outbox.oldest() is None


def test_an_index_that_no_server_has_brought_up_to_date_yet_is_so_where_it_is_restored(market, tmp_path):
    """As one that was built anew, or swapped, while none ran: no outbox tells what it lacks."""
    with closing(Catalogue.open(market.path / CATALOGUE)) as catalogue:
        catalogue.products.upsert([stored("n", title="orange hammock")])
        catalogue.outbox.ack(catalogue.outbox.claim("w", 9))
    back_up(market, tmp_path / "backup", str(market.path / "index"))
    with server(restored(tmp_path / "backup", tmp_path / "again")) as client:
        settled(client)
        assert ids(search(client, query="orange hammock", mode="semantic", page_size=1)) == ["n"]


def test_no_row_leaves_the_log_and_no_file_of_it_goes_while_they_are_told_apart(market, tmp_path, monkeypatch):
    """Else a row would be in the file and in the log of a backup, or in neither. Copying hinders nobody."""
    locks = {table: moving_lock(market.path / table) for table in LOGGED} | {"log": rewriting_lock(market.path, 0)}
    held: dict[str, set[str]] = {}

    def note(moment: str) -> None:
        held[moment] = {name for name, lock in locks.items() if not _is_free(lock)}

    @contextmanager
    def beginning(file, begin=Snapshot.of):
        note("begins")
        with begin(file) as snapshot:
            yield snapshot
            note("ended")

    def listing(*given, files=backing_up._files):
        note("listed")
        return files(*given)

    def copying(piece, *given, copy=Piece.copy):
        note(piece.name.split("-")[0])
        copy(piece, *given)

    monkeypatch.setattr(Snapshot, "of", beginning)
    monkeypatch.setattr(backing_up, "_files", listing)
    monkeypatch.setattr(Piece, "copy", copying)
    back_up(market, tmp_path / "backup")
    assert held["begins"] == held["listed"] == {*locks}
    assert held["products.parquet"] == {"log"}
    back_up(market, tmp_path / "other", str(market.path / "index"))
    assert held["generation"] == set()


def _is_free(lock) -> bool:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    lock.release()
    return True


def test_what_waits_for_the_index_is_in_the_backup_and_is_due_at_once_whatever_the_clock(market, tmp_path):
    """Also where the machine that is restored to has a clock a month behind."""
    with closing(Catalogue.open(market.path / CATALOGUE)) as catalogue:
        catalogue.products.upsert([stored("n", title="orange hammock")])
    with closing(sqlite3.connect(market.path / CATALOGUE)) as connection, connection:
        connection.execute("UPDATE outbox SET not_before = not_before + 30 * 86400")
    back_up(market, tmp_path / "backup", str(market.path / "index"))
    with server(restored(tmp_path / "backup", tmp_path / "again")) as client:
        settled(client)
        assert ids(search(client, query="orange hammock", mode="semantic", page_size=1)) == ["n"]


def test_without_the_index_the_market_alone_is_restored(market, tmp_path):
    told = back_up(market, tmp_path / "backup")
    assert (told["index"], told["run"]) == (None, None)
    assert restore(tmp_path / "backup", tmp_path / "again")["index"] is None
    names = {path.name for path in (tmp_path / "again" / "market").iterdir()}
    assert names == {CATALOGUE, "market.toml", "products.parquet", "judgments.parquet"}


def test_files_keep_their_modes_and_times_and_nobody_else_may_enter(market, tmp_path):
    """By their times, too, the catalogue knows the table that it was filled from."""
    events = market.path / "events"
    events.mkdir()
    live = events / "live-0123-000000000001-000000000002.parquet"
    live.write_bytes(b"rows")
    live.chmod(0o600)
    (market.path / "rules.toml").write_text("")
    (market.path / "rules.toml").chmod(0o640)
    (market.path / ".api-key").write_text("secret")
    back_up(market, tmp_path / "backup")
    restore(tmp_path / "backup", tmp_path / "again")
    for folder in (tmp_path / "backup", tmp_path / "again"):
        modes = {"events/" + live.name: 0o600, CATALOGUE: 0o600, "rules.toml": 0o640, "products.parquet": 0o644}
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        for name, mode in modes.items():
            assert stat.S_IMODE((folder / "market" / name).stat().st_mode) == mode, name
        table = (folder / "market" / "products.parquet").stat()
        assert table.st_mtime_ns == (market.path / "products.parquet").stat().st_mtime_ns
        hidden = {path.name for path in (folder / "market").rglob(".*")}
        assert not hidden
    assert stat.S_IMODE((tmp_path / "backup" / ABOUT).stat().st_mode) == 0o600


@given(data=st.data())
@settings(max_examples=25)
def test_a_flipped_byte_of_any_file_is_refused_by_name(made, data):
    """It is all there, in a hole of a large file too; the digests are those of the copy, and nothing is in place."""
    files = sorted(path for path in made.rglob("*") if path.is_file() and path.stat().st_size)
    assert len(files) > 20
    file = data.draw(st.sampled_from(files))
    place, bit = data.draw(st.integers(0, file.stat().st_size - 1)), 1 << data.draw(st.integers(0, 7))
    again = made.parent / "again"
    _flip(file, place, bit)
    try:
        with pytest.raises(DamagedError) as refused:
            restore(made, again)
    finally:
        _flip(file, place, bit)
    assert str(file) in str(refused.value) or file.name == MANIFEST  # there it may be another file's digest
    assert not again.exists() and not [*made.parent.glob(".again*")]


def _flip(file, place, bit):
    with file.open("r+b") as content:
        content.seek(place)
        (byte,) = content.read(1)
        content.seek(place)
        content.write(bytes([byte ^ bit]))


def test_what_no_byte_was_flipped_of_is_restored(made, tmp_path):
    restore(made, tmp_path / "again")
    with open_index(tmp_path / "again" / "index") as index:
        assert len(index) == 48


def test_every_byte_of_the_manifest_counts(made, tmp_path):
    shutil.copytree(made, tmp_path / "copy", ignore=shutil.ignore_patterns("index"))
    manifest = tmp_path / "copy" / MANIFEST
    content = manifest.read_bytes()
    for place in random.Random(0).sample(range(len(content)), 200):
        manifest.write_bytes(content[:place] + bytes([content[place] ^ 7]) + content[place + 1 :])
        with pytest.raises(DamagedError):
            restore(tmp_path / "copy", tmp_path / "again")
    manifest.write_bytes(content.replace(b"}", b"} "))
    with pytest.raises(DamagedError, match=r"manifest.json is damaged"):
        restore(tmp_path / "copy", tmp_path / "again")
    for name in ("../x", "/x", "a/../../x"):
        one = {"files": {name: {"size": 1, "sha256": "0"}}}
        manifest.write_text(json.dumps(one, indent=1) + "\n")
        with pytest.raises(DamagedError, match="outside of its folder"):
            restore(tmp_path / "copy", tmp_path / "again")
    manifest.unlink()
    with pytest.raises(DamagedError, match=r"manifest.json is missing"):
        restore(tmp_path / "copy", tmp_path / "again")


@pytest.mark.parametrize(
    ("newer", "why"),
    [({"schema": 99}, "its schema has version 99, made by a newer Mercato"), ({"format": 2}, "was made by a newer")],
)
def test_what_a_newer_mercato_made_is_refused(market, tmp_path, monkeypatch, newer, why):
    monkeypatch.setattr(backing_up, "asdict", lambda about: vars(about) | newer)
    back_up(market, tmp_path / "backup")
    with pytest.raises(MercatoError, match=why):
        restore(tmp_path / "backup", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_an_older_catalogue_is_backed_up_as_it_is_and_brought_up_to_date_where_it_is_restored(market, tmp_path):
    """With the index: all that the API wrote is brought to it."""
    with closing(Catalogue.open(market.path / CATALOGUE)) as catalogue:
        catalogue.products.upsert([stored("n")])
        catalogue.outbox.ack(catalogue.outbox.claim("w", 9))
    with closing(sqlite3.connect(market.path / CATALOGUE)) as connection, connection:
        connection.execute("DROP TABLE keys")
        connection.execute("DROP TABLE writes")
        connection.execute("UPDATE schema_version SET version = 4")
    told = back_up(market, tmp_path / "backup", str(market.path / "index"))
    assert told["schema"] == 4
    with closing(sqlite3.connect(market.path / CATALOGUE)) as connection:
        assert connection.execute("SELECT version FROM schema_version").fetchone() == (4,)


def test_folders_that_are_none_or_not_empty_are_refused(market, made, tmp_path):
    full = tmp_path / "full"
    full.mkdir()
    (full / "x").touch()
    for folder in (full, full / "x"):
        with pytest.raises(MercatoError, match="is not an empty folder"):
            back_up(market, folder)
        with pytest.raises(MercatoError, match="is not an empty folder"):
            restore(made, folder)
    assert [path.name for path in full.iterdir()] == ["x"]
    for folder in (market.path / "backup", market.path / "index" / "backup"):
        with pytest.raises(MercatoError, match="lies in what is to be copied"):
            back_up(market, folder, str(market.path / "index"))
    with pytest.raises(MercatoError, match=r"is no backup: it has no backup.json"):
        restore(full, tmp_path / "again")
    (market.path / CATALOGUE).unlink()
    with pytest.raises(MercatoError, match="has no catalogue"):
        back_up(market, tmp_path / "backup")
    empty = tmp_path / "empty"
    empty.mkdir()
    restore(made, empty)
    assert (empty / "market" / CATALOGUE).is_file()


def test_where_there_is_no_room_nothing_is_begun(market, made, tmp_path, monkeypatch):
    monkeypatch.setattr(Disk, "has_room", lambda _, size=0: size < 100_000)
    for make in (lambda: back_up(market, tmp_path / "new"), lambda: restore(made, tmp_path / "new")):
        with pytest.raises(MercatoError, match=r"has no room for \d+ MB"):
            make()
    assert not (tmp_path / "new").exists()


def test_what_is_damaged_is_not_backed_up(market, tmp_path):
    (columns,) = (market.path / "index").glob("generation-*/columns/ids")
    columns.write_bytes(columns.read_bytes()[:-1])
    with pytest.raises(DamagedError, match=r"index/generation-\w+/columns/ids of the copy is damaged"):
        back_up(market, tmp_path / "backup", str(market.path / "index"))
    assert not (tmp_path / "backup").exists() and not [*tmp_path.glob(".backup*")]


def test_a_generation_that_is_replaced_while_it_is_copied_is_there_to_its_end(market, tmp_path, monkeypatch):
    copy = Piece.copy

    def copying(piece, *given):
        if "generation" in piece.name:
            monkeypatch.setattr(Piece, "copy", copy)
            with open_index(market.path / "index") as index:
                index.delete(["p01"])
                index.compact()
        return copy(piece, *given)

    monkeypatch.setattr(Piece, "copy", copying)
    back_up(market, tmp_path / "backup", str(market.path / "index"))
    restore(tmp_path / "backup", tmp_path / "again")
    with open_index(tmp_path / "again" / "index") as index:
        assert len(index) == 48
    with open_index(market.path / "index") as index:
        assert len(index) == 47
    assert len([*(market.path / "index").glob("generation-*")]) == 1


def test_a_snapshot_is_of_the_moment_at_which_it_begins(market):
    """Also where nothing is read of it until later."""
    with closing(Catalogue.open(market.path / CATALOGUE)) as catalogue:
        catalogue.products.upsert([stored("n")])
        with Snapshot.of(market.path / CATALOGUE) as snapshot:
            catalogue.products.upsert([stored("m")])
            assert snapshot.waiting() == ["n"]
