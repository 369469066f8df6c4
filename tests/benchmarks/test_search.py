from __future__ import annotations

import json

from mercato.benchmarks import search


def test_a_small_run_reports_full_recall_against_exact_scans():
    report = search.run(products=2000, dimension=16, queries=60, seed=3)
    assert json.loads(json.dumps(report)) == report
    assert [row["matches"] for row in report["rows"]][:4] == [2000, 200, 20, 2]
    assert {row["recall@10"] for row in report["rows"]} == {1.0}
    assert {row["hybrid_recall@10"] for row in report["rows"]} == {1.0}
    assert search.table(report).row_count == 5
