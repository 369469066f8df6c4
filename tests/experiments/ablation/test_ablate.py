"""The whole verb: which runs are done, what survives a failure or a kill, and that the three tables say the same."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from rich.console import Console
from typer.testing import CliRunner

from mercato.cli import app
from mercato.data.market import Market
from mercato.errors import MercatoError
from mercato.experiments.ablation import jobs as runs
from mercato.experiments.ablation.ablate import ablate
from mercato.experiments.ablation.table import Measured, _step
from mercato.reports.study_page import page as html_page
from mercato.reports.study_text import cells, columns, figure, signed, terminal, training_cost
from tests.support.studies import ROWS, calls, study

pytestmark = pytest.mark.usefixtures("fake_worker")

BOTH = ["engagement.roc_auc", "relevance.roc_auc"]
TWO_METRICS: list[dict[str, Any]] = [
    {"name": "small", "paper": [0.56, 0.67]},
    {"name": "larger", "set": ["dimension=24"], "paper": [0.55, 0.68]},
    {"name": "smaller", "from": "small", "set": ["dimension=8"], "paper": [0.55, 0.68]},
]


def _relevance(table: dict[str, Any]) -> list[dict[str, Any]]:
    return [row["metrics"]["relevance.roc_auc"] for row in table["rows"]]


def _texts(page: str) -> list[list[str]]:
    """The cells of a page's first table, without its two lines of headers."""
    lines = page[page.index("<table") : page.index("</table>")].split("<tr>")[3:]
    return [[unescape(re.sub("<.*?>", "", cell)) for cell in re.findall(r"<td.*?</td>", line)] for line in lines]


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
    assert {"toy-table.json", "toy-table.md", "toy-table.html", "other.html"} <= {path.name for path in out.iterdir()}
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
    assert not (tmp_path / "out" / "toy-table.json").exists()
    ablate(study(seeds=[0, 1], rows=[rows[0], rows[2]]), recipes, tiny_market, tmp_path / "out")
    assert len(calls(tmp_path / "out")) == 6


def test_a_worker_that_cannot_even_start_is_told(
    tiny_market: Market, recipes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mercato.experiments.ablation.jobs.WORKER", [sys.executable, "-c", "import nowhere"])
    with pytest.raises(MercatoError, match=r"row 'small', seed 0: (.|\n)*No module named 'nowhere'"):
        ablate(study(seeds=[0], rows=ROWS[:1]), recipes, tiny_market, tmp_path / "out")


def test_a_killed_study_picks_up(
    tiny_market: Market, recipes: Path, tmp_path: Path, fake_worker: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    (tmp_path / "study.toml").write_text(
        'name = "killed"\ntitle = "Killed"\nrecipe = "tiny.toml"\nmetrics = ["relevance.roc_auc"]\n'
        'seeds = [0, 1, 2, 3]\n[[rows]]\nname = "a"\n[[rows]]\nname = "b"\nset = ["dimension=8"]\n'
    )
    arguments = ["ablate", str(tmp_path / "study.toml"), "--market", str(tiny_market.path), "--out", str(out)]
    code = f"from mercato.experiments.ablation import jobs; jobs.WORKER = {fake_worker!r}\n"
    code += "from mercato.cli import app; app()"
    monkeypatch.setenv("FAKE_SECONDS", "0.3")
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments, "--jobs", "1"], stderr=subprocess.DEVNULL, start_new_session=True
    )
    until = time.monotonic() + 120
    while len(list(out.glob("runs/*/measures.json"))) < 3 and time.monotonic() < until:
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)  # the worker too
    process.wait()
    done = {path.parent.name for path in out.glob("runs/*/measures.json")}
    assert 3 <= len(done) < 8
    assert not (out / "killed.json").exists()
    monkeypatch.delenv("FAKE_SECONDS")
    told = CliRunner().invoke(app, ["-q", *arguments, "--json"])
    assert told.exit_code == 0, told.output
    assert len(set(calls(out))) == 8
    assert all(calls(out).count(run) == 1 for run in done)


def test_what_cannot_be_measured_is_said_before_anything_is_trained(
    tiny_market: Market, recipes: Path, tmp_path: Path
) -> None:
    with pytest.raises(MercatoError, match="metrics: relevance has no auc; it has roc_auc"):
        ablate(study(metrics=[BOTH[0], "relevance.auc"], rows=TWO_METRICS), recipes, tiny_market, tmp_path / "out")
    one_class = Market.open(shutil.copytree(tiny_market.path, tmp_path / "one class"))
    judged, file = one_class.frame("judgments"), one_class.path / "judgments.parquet"
    file.unlink()
    judged.with_columns(pl.col("grade") * 0).write_parquet(file)
    with pytest.raises(MercatoError, match=r"metrics: relevance.roc_auc is undefined .* defined there: nothing"):
        ablate(study(), recipes, one_class, tmp_path / "out")
    for table in ("judgments", "pairs"):
        (one_class.path / f"{table}.parquet").unlink()
    with pytest.raises(MercatoError, match="it has no test judgments, no engaged pairs"):
        ablate(study(), recipes, one_class, tmp_path / "out")
    with pytest.raises(MercatoError, match=r"row 'larger'(.|\n)*dimension"):
        rows = [ROWS[0], {"name": "larger", "set": ["dimension=0"]}]
        ablate(study(rows=rows), recipes, tiny_market, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("fields", [{}, {"metrics": BOTH, "rows": TWO_METRICS}], ids=["one metric", "two"])
def test_json_markdown_and_html_agree(
    fields: dict[str, Any], tiny_market: Market, recipes: Path, tmp_path: Path
) -> None:
    table = ablate(study(**fields), recipes, tiny_market, tmp_path, jobs=2)
    assert json.loads((tmp_path / "toy-table.json").read_text()) == table
    text, page = ((tmp_path / f"toy-table.{kind}").read_text() for kind in ("md", "html"))
    marked = [line for line in text.splitlines() if line.startswith("| ")]
    in_markdown = [[cell.strip() for cell in line[1:-1].split(" | ")] for line in marked]
    expected = [
        [row["name"], *(cell for group in cells(row, table) for cell in group), training_cost(row)]
        for row in table["rows"]
    ]
    assert {len(line) for line in in_markdown + expected} == {2 + 5 * len(table["metrics"])}
    assert in_markdown[2:] == expected
    assert _texts(page) == expected
    for shown in (page, text):
        assert "of another market" in shown
        assert "Measured by Mercato 0.0.1, 2026-05-01 to 2026-05-03" in shown
        assert all(metric in shown for metric in table["metrics"])
    assert "http" not in re.sub(r"http://www.w3.org\S+", "", page)  # nothing from elsewhere


def test_a_line_a_seed_and_stage_is_drawn(tiny_market: Market, recipes: Path, tmp_path: Path) -> None:
    table = ablate(study(), recipes, tiny_market, tmp_path, jobs=2)
    page = html_page(table)
    assert page.count("<polyline") == 3 * (3 * 1 + 2)
    for row in table["rows"][:1]:
        row["curves"] = [[] for _ in row["curves"]]  # no epoch was logged
    assert html_page(table).count("<polyline") < page.count("<polyline")


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
    assert [figure(0.7456), figure(1.0), signed(-0.00214), signed(0.5)] == [".7456", "1.0000", "−.0021", "+.5000"]


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
    assert "All against" not in html_page(table)  # these rows all start from the first
    chained = ablate(study(), recipes, tiny_market, tmp_path)
    assert "All against small" in html_page(chained)


def test_two_metrics_are_plotted_against_each_other(tiny_market: Market, recipes: Path, tmp_path: Path) -> None:
    two = {"metrics": BOTH, "rows": TWO_METRICS}
    table = ablate(study(**two), recipes, tiny_market, tmp_path, jobs=2)
    chart = _tradeoff_of(html_page(table))
    assert chart.count("<circle") == 3
    assert chart.count('class="whisker') == 2 * 3
    assert "<polyline" not in chart
    assert all(f">{row['name']}</text>" in chart for row in TWO_METRICS)
    places = [tuple(map(float, found)) for found in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', chart)]
    assert sorted(places) == sorted(places, key=lambda place: place[1])  # more relevance, less engagement: downwards
    joined = ablate(study(**two, curve=True), recipes, tiny_market, tmp_path)
    assert _tradeoff_of(html_page(joined)).count("<polyline") == 1
    single = ablate(study(**two, seeds=[7]), recipes, tiny_market, tmp_path)
    assert "whisker" not in _tradeoff_of(html_page(single))
    assert _tradeoff_of(html_page(ablate(study(), recipes, tiny_market, tmp_path))) == ""


def _tradeoff_of(page: str) -> str:
    found = re.search(r'<svg [^>]*class="tradeoff">.*?</svg>', page)
    return found.group() if found else ""


def test_without_a_paper_nothing_of_it_is_shown(tiny_market: Market, recipes: Path, tmp_path: Path) -> None:
    rows = [{"name": row["name"], "set": row.get("set", [])} for row in TWO_METRICS]
    table = ablate(study(metrics=BOTH, rows=rows), recipes, tiny_market, tmp_path, jobs=2)
    assert columns(table) == ("mean", "step [95 %]")
    for kind in ("md", "html"):
        assert "paper" not in re.sub("<style>.*</style>", "", (tmp_path / f"toy-table.{kind}").read_text(), flags=re.S)


def test_two_metrics_fit_on_a_terminal(tiny_market: Market, recipes: Path, tmp_path: Path) -> None:
    table = ablate(study(metrics=BOTH, rows=TWO_METRICS), recipes, tiny_market, tmp_path, jobs=2)
    console = Console(width=100)
    with console.capture() as capture:
        console.print(terminal(table))
    told = capture.get()
    assert "…" not in told
    for row in table["rows"]:
        for group in cells(row, table):
            assert all(
                half in told for cell in group for half in cell.replace(" [", "\n[").replace(" ±", "\n±").split("\n")
            )


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
    text = (tmp_path / "toy-table.md").read_text()
    assert "+0.91 %" in text
    assert "not significant" in text
    assert "+.0800 (+48.8 %)" in text


def test_a_row_that_starts_from_zero_has_no_relative_step_and_a_paper_step_of_zero_no_sign() -> None:
    rows: list[dict[str, Any]] = [
        {"name": "nothing", "paper": 0.5},
        {"name": "relative", "paper_relative": 2.0},
        {"name": "as before", "from": "nothing", "paper": 0.5},
    ]
    values = np.array([[0.0] * 3, [0.2] * 3, [0.2] * 3])
    measured = Measured(values, np.repeat(values[:, :, None], 4, axis=2))
    relative, same = (_step(study(rows=rows), number, 0, "relevance.roc_auc", measured) for number in (1, 2))
    assert (relative["relative"], relative["verdict"]) == (None, "agrees")
    assert (same["paper"], same["verdict"]) == (0, None)


def test_the_cores_are_shared_by_the_runs_there_are(
    tiny_market: Market, recipes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, given = runs._start, list[int]()

    def recording(job: runs.Job, market: Market, threads: int, keep: bool) -> subprocess.Popen[bytes]:
        given.append(threads)
        return start(job, market, threads, keep)

    monkeypatch.setattr(runs, "_start", recording)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    ablate(study(seeds=[0, 1], rows=ROWS[:1]), recipes, tiny_market, tmp_path / "out", jobs=6)
    assert given == [4, 4]
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    ablate(study(seeds=[2, 3], rows=ROWS[:1]), recipes, tiny_market, tmp_path / "out")
    assert given[2:] == [8, 8]
