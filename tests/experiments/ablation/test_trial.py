"""Trials of real runs."""

from __future__ import annotations

import json
import shutil
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from mercato import __version__
from mercato.cli import app
from mercato.config import Recipe
from mercato.data.market import Market
from mercato.errors import MercatoError
from mercato.evaluation.evaluate import evaluate
from mercato.experiments.ablation import trial
from mercato.experiments.ablation.jobs import is_measured
from mercato.experiments.ablation.measures import MEASURES, REPLICATES, Measures, Training
from mercato.runs.torch_encoder import TorchEncoder
from tests.support.studies import study

TOWERS = ("query_tower.onnx", "product_tower.onnx")


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


def test_a_trained_run_is_only_measured_and_then_made_small(
    run: Path, tiny_market: Market, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "train", None)  # calling it would fail
    expected = evaluate(TorchEncoder.load(run), tiny_market).as_dict()
    trial.run_trial(tiny_recipe, tiny_market, run, keep=True)
    written = (run / MEASURES).stat().st_mtime_ns
    for tower in TOWERS:
        (run / tower).unlink()  # as a run that was not to be kept is trained
    assert not is_measured(run, keep=True)
    trial.run_trial(tiny_recipe, tiny_market, run, keep=True)
    assert is_measured(run, keep=True)
    assert all((run / tower).is_file() for tower in TOWERS)
    assert (run / MEASURES).stat().st_mtime_ns == written

    first = Measures.read(run)
    (run / MEASURES).unlink()  # to measure anew: nothing is trained
    trial.run_trial(tiny_recipe, tiny_market, run, keep=True)
    assert Measures.read(run) == first
    assert all((run / tower).is_file() for tower in TOWERS)

    dropped, unlink = list[str](), Path.unlink
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda path, **given: (dropped.append(path.name), unlink(path, **given)))
        trial.run_trial(tiny_recipe, tiny_market, run, keep=False)
    assert next(name for name in dropped if not name.endswith(".lock")) == "model.safetensors"
    assert {path.name for path in run.iterdir()} <= trial.KEPT

    measures = json.loads((run / MEASURES).read_text())
    for part, figures in measures["figures"].items():
        assert figures == pytest.approx(expected[part], abs=1e-6)
        assert measures["n"][part] == expected["n"][part]
    with np.load(run / REPLICATES) as replicates:
        low, high = np.nanpercentile(replicates["relevance.roc_auc"], [2.5, 97.5])
    assert [low, high] == pytest.approx(expected["intervals"]["relevance"]["roc_auc"], abs=1e-6)
    assert measures["mercato"] == __version__
    assert date.fromisoformat(measures["measured"])
    training = measures["training"]
    assert training["epochs"] == 3
    assert training["validation_roc_auc"] == max(row["roc_auc"] for row in training["curve"])
    assert [row["epoch"] for row in training["curve"]] == [0, 1, 2, 3]


def test_a_run_that_logged_no_epoch_has_no_curve(tmp_path: Path) -> None:
    assert trial.training_of(tmp_path) == Training(seconds=0, epochs=0, validation_roc_auc=None, curve=[])


def test_measures_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(MercatoError, match=r"measures\.json cannot be read"):
        Measures.read(tmp_path)
    (tmp_path / MEASURES).write_text('{"figures": {}}')
    with pytest.raises(MercatoError, match=r"measures\.json cannot be read"):
        Measures.read(tmp_path)


def test_a_study_end_to_end(tiny_market: Market, tiny_recipe: Recipe, tmp_path: Path) -> None:
    """Through the command line, real processes, a real if tiny training."""
    (tmp_path / "tiny.toml").write_text(tiny_recipe.toml())
    changes = ['query_tower.channels=["trigrams"]', 'product_tower.channels=["title_trigrams"]', "stages.0.epochs=1"]
    changes = [change.replace('"', "'") for change in changes]
    (tmp_path / "study.toml").write_text(
        'name = "tiny"\ntitle = "Tiny"\nrecipe = "tiny.toml"\nmetrics = ["knn.recall@10"]\nseeds = [5]\n'
        f'[[rows]]\nname = "trigrams"\nset = {json.dumps(changes)}\n'
    )
    arguments = [str(tmp_path / "study.toml"), "--market", str(tiny_market.path), "--out", str(tmp_path / "out")]
    said = CliRunner().invoke(app, ["-q", "ablate", *arguments, "--json"])
    assert said.exit_code == 0, said.output
    table = json.loads(said.stdout)
    row = table["rows"][0]
    run = tmp_path / "out" / "runs" / row["runs"][0]
    trained = Recipe.parse((run / "recipe.toml").read_text())
    assert (trained.seed, trained.query_tower.channels) == (5, ("trigrams",))
    assert 0 < row["metrics"]["knn.recall@10"]["mean"] <= 1
    assert row["training"]["epochs"] == 1
    shown = CliRunner().invoke(app, ["-q", "ablate", *arguments])
    assert shown.exit_code == 0
    assert "trigrams" in shown.stdout
    assert study(name="tiny").name in {path.stem for path in (tmp_path / "out").glob("*.html")}
