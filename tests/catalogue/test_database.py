from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from mercato.catalogue.database import Database
from mercato.catalogue.store import Catalogue
from mercato.errors import DamagedError, MercatoError
from tests.support.stored import stored


def test_sqlite_is_asked_for_full_durability(file):
    with closing(Database.open(file)) as database:
        for transaction in (database.read, database.write):
            with transaction() as connection:
                assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
                assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2


def test_only_its_owner_may_read_a_catalogue(file):
    Catalogue.open(file).close()
    file.chmod(0o644)
    for _ in range(2):
        with closing(Catalogue.open(file)) as catalogue:
            catalogue.products.upsert([stored()])
            assert {path.stat().st_mode & 0o777 for path in file.parent.iterdir()} == {0o600}


def test_the_secret_is_made_once(file):
    with closing(Catalogue.open(file)) as one, closing(Catalogue.open(file)) as two:
        assert one.settings.secret("cursor") == two.settings.secret("cursor") != one.settings.secret("other")
        assert len(one.settings.secret("cursor")) == 32


def test_a_setting_is_the_last_that_was_set(catalogue):
    assert catalogue.settings.get("index") is None
    for value in ("one", "two"):
        catalogue.settings.set("index", value)
        assert catalogue.settings.get("index") == value


def test_what_is_no_catalogue_is_said_so(file):
    file.write_bytes(b"this is not a database, however long it may be" * 50)
    with pytest.raises(MercatoError, match=r"catalogue .*catalogue\.sqlite is damaged: it is no SQLite database"):
        Catalogue.open(file)


def test_a_file_that_is_cut_off_is_said_so(file):
    Catalogue.open(file).close()
    whole = file.read_bytes()
    file.write_bytes(whole[:-4096])
    with pytest.raises(DamagedError, match=r"catalogue\.sqlite is damaged: .* malformed: put a backup"):
        Catalogue.open(file)


def test_damage_is_said_where_a_query_meets_it_and_found_where_none_has(file):
    with closing(Catalogue.open(file)) as catalogue:
        catalogue.products.upsert([stored(f"p{number}") for number in range(300)])
        catalogue.check()
    content = file.read_bytes()
    whole = len(content) // 8192 * 4096
    file.write_bytes(content[:whole] + b"\xff" * (len(content) - whole))
    for meet in (Catalogue.check, lambda catalogue: catalogue.products.load([f"p{number}" for number in range(300)])):
        with closing(Catalogue.open(file)) as catalogue, pytest.raises(DamagedError, match=r"catalogue\.sqlite is dam"):
            [*meet(catalogue)]


@pytest.mark.parametrize("statement", [None, "CREATE TABLE songs (title TEXT)"])
def test_a_file_that_holds_no_catalogue_is_not_begun_anew(file, statement):
    file.touch()
    if statement:
        with closing(sqlite3.connect(file)) as connection, connection:
            connection.execute(statement)
    before = file.read_bytes()
    why = "has no tables of a catalogue's" if statement else "is empty"
    with pytest.raises(DamagedError, match=rf"catalogue\.sqlite is damaged: it {why}"):
        Catalogue.open(file)
    assert file.read_bytes() == before
