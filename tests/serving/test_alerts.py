"""The alerts of docs/operate.md are of metrics, labels and answers that there are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from mercato.ranking.ranker import LeftOut
from mercato.serving.problems import _MEANINGS

PAGE = (Path(__file__).parents[2] / "docs" / "operate.md").read_text()


@pytest.fixture
def text(start) -> str:
    client = start()
    for query in ("red chair", "red chair"):
        client.post("/v1/search", json={"query": query}).raise_for_status()
    return client.get("/metrics").text


def test_every_metric_that_is_named_is_exposed(text):
    named = set(re.findall(r"\bmercato_\w+", PAGE))
    families = set(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE))
    shown = families | {f"{name}_bucket" for name in families} | {"mercato_disk_free_bytes"}  # this server has no disks
    assert len(named) > 8 and named - shown == set()
    for route in re.findall(r'route="([^"]+)"', PAGE):
        assert f'route="{route}"' in text


def test_every_alert_has_its_row_and_every_row_its_alert():
    alerts = re.findall(r"alert: (\w+)", PAGE)
    rows = [name for cells in re.findall(r"^\| ([A-Z][\w, ]+?) \|", PAGE, re.MULTILINE) for name in cells.split(", ")]
    assert alerts == rows and len(alerts) == len(set(alerts))


def test_the_answers_that_are_explained_are_those_that_refuse_for_now():
    rows = {int(code) for cells in re.findall(r"^\| ([\d, ]+) \|", PAGE, re.MULTILINE) for code in cells.split(", ")}
    assert {401, 403, 429, 503, 507} <= rows <= {*_MEANINGS, 408, 431}
    assert all(f"`{why}`" in PAGE for why in get_args(LeftOut))
