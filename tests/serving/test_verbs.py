"""`mercato keys`, as somebody types it."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from mercato.cli import app


def mercato(*words):
    answer = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert answer.exit_code == 0, answer.output
    return answer.stdout


def test_keys_are_added_listed_and_revoked(market):
    key = mercato("keys", "add", market.path, "--name", "shop", "--scope", "read", "--scope", "write", "--rate", "5")
    key_id = key.split("_")[1]
    assert key.startswith("mk_") and len(key.split()) == 1, "the key alone, for a script to read"
    other = json.loads(mercato("keys", "add", market.path, "--name", "probe", "--scope", "admin", "--json"))
    assert other["key"].startswith(f"mk_{other['key_id']}_") and other["scopes"] == ["admin"]
    listed = mercato("keys", "list", market.path)
    assert "shop" in listed and "probe" in listed and key.strip() not in listed
    assert json.loads(mercato("keys", "revoke", market.path, key_id, "--json")) == {"revoked": key_id}
    found = json.loads(mercato("keys", "list", market.path, "--json"))["keys"]
    assert [(row["key_id"], row["rate"], row["revoked_at"] is None) for row in found] == [
        (key_id, 5.0, False),
        (other["key_id"], None, True),
    ]
    assert "digest" not in json.dumps(found)


def test_a_market_without_keys_says_how_one_is_made(market):
    assert "mercato keys add" in mercato("keys", "list", market.path)
