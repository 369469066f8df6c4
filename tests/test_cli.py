"""The command line as a user and as a program meet it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mercato.cli import app, main
from mercato.retrieval.open import generations

runner = CliRunner()


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "mercato.cli", *map(str, arguments)], capture_output=True, text=True)


def the_json(stdout: str) -> dict:
    found = json.loads(stdout)  # exactly one object, and nothing beside it
    assert isinstance(found, dict)
    return found


def test_check_exits_with_1_and_names_table_row_and_column(tmp_path: Path) -> None:
    catalogue = tmp_path / "catalogue.csv"
    catalogue.write_text("product_id,title,price\na,Red sofa,12\nb,,3\n")
    market = tmp_path / "market"
    assert run("import", market, "--products", catalogue).returncode == 0
    assert run("check", market).returncode == 0
    (market / "judgments.parquet").write_bytes(b"not parquet")
    done = run("check", market, "--json")
    assert done.returncode == 1
    report = the_json(done.stdout)
    assert report["errors"] == 1
    assert report["problems"][0]["table"] == "judgments"


def test_a_mendable_error_is_one_message_without_a_traceback(tmp_path: Path) -> None:
    done = run("train", "no-such-recipe", "--market", tmp_path, "--out", tmp_path / "run")
    assert done.returncode == 1
    assert "no recipe no-such-recipe" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("verb", ["mine", "check"])
def test_a_folder_that_is_no_market_is_said_to_be_none(verb: str, tmp_path: Path) -> None:
    done = run(verb, tmp_path)
    assert done.returncode == 1
    assert "market.toml" in done.stderr + done.stdout


def test_a_changed_field_is_checked_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    arguments = ["mercato", "train", "que2search", "--market", str(tmp_path), "--out", str(tmp_path / "run")]
    monkeypatch.setattr(sys, "argv", [*arguments, "--set", "stages.0.epochs=none"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    assert "stages.0.epochs" in capsys.readouterr().err


def test_a_backfill_swaps_and_a_swap_swaps_back(tiny_run: Path, tiny_market, tmp_path: Path) -> None:
    market, index = shutil.copytree(tiny_market.path, tmp_path / "market"), tmp_path / "index"

    def asked(*arguments: str | Path) -> dict:
        done = runner.invoke(app, [*map(str, arguments), "--index", str(index), "--json"])
        assert done.exit_code == 0, done.output
        return the_json(done.stdout)

    runner.invoke(app, ["index", str(tiny_run), "--market", str(market), "--to", str(index)])
    first = generations(index).served
    made = asked("backfill", tiny_run, "--market", market)
    assert made["count"] == 300 and made["fingerprint"] != first
    assert asked("swap") == {"served": first, "standby": made["fingerprint"]}
    assert asked("swap") == {"served": made["fingerprint"], "standby": first}
    assert asked("drop-standby") == {"served": made["fingerprint"], "standby": None}
    assert "has no standby" in " ".join(run("swap", "--index", index).stderr.split())


def test_the_demo_touches_nothing_that_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    result = runner.invoke(app, ["demo", str(tmp_path), "--no-serve"])
    assert result.exit_code != 0
    assert "other things than a demo" in str(result.exception)
    assert (tmp_path / ".git").is_dir()


def test_evaluate_and_export_print_one_json_object(tiny_run: Path, tiny_market, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "run"
    shutil.copytree(tiny_run, copy)
    measured = run("--quiet", "evaluate", copy, "--market", tiny_market.path, "--json")
    assert measured.returncode == 0, measured.stderr
    metrics = the_json(measured.stdout)
    assert {"relevance", "knn", "baselines", "n", "intervals"} <= set(metrics)
    assert 0 <= metrics["relevance"]["roc_auc"] <= 1
    assert json.loads((copy / "metrics.json").read_text()) == metrics
    assert "<svg" in (copy / "report.html").read_text()
    exported = the_json(run("export", copy, "--json").stdout)
    assert exported["differences"]["query"] < 1e-4
    assert exported["query_latency"]["p99_ms"] > 0
