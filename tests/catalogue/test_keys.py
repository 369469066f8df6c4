"""API keys in the catalogue."""

from __future__ import annotations

import math
import sqlite3
from contextlib import closing

import pytest

from mercato.catalogue.store import Catalogue
from mercato.errors import MercatoError


def test_a_key_is_known_by_its_secret_of_which_nothing_is_stored(file):
    with closing(Catalogue.open(file)) as catalogue:
        made, key = catalogue.keys.add("shop", ["read", "write"], rate=5)
        other, _ = catalogue.keys.add("scraper", ["admin"])
        assert catalogue.keys.all() == [made, other]
    prefix, key_id, secret = key.split("_", 2)
    assert (prefix, key_id, made.scopes, made.rate) == ("mk", made.key_id, {"read", "write"}, 5)
    assert made.matches(secret)
    assert not made.matches(secret[:-1]) and not other.matches(secret)
    assert not made.matches("\udcff")
    with closing(Catalogue.open(file)):
        stored = b"".join(own.read_bytes() for own in file.parent.glob(f"{file.name}*"))
    assert made.digest.encode() in stored and secret.encode() not in stored


def test_a_revoked_key_stays_so_from_the_first_time_on(file):
    with closing(Catalogue.open(file)) as catalogue:
        made, _ = catalogue.keys.add("shop", ["write"])
        kept, _ = catalogue.keys.add("other", ["write"])
        catalogue.keys.revoke(made.key_id)
        first = catalogue.keys.all()[0].revoked_at
        assert first is not None and first >= made.made_at
        catalogue.keys.revoke(made.key_id)
        assert [key.revoked_at for key in catalogue.keys.all()] == [first, None]
        assert catalogue.keys.all()[1] == kept
        with pytest.raises(MercatoError, match="key 0: there is none"):
            catalogue.keys.revoke("0")


def test_keys_that_cannot_be_read_are_an_error_of_the_catalogue_s(file):
    with closing(Catalogue.open(file)) as catalogue, closing(sqlite3.connect(file)) as database:
        database.execute("DROP TABLE keys")
        with pytest.raises(MercatoError, match="the keys cannot be read: no such table"):
            catalogue.keys.all()


@pytest.mark.parametrize(
    ("scopes", "rate", "why"),
    [
        (["root"], None, "scope: 'root' is none; there are read, write, admin"),
        ([], None, "scope: a key needs one"),
        (["read"], 0, "rate: requests a second, above 0"),
        (["read"], math.nan, "rate: requests a second, above 0"),
    ],
)
def test_what_makes_no_key_is_refused(file, scopes, rate, why):
    with closing(Catalogue.open(file)) as catalogue:
        with pytest.raises(MercatoError, match=why):
            catalogue.keys.add("shop", scopes, rate)
        assert catalogue.keys.all() == []
