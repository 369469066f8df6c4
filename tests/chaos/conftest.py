"""The table with which `make chaos` ends: a row an attack. MERCATO_CHAOS_JSON names a file for the same as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.support import chaos

ATTACKS = pytest.StashKey[list[chaos.Attack]]()


def pytest_configure(config):
    config.stash[ATTACKS] = []


@pytest.fixture
def attacked(request) -> Callable[..., AbstractContextManager[chaos.Attack]]:
    """See `chaos.attacked`; what became of it is shown at the end of all tests."""

    @contextmanager
    def noting(*given, **named):
        with chaos.attacked(*given, **named) as attack:
            request.config.stash[ATTACKS].append(attack)
            yield attack

    return noting


def pytest_terminal_summary(terminalreporter, config):
    rows = [attack.row() for attack in config.stash[ATTACKS]]
    if file := os.environ.get("MERCATO_CHAOS_JSON"):
        Path(file).write_text(json.dumps(rows, indent=2) + "\n")
    if not rows:
        return
    terminalreporter.section("attacks")
    head = ("attack", "searches", "slowest", "again", "errors", "memory, MB", "disk, MB", "writes", "lost")
    form = "{:<36}{:>10}{:>10}{:>7}{:>8}{:>22}{:>16}{:>9}{:>6}".format
    terminalreporter.write_line(form(*head))
    for row in rows:
        memory, disk = (" → ".join(f"{value:,.0f}" for value in row[name]) for name in ("memory_mb", "disk_mb"))
        slowest = f"{row['slowest_ms']:,} ms"
        cells = (row["attack"], row["searches"], slowest, row["asked_again"], row["errors"], memory, disk)
        terminalreporter.write_line(form(*cells, row["checked"], row["lost"]))
