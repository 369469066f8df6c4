"""A study: which runs are done, what survives a failure or a kill, and what its table holds."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from mercato.cli import app
from mercato.data.market import Market
from mercato.errors import MercatoError
from mercato.experiments.ablation.ablate import measure_study
from mercato.experiments.ablation.rows import RowFigures
from mercato.experiments.ablation.statistics import Residual, holm
from mercato.experiments.ablation.table import MeasuredMetric, Table, adjusted_ps, metric_result
from tests.support.studies import BOTH, ROWS, TWO_METRICS, calls, study, threads

pytestmark = pytest.mark.usefixtures("fake_trial")


def ablate(*given: Any, **options: Any) -> dict[str, Any]:
    """The object that `mercato ablate --json` prints."""
    table = measure_study(*given, **options)
    assert Table.from_dict(json.loads(json.dumps(table.as_dict()))) == table
    return table.as_dict()


def _relevance(table: dict[str, Any]) -> list[dict[str, Any]]:
    return [row["metrics"]["relevance.roc_auc"] for row in table["rows"]]


def test_only_what_is_missing_is_done(tiny_market: Market, recipes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = ablate(study(seeds=[0, 1], rows=ROWS[:2]), recipes, tiny_market, out, jobs=2)
    assert len(calls(out)) == len(set(calls(out))) == 4
    assert ablate(study(seeds=[0, 1], rows=ROWS[:2]), recipes, tiny_market, out) == first
    assert len(calls(out)) == 4
    wider = ablate(study(name="other"), recipes, tiny_market, out, jobs=2)  # 4 rows, 3 seeds: 4 runs are there
    assert len(calls(out)) == len(set(calls(out))) == 12
    was, now = (_relevance(table)[0]["values"] for table in (first, wider))
    assert now[:2] == was
    assert not list((out / "runs").glob(".*.log"))


def test_rows_with_the_same_recipe_share_their_runs(tiny_market: Market, recipes: Path, tmp_path: Path) -> None:
    rows = [{"name": "a"}, {"name": "the same again", "set": ["dimension=16"]}]
    table = ablate(study(rows=rows), recipes, tiny_market, tmp_path / "out", jobs=2)
    assert len(calls(tmp_path / "out")) == 3
    assert table["rows"][0]["runs"] == table["rows"][1]["runs"]
    step = _relevance(table)[1]["step"]
    assert step["value"] == 0
    assert step["interval"] == [0, 0]


def test_another_market_or_recipe_is_another_run(
    tiny_market: Market, recipes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = study(seeds=[0], rows=ROWS[:1])
    ablate(one, recipes, tiny_market, tmp_path / "out")
    monkeypatch.setattr(Market, "fingerprint", lambda self: "another")
    ablate(one, recipes, tiny_market, tmp_path / "out")
    assert len(set(calls(tmp_path / "out"))) == 2


def test_a_run_to_keep_must_have_its_weights(tiny_market: Market, recipes: Path, tmp_path: Path) -> None:
    one = study(seeds=[0], rows=ROWS[:1])
    for keep in (False, True, True, False):
        ablate(one, recipes, tiny_market, tmp_path / "out", keep=keep)
    assert len(calls(tmp_path / "out")) == 2


def test_a_failing_run_is_named_and_the_others_are_kept(tiny_market: Market, recipes: Path, tmp_path: Path) -> None:
    rows = [ROWS[0], {"name": "too much", "set": ["dropout=0.9"]}, {**ROWS[1], "from": "small"}]
    with pytest.raises(MercatoError) as raised:
        ablate(study(seeds=[0, 1], rows=rows), recipes, tiny_market, tmp_path / "out", jobs=1)
    told = str(raised.value)
    assert "row 'too much', seed 0: the loss of epoch 1 is nan" in told
    assert "row 'too much', seed 1" in told
    assert "2 of 6 runs failed; 4 are kept" in told
    ablate(study(seeds=[0, 1], rows=[rows[0], rows[2]]), recipes, tiny_market, tmp_path / "out")
    assert len(calls(tmp_path / "out")) == 6


def test_a_trial_that_cannot_even_start_is_reported(
    tiny_market: Market, recipes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mercato.experiments.ablation.jobs.TRIAL", [sys.executable, "-c", "import nowhere"])
    with pytest.raises(MercatoError, match=r"row 'small', seed 0: (.|\n)*No module named 'nowhere'"):
        ablate(study(seeds=[0], rows=ROWS[:1]), recipes, tiny_market, tmp_path / "out")


def test_a_killed_study_picks_up(
    tiny_market: Market, recipes: Path, tmp_path: Path, fake_trial: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    (tmp_path / "study.toml").write_text(
        'name = "killed"\ntitle = "Killed"\nrecipe = "tiny.toml"\nmetrics = ["relevance.roc_auc"]\n'
        'seeds = [0, 1, 2, 3]\n[[rows]]\nname = "a"\n[[rows]]\nname = "b"\nset = ["dimension=8"]\n'
    )
    arguments = ["ablate", str(tmp_path / "study.toml"), "--market", str(tiny_market.path), "--out", str(out)]
    code = f"from mercato.experiments.ablation import jobs; jobs.TRIAL = {fake_trial!r}\n"
    code += "from mercato.cli import app; app()"
    monkeypatch.setenv("FAKE_TRIALS", "5")  # all of row a, the first of row b
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments, "--jobs", "1"], stderr=subprocess.DEVNULL, start_new_session=True
    )
    started = out / "runs" / "calls.txt"
    while not (started.exists() and len(started.read_text().splitlines()) == 6):
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)  # the trial too
    process.wait()
    done = {path.parent.name for path in out.glob("runs/*/measures.json")}
    assert len(done) == 5
    assert [path.name for path in (out / "killed").iterdir()] == ["01-a.json"]
    assert not (out / "killed.json").exists()
    monkeypatch.delenv("FAKE_TRIALS")
    told = CliRunner().invoke(app, ["-q", *arguments, "--json"])
    assert told.exit_code == 0, told.output
    assert len(set(calls(out))) == 8
    assert all(calls(out).count(run) == 1 for run in done)
    assert sorted(path.name for path in (out / "killed").iterdir()) == ["01-a.json", "02-b.json"]


def test_rows_are_done_one_by_one(tiny_market: Market, recipes: Path, tmp_path: Path) -> None:
    table = ablate(study(rows=ROWS[:3], seeds=[0, 1]), recipes, tiny_market, tmp_path / "out", jobs=1)
    assert calls(tmp_path / "out") == [run for row in table["rows"] for run in row["runs"]]


def test_a_row_has_its_figures_in_a_file(tiny_market: Market, recipes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    given = study(name="toy", rows=ROWS[:3], set=["typos=0.5"])
    table = ablate(given, recipes, tiny_market, out, jobs=2)
    files = sorted((out / "toy").iterdir())
    assert [file.name for file in files] == ["01-small.json", "02-larger.json", "03-a-second-stage.json"]
    written = json.loads(files[2].read_text())
    assert written == RowFigures.from_dict(written).as_dict()
    assert (written["study"], written["row"], written["from"]) == ("toy", "+ a second stage", "larger")
    assert written["recipe"] == "tiny.toml"
    assert written["set"] == ["typos=0.5", "dimension=24", "stages.1.loss='in_batch_softmax'"]
    assert written["market"] == table["market"]
    assert written["seeds"] == [0, 1, 2]
    assert written["figures"]["relevance"]["roc_auc"] == [0.24, 0.241, 0.242]
    assert written["figures"]["batch"]["recall@1"] == [0.08, 0.080333, 0.080667]
    assert written["n"]["engagement"] == {"queries": 1525, "pairs": 22_806}
    assert (written["seconds"], written["epochs"]) == ([12.0] * 3, [6] * 3)
    assert (written["mercato"][0], written["measured"]) == ("0.0.1", ["2026-05-01", "2026-05-02", "2026-05-03"])
    assert written["runs"] == table["rows"][2]["runs"]
    assert all(file.stat().st_size < 10_000 for file in files)
    before = [file.read_bytes() for file in files]
    files[1].unlink()
    ablate(given, recipes, tiny_market, out)  # nothing to do: what is there is written as before
    assert [file.read_bytes() for file in files] == before


def test_a_failed_row_has_no_file_and_a_metric_of_one_seed_alone_is_no_figure_of_the_others(
    tiny_market: Market, recipes: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    rows = [ROWS[0], {"name": "too much", "set": ["dropout=0.9"]}, {"name": "++", "set": ["dimension=8"]}]
    with pytest.raises(MercatoError):
        ablate(study(rows=rows, seeds=[0, 1]), recipes, tiny_market, out, jobs=1)
    rows[2]["from"] = "small"
    table = ablate(study(rows=[rows[0], rows[2]], seeds=[0, 1]), recipes, tiny_market, out)
    assert sorted(file.name for file in (out / "toy-table").iterdir()) == ["01-small.json", "02-row.json"]
    measures = out / "runs" / table["rows"][0]["runs"][1] / "measures.json"
    tree = json.loads(measures.read_text())
    del tree["figures"]["batch"]
    measures.write_text(json.dumps(tree))
    ablate(study(rows=[rows[0]], seeds=[0, 1]), recipes, tiny_market, out)
    written = json.loads((out / "toy-table" / "01-small.json").read_text())
    assert written["figures"]["batch"]["recall@1"] == [pytest.approx(0.16 / 3, abs=1e-6), None]
    with pytest.raises(MercatoError, match=r"measures\.json has no batch\.recall@1, only .*delete it to measure anew"):
        ablate(study(rows=[rows[0]], seeds=[0, 1], metrics=["batch.recall@1"]), recipes, tiny_market, out)


def test_what_cannot_be_measured_is_said_before_anything_is_trained(
    tiny_market: Market, recipes: Path, tmp_path: Path
) -> None:
    with pytest.raises(MercatoError, match="metrics: relevance has no auc; it has roc_auc_per_query"):
        ablate(study(metrics=[BOTH[0], "relevance.auc"], rows=[{"name": "a"}]), recipes, tiny_market, tmp_path / "out")
    one_class = Market.open(shutil.copytree(tiny_market.path, tmp_path / "one class"))
    judged, file = one_class.frame("judgments"), one_class.path / "judgments.parquet"
    file.unlink()
    judged.with_columns(pl.col("grade") * 0).write_parquet(file)
    with pytest.raises(MercatoError, match=r"metrics: relevance.roc_auc is undefined .* defined there: unjudged@10"):
        ablate(study(), recipes, one_class, tmp_path / "out")
    for table in ("judgments", "pairs", "lists"):
        (one_class.path / f"{table}.parquet").unlink()
    with pytest.raises(MercatoError, match="it has no test judgments, no engaged pairs"):
        ablate(study(), recipes, one_class, tmp_path / "out")
    with pytest.raises(MercatoError, match=r"row 'larger'(.|\n)*dimension"):
        rows = [ROWS[0], {"name": "larger", "set": ["dimension=0"]}]
        ablate(study(rows=rows), recipes, tiny_market, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_figures_steps_and_verdicts(tiny_market: Market, recipes: Path, tmp_path: Path) -> None:
    table = ablate(study(), recipes, tiny_market, tmp_path, jobs=2)
    small, larger, second, smaller = _relevance(table)
    assert small["mean"] == pytest.approx(0.161)
    assert small["half_width"] == pytest.approx(4.30265 * 0.001 / 3**0.5, abs=1e-7)
    assert small["step"] is None
    assert larger["step"]["value"] == pytest.approx(0.08)
    assert larger["step"]["paper"] == pytest.approx(0.05)
    assert larger["step"]["relative"] is None
    assert [row["step"]["verdict"] for row in (larger, second, smaller)] == ["agrees", "unsure", "disagrees"]
    assert table["rows"][3]["from"] == "small"
    assert table["rows"][2]["set"] == ["stages.1.loss='in_batch_softmax'"]


def test_each_metric_has_its_own_figures_and_verdicts(tiny_market: Market, recipes: Path, tmp_path: Path) -> None:
    """The fake's engagement falls as its relevance rises."""
    table = ablate(study(metrics=BOTH, rows=TWO_METRICS), recipes, tiny_market, tmp_path, jobs=2)
    assert table["n"]["engagement"]["pairs"] == 22_806
    seen = {
        metric: [row["metrics"][metric]["step"] for row in table["rows"] if row["from"]] for metric in table["metrics"]
    }
    assert list(seen) == BOTH
    assert [step["value"] for step in seen[BOTH[0]]] == pytest.approx([-0.08, 0.08])
    assert [step["value"] for step in seen[BOTH[1]]] == pytest.approx([0.08, -0.08])
    assert [step["paper"] for step in seen[BOTH[0]]] == pytest.approx([-0.01, -0.01])
    assert [step["verdict"] for step in seen[BOTH[0]]] == ["agrees", "disagrees"]
    assert [step["verdict"] for step in seen[BOTH[1]]] == ["agrees", "disagrees"]


def test_every_row_is_compared_with_every_other_one(tiny_market: Market, recipes: Path, tmp_path: Path) -> None:
    table = ablate(study(metrics=BOTH, rows=TWO_METRICS), recipes, tiny_market, tmp_path, jobs=2)
    compared = table["differences"]["relevance.roc_auc"]
    for row, result in zip(table["rows"], _relevance(table), strict=True):
        assert set(compared[row["name"]]) == {each["name"] for each in TWO_METRICS} - {row["name"]}
        if row["from"]:
            assert compared[row["name"]][row["from"]]["value"] == result["step"]["value"]
            assert compared[row["name"]][row["from"]]["interval"] == result["step"]["interval"]
    larger = compared["larger"]["smaller"]
    assert larger["value"] == pytest.approx(0.16)
    assert larger["interval"] == pytest.approx([-end for end in compared["smaller"]["larger"]["interval"][::-1]])


def test_relative_steps_notes_and_a_single_seed(tiny_market: Market, recipes: Path, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"name": "plain"},
        {"name": "noted", "set": ["dimension=20"], "paper_note": "not significant"},
        {"name": "relative", "from": "plain", "set": ["dimension=24"], "paper_relative": 0.91},
    ]
    table = ablate(study(rows=rows, seeds=[4]), recipes, tiny_market, tmp_path)
    plain, noted, relative = _relevance(table)
    assert "One seed" in table["method"]
    assert plain["half_width"] is None
    assert noted["step"]["verdict"] is None
    assert noted["step"]["half_width_seeds"] is None
    assert relative["step"]["verdict"] == "agrees"
    assert relative["step"]["relative"] == pytest.approx(100 * 0.08 / 0.164)


def test_a_row_that_starts_from_zero_has_no_relative_step_and_a_paper_step_of_zero_no_sign() -> None:
    rows: list[dict[str, Any]] = [
        {"name": "nothing", "paper": 0.5},
        {"name": "relative", "paper_relative": 2.0},
        {"name": "as before", "from": "nothing", "paper": 0.5},
    ]
    values = np.array([[0.0] * 3, [0.2] * 3, [0.2] * 3])
    measured = MeasuredMetric(values, np.repeat(values[:, :, None], 4, axis=2))
    results = (metric_result(study(rows=rows), number, "relevance.roc_auc", measured, 0.0) for number in (1, 2))
    relative, same = (result.step for result in results)
    assert relative is not None and same is not None
    assert (relative.relative, relative.verdict) == (None, "agrees")
    assert (same.paper, same.verdict) == (0, None)


def test_a_step_is_sure_where_its_interval_leaves_0_and_all_steps_of_the_page_still_let_it() -> None:
    rows: list[dict[str, Any]] = [{"name": "a", "paper": 0.5}, {"name": "b", "paper": 0.6}]
    values_WZ = np.array([[0.0] * 3, [0.2, 0.21, 0.19]])
    rng = np.random.default_rng(0)
    near = MeasuredMetric(values_WZ, values_WZ[:, :, None] + rng.normal(0, 0.001, (2, 3, 50)))
    wide = MeasuredMetric(values_WZ, values_WZ[:, :, None] + rng.normal(0, 1, (2, 3, 50)))
    for measured, p, sure in ((near, 0.04, True), (near, 0.06, False), (wide, 0.04, False)):
        step = metric_result(study(rows=rows), 1, "relevance.roc_auc", measured, p).step
        assert step is not None
        assert (step.p, step.sure, step.verdict) == (p, sure, "agrees" if sure else "unsure")


def test_the_steps_of_all_metrics_are_counted() -> None:
    rng = np.random.default_rng(0)
    given = study(metrics=BOTH, rows=[{"name": "a"}, {"name": "b"}, {"name": "c", "from": "a"}])
    values_WZ = np.array([[0.5, 0.51, 0.49], [0.53, 0.54, 0.53], [0.505, 0.51, 0.5]])
    measured = {
        metric: MeasuredMetric(values_WZ + rng.normal(0, 0.002, (3, 3)), values_WZ[:, :, None] + np.zeros(5))
        for metric in BOTH
    }
    alone = {
        (number, metric): of.compare(number, parent).p(Residual.of(of.values_WZ))
        for metric, of in measured.items()
        for number, parent in ((1, 0), (2, 0))
    }
    found = adjusted_ps(given, measured)
    assert found == dict(zip(alone, holm(list(alone.values())), strict=True))
    assert found[min(alone, key=lambda key: alone[key])] == pytest.approx(4 * min(alone.values()))


def test_the_cores_are_shared_by_the_runs_there_are(
    tiny_market: Market, recipes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    ablate(study(seeds=[0, 1], rows=ROWS[:1]), recipes, tiny_market, tmp_path / "out", jobs=6)
    assert threads(tmp_path / "out") == ["4", "4"]
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    ablate(study(seeds=[2, 3], rows=ROWS[:1]), recipes, tiny_market, tmp_path / "out")
    assert threads(tmp_path / "out")[2:] == ["8", "8"]
