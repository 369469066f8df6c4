from __future__ import annotations

import json
from collections import Counter

import pytest
from rich.console import Console

from mercato.benchmarks.serve import benchmark as serve
from mercato.benchmarks.serve.benchmark import INDEX, MARKET, PAGE, QUERIES, REPORT
from mercato.benchmarks.serve.report import ALL, BESIDE, KINDS, OPEN, PHASES, row
from mercato.benchmarks.serve.traffic import FILTERS, NARROW, NEW, PAGES, REPEATED, UPSERT, Traffic
from mercato.benchmarks.serve.traffic import QUERIES as QUERY_KINDS
from mercato.errors import MercatoError
from tests.support.small_market import make_market

SEARCHES = [kind for kind in KINDS if kind not in (ALL, UPSERT)]


@pytest.fixture(scope="module")
def measured(tiny_run, tiny_market, tmp_path_factory):
    """A report on a real server's process, with little of everything; and the folder that was kept."""
    out = tmp_path_factory.mktemp("bench") / "out"
    return serve.run(tiny_run, tiny_market, out, products=700, seconds=1.5), out


def test_every_request_of_every_phase_and_kind_is_accounted_for(measured):
    report, _ = measured
    assert {line["phase"] for line in report["rows"]} == set(PHASES)
    for line in report["rows"]:
        assert line["asked"] == line["answered"] + line["refused"] + line["failed"] + line["no_page"]
        assert line["failed"] == 0
    for phase in PHASES:
        whole = row(report, phase)["asked"]
        for kinds in (QUERY_KINDS, FILTERS, PAGES):
            asked = [line["asked"] for line in report["rows"] if line["phase"] == phase and line["kind"] in kinds]
            assert sum(asked) == whole
    assert row(report, OPEN)["asked"] == row(report, BESIDE)["asked"] == round(1.5 * report["rate_per_s"]) + 1
    assert row(report, BESIDE, UPSERT)["answered"] == 31


def test_the_report_is_whole(measured):
    report, out = measured
    assert json.loads((out / REPORT).read_text()) == json.loads(json.dumps(report))
    assert report["rate_per_s"] == pytest.approx(0.7 * report["capacity_per_s"], abs=0.1)
    assert report["upsert_found"]["sought"] == report["upsert_found"]["found"] == 4
    assert report["built"]["products"] == 700 and report["built"]["disk_mb"] > 0
    assert report["start_s"] > 0 and report["memory"]["pss_anonymous_mb"] <= report["memory"]["pss_mb"]
    parts = report["parts_ms"]
    assert 0 < report["in_process"]["p50_ms"] <= report["in_process"]["p99_ms"] and not report["ranked"]
    assert sum(parts.values()) - parts["HTTP"] < report["in_process"]["p99_ms"] + 0.01
    assert min(parts[part] for part in ("encode", "retrieve", "count", "fetch", "write JSON")) > 0
    assert {line["met"] for line in report["budget"]} <= {True, False}
    assert report["met"] == all(line["met"] for line in report["budget"])
    console = Console(record=True, width=80)
    console.print(serve.table(report))
    said = console.export_text()
    assert all(kind in said for kind in KINDS) and "700 products" in said and "…" not in said
    page = (out / PAGE).read_text()
    assert page.count("<svg") == 4 and all(part in page for part in parts)
    assert len(set((out / QUERIES).read_text().splitlines())) == 2_000


def test_what_was_built_is_used_again_but_not_for_something_else(measured, tiny_run, tiny_market, monkeypatch):
    report, out = measured
    monkeypatch.setattr("mercato.benchmarks.serve.index.index_market", None)  # it need not be called
    big = serve.big_market(tiny_market, out / MARKET, 700, 0)
    assert serve.big_index(tiny_run, big, out / INDEX) == report["built"]
    monkeypatch.setattr("mercato.benchmarks.serve.index.run_fingerprint", lambda run: "another")
    with pytest.raises(MercatoError, match="give another --out"):
        serve.big_index(tiny_run, big, out / INDEX)


def test_a_server_that_cannot_start_says_why(tiny_market, tmp_path):
    with (
        pytest.raises(MercatoError, match="holds no index"),
        serve.server(tmp_path, tiny_market, tmp_path, 1, tmp_path / "log"),
    ):
        pass


@pytest.fixture(scope="module")
def plan(tiny_market):
    return Traffic(tiny_market, 0).searches(2_000, 20, rate=100.0)


def test_searches_are_of_every_kind_and_due_at_the_rate(plan):
    kinds = Counter(kind for request in plan for kind in request.kind)
    assert set(kinds) == set(SEARCHES)
    assert min(kinds[kind] for kind in (NEW, REPEATED)) > 900
    assert min(kinds[kind] for kind in FILTERS) > 250
    assert kinds[PAGES[0]] > kinds[PAGES[1]] > kinds[PAGES[2]] > 100
    assert plan[-1].at == pytest.approx(20, rel=0.2)
    assert [request.at for request in plan] == sorted(request.at for request in plan)


def test_new_queries_are_new_and_repeated_ones_are_not(tiny_market):
    traffic = Traffic(tiny_market, 0)
    plans = [traffic.searches(400, 20), traffic.searches(400, 20)]
    asked = {kind: [] for kind in QUERY_KINDS}
    for request in (request for plan in plans for request in plan if request.follows is None):
        asked[request.kind[0]].append(request.body["query"])
    assert len(set(asked[NEW])) == len(asked[NEW]) and not set(asked[NEW]) & set(asked[REPEATED])
    assert len(set(asked[REPEATED])) <= 100


def test_a_page_follows_the_one_before_it_of_its_own_search(plan):
    for place, request in enumerate(plan):
        if request.follows is not None:
            before = plan[request.follows]
            assert request.follows <= place - 20
            assert request.body == before.body and request.kind[:2] == before.kind[:2]
            assert PAGES.index(request.kind[2]) == PAGES.index(before.kind[2]) + 1
        else:
            assert request.kind[2] == PAGES[0]
    followed = [request.follows for request in plan if request.follows is not None]
    assert len(set(followed)) == len(followed)


def test_a_market_without_places_has_no_radius(tmp_path):
    rows = [{"product_id": f"p{number}", "title": "red chair", "price": 3.0, "category": "A"} for number in range(40)]
    plan = Traffic(make_market(tmp_path / "market", rows), 0).searches(100, 5)
    assert {request.kind[1] for request in plan} == set(FILTERS) - {"radius"}
    narrow = [request.body["filters"] for request in plan if NARROW in request.kind]
    assert narrow[0] == {"category": "A", "price_min": 3.0, "price_max": 3.0}
