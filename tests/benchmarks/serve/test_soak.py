from __future__ import annotations

import json
from collections import Counter

import pytest
from rich.console import Console

from mercato.benchmarks.serve import soak
from mercato.benchmarks.serve.soak import REPORT, SEARCHES
from mercato.benchmarks.serve.traffic import DELETE, UPSERT, Traffic


@pytest.fixture(scope="module")
def soaked(tiny_run, tiny_market, tmp_path_factory):
    """A report on a real server's processes, with little of everything; and the folder that was kept."""
    out = tmp_path_factory.mktemp("soak") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(soak, "_POOL", 20)
        patch.setattr(soak, "_CAPACITY_SECONDS", 0.5)
        patch.setattr(soak, "_LOOK_SECONDS", 0.1)
        return soak.run(tiny_run, tiny_market, out, products=300, workers=1, minutes=0.05), out


def test_everything_that_was_due_is_accounted_for(soaked):
    report, _ = soaked
    rows = {row["what"]: row for row in report["rows"]}
    assert report["rate_per_s"] == pytest.approx(0.8 * report["capacity_per_s"], abs=0.1)
    assert rows[SEARCHES]["asked"] == pytest.approx(3 * report["rate_per_s"], abs=1)
    assert rows[UPSERT]["asked"] + rows[DELETE]["asked"] == 66 and rows[DELETE]["asked"] > 0
    for row in rows.values():
        assert row["asked"] == row["answered"] + row["refused"] + row["failed"] + row["no_page"]
        assert 0 < row["p50_ms"] <= row["p99_ms"]
    assert report["errors"] == sum(row["refused"] + row["failed"] for row in rows.values())


def test_every_process_is_weighed(soaked):
    report, _ = soaked
    assert len(report["processes"]) >= 2  # the server and its worker
    for process in report["processes"]:
        assert 0 < process["start_mb"] <= process["highest_mb"] >= process["end_mb"]
        assert 0 < process["start_files"] <= process["most_files"] >= process["end_files"]
        assert isinstance(process["mb_per_minute"], float)
    assert report["disk_mb"][0] > 0


def test_the_report_is_kept_and_shown(soaked):
    report, out = soaked
    assert json.loads((out / REPORT).read_text()) == json.loads(json.dumps(report))
    console = Console(record=True, width=100)
    console.print(soak.table(report))
    said = console.export_text()
    assert f"errors: {report['errors']}" in said and all(str(process["pid"]) in said for process in report["processes"])


def test_changes_write_a_few_products_time_and_again_and_take_some_back(tiny_market):
    plan = Traffic(tiny_market, 0).changes(2_000, 20.0, "key", deletes=0.2, pool=50)
    kinds = Counter(request.kind for request in plan)
    assert kinds.keys() == {(UPSERT,), (DELETE,)} and 0.1 < kinds[(DELETE,)] / len(plan) < 0.25
    living: set[str] = set()
    for request in plan:
        if request.method == "DELETE":
            living.remove(request.path.removeprefix("/v1/products/"))
        else:
            living.add(request.body["products"][0]["product_id"])
    assert 25 < len(living) <= 50


def test_a_slope_is_told_of_what_comes_after_the_caches_are_full():
    process = soak._Process(1, [float(second) for second in range(101)], [], [3] * 101)
    process.mb = [100.0 + 10 * second if second < 30 else 400.0 + second / 60 for second in range(101)]
    assert process.figures(100)["mb_per_minute"] == pytest.approx(1.0)
    assert process.figures(1_000)["mb_per_minute"] is None, "it was there for a moment"
