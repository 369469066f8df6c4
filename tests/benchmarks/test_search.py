from __future__ import annotations

import json

from mercato.benchmarks import search


def test_a_small_run_reports_full_recall_against_exact_scans():
    report = search.run(products=2000, dimension=16, queries=60, seed=3)
    assert json.loads(json.dumps(report)) == report
    assert [row["matches"] for row in report["rows"]][:5] == [2000, 600, 200, 20, 2]
    assert {row["recall@10"] for row in report["rows"]} == {1.0}
    assert {row["hybrid_recall@10"] for row in report["rows"]} == {1.0}
    radii = [row["selectivity"] for row in report["rows"] if row["filter"].startswith("radius")]
    assert 0.07 < radii[0] < 0.13 and 0.003 < radii[1] < 0.02
    assert search.table(report).row_count == len(report["rows"]) + len(report["candidates"]) == 14
