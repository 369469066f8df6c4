"""The ladder on the tiny market, with one small run in the place of all three models."""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pytest

from mercato.errors import MercatoError
from mercato.evaluation.metrics.bootstrap import Estimate
from mercato.experiments.ablation.statistics import difference
from mercato.experiments.page_figures import COUNTS, MEASURES
from mercato.runs.folder import RECIPE, load_recipe_and_featurizer
from tests.support.scripts import script


@pytest.fixture(scope="module")
def ladder():
    with script("ladder") as module:
        yield module


def copied(run, folder, **recipe):
    """A copy of a run, whose recipe suits so small a log."""
    run = shutil.copytree(run, folder)
    whole = load_recipe_and_featurizer(run)[0]
    trees = whole.ranking.trees.model_copy(update={"least_rows": 5, "trees": 20})
    dlrm = whole.ranking.dlrm.model_copy(update={"epochs": 1, "best": 20, "folds": 2})
    ranking = whole.ranking.model_copy(update={"trees": trees, "dlrm": dlrm})
    (run / RECIPE).write_text(whole.model_copy(update={"ranking": ranking, **recipe}).toml())
    return run


def test_every_rung_is_measured_and_compared_and_nothing_is_searched_for_twice(
    ladder, tiny_market, tiny_run, tmp_path, monkeypatch, capsys
):
    run = copied(tiny_run, tmp_path / "run")
    out = tmp_path / "out"
    arguments = [str(value) for model in ("trigrams", "que2search", "que2engage") for value in (f"--{model}", run)]
    monkeypatch.setattr(sys, "argv", ["ladder.py", "--market", str(tiny_market.path), *arguments, "--out", str(out)])
    ladder.main()
    rows = {file.stem[3:]: json.loads(file.read_text()) for file in sorted(out.glob("*.json"))}
    assert [*rows] == [*ladder.RUNGS]
    assert all([*row["figures"]] == [*MEASURES] and [*row["counts"]] == [*COUNTS] for row in rows.values())
    values = {name: {key: own["value"] for key, own in row["figures"].items()} for name, row in rows.items()}
    for name, row in rows.items():
        for measure, own in row["differences"].items():
            assert own["value"] == pytest.approx(values[name][measure] - values[row["above"]][measure])
            assert own["interval"][0] <= own["value"] <= own["interval"][1] and 0 <= own["p"] <= 1
    assert values["trigrams"] == values["que2search"] and values["cosine"] == values["que2engage"], (
        "one run, one ranker"
    )
    assert values["que2search"] != values["cosine"] != values["control-cosine-alone"]
    assert rows["words"]["counts"]["by vector"] == rows["control-bm25"]["counts"]["by vector"] == 0
    assert rows["trigrams"]["counts"]["by vector"] > 0
    assert values["words"] != values["control-bm25"], "words alone are ranked"
    assert (out / "ladder.md").read_text() in capsys.readouterr().out

    monkeypatch.setattr(ladder, "first_pages", None)
    ladder.main()
    assert json.loads((out / "01-words.json").read_text())["figures"] == rows["words"]["figures"]


def test_rungs_are_compared_seed_by_seed(ladder, tiny_run, tmp_path):
    first, second = (copied(tiny_run, tmp_path / str(seed), seed=seed) for seed in (3, 4))
    assert ladder.seeds_of({"trigrams": [first, second], "que2search": [first, second]}) == [3, 4]
    with pytest.raises(MercatoError, match=r"--que2search have the seeds \[4, 3\], those of --trigrams \[3, 4\]"):
        ladder.seeds_of({"trigrams": [first, second], "que2search": [second, first]})


def test_pages_made_of_something_else_are_made_again(ladder, tmp_path):
    pages = ladder.FirstPages(np.array([[1, -1]]), np.array([[True, False]]), np.array(["trees"]))
    ladder.Kept(tmp_path / "pages.npz", "this").keep(pages)
    again = ladder.Kept(tmp_path / "pages.npz", "this").pages
    assert all((vars(again)[name] == value).all() for name, value in vars(pages).items())
    assert ladder.Kept(tmp_path / "pages.npz", "that").pages is None
    assert ladder.Kept(tmp_path / "none.npz", "this").pages is None


def test_differences_are_paired_by_seed_and_query(ladder):
    draw = np.random.default_rng(0)
    rungs = {name: ladder.RUNGS[name] for name in ("words", "trigrams", "que2search", "control-bm25")}
    found = {
        name: [{"engaged": Estimate(at + 0.01 * z, at + 0.01 * z + draw.normal(0, 0.1, 50))} for z in range(2)]
        for at, name in enumerate(rungs)
    }
    rows = ladder.compare(rungs, found)
    ours, theirs = ([each["engaged"] for each in found[name]] for name in ("trigrams", "words"))
    step = difference(
        *(np.array([each.value for each in own]) for own in (ours, theirs)),
        *(np.stack([each.replicates_R for each in own]) for own in (ours, theirs)),
    )
    assert rows["trigrams"]["differences"]["engaged"]["value"] == step.value == pytest.approx(1)
    assert rows["trigrams"]["differences"]["engaged"]["interval"] == step.interval
    assert rows["words"]["differences"] == {}
    assert rows["trigrams"]["figures"]["engaged"]["seeds"] == [1, 1.01]
    assert rows["trigrams"]["differences"]["engaged"]["p"] < 0.05
