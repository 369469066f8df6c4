from __future__ import annotations

from pathlib import Path

import pytest

from mercato.config import Recipe
from mercato.errors import MercatoError
from mercato.experiments.ablation.study import axes, load_study
from tests.support.studies import study

ROOT = Path(__file__).parents[3]
SHIPPED = sorted((ROOT / "recipes" / "studies").glob("*.toml"))
GOOD = 'name = "s"\ntitle = "S"\nrecipe = "que2search"\nmetrics = ["relevance.roc_auc"]\n'
ROW = '[[rows]]\nname = "first"\n'

WRONG = {
    GOOD: "rows: Field required",
    GOOD + "rows = []": "rows: ",
    GOOD + "sedes = [1]\n" + ROW: "sedes: Extra inputs",
    GOOD + "seeds = [1, 1]\n" + ROW: "seeds: .*different numbers",
    GOOD + "seeds = []\n" + ROW: "seeds: ",
    GOOD.replace("relevance.roc_auc", "roc_auc") + ROW: "metrics: .*'roc_auc' must be PART.METRIC.*relevance",
    GOOD.replace("roc_auc", 'roc_auc", "relevance.roc_auc') + ROW: "metrics: .*different ones",
    GOOD.replace('"relevance.roc_auc"', "") + ROW: "metrics: ",
    GOOD + "curve = true\n" + ROW: "curve: all metrics are of one part",
    GOOD.replace('"s"', '"../s"') + ROW: "name: .*pattern",
    GOOD + ROW + 'paper = "much"': "rows.0.paper: ",
    GOOD + ROW + 'paper = ["much"]': "rows.0.paper.relevance.roc_auc: .*number",
    GOOD + ROW + 'paper = { "relevance.auc" = 0.8 }': "rows.0.paper: relevance.auc is none of relevance.roc_auc",
    GOOD + ROW + "paper = [0.8, 0.7]": "rows.0.paper: must be a figure for each of relevance.roc_auc",
    GOOD.replace("roc_auc", 'roc_auc", "relevance.ndcg@10') + ROW + "paper = 0.8": "rows.0.paper: must be a figure for",
    GOOD.replace("roc_auc", 'roc_auc", "knn.recall@10') + ROW + "paper_relative = [1]": "rows.0.paper_relative: must",
    GOOD + ROW + "paper = 0.8\npaper_relative = 1.0": "rows.0: .*give one of them",
    GOOD + ROW + "set = 'seed=1'": "rows.0.set: ",
    GOOD + ROW + ROW: "rows.1.name: 'first' is taken",
    GOOD + ROW + 'from = "second"\n[[rows]]\nname = "second"': "rows.0.from: 'second' is neither an earlier row",
    "name = ": "not valid TOML",
}


@pytest.mark.parametrize("text", WRONG, ids=WRONG.values())
def test_an_error_names_the_field(text: str, tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    file.write_text(text)
    with pytest.raises(MercatoError, match=WRONG[text]) as raised:
        load_study(file)
    assert str(file) in str(raised.value)


def test_a_study_that_is_nowhere_says_which_there_are() -> None:
    with pytest.raises(MercatoError, match=r"no study nowhere: .*que2search-table4"):
        load_study("nowhere")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_study_is_valid_by_path_and_by_name(path: Path) -> None:
    read, folder = load_study(path)
    assert (read, folder) == load_study(path.stem)
    assert read.name == path.stem
    assert len(read.seeds) >= 3
    recipes = read.recipes(folder)
    assert len({recipe.toml() for recipe in recipes}) == len(read.rows)  # no row measures what another one does
    assert len({tuple(recipe.monitored) for recipe in recipes}) == 1  # nor stops early by what another one does not


def test_a_row_starts_from_the_row_above_or_from_the_one_it_names() -> None:
    rows = [
        {"name": "a", "set": ["dimension=8"]},
        {"name": "b", "set": ["seed=1"]},
        {"name": "c", "from": "a", "set": ["seed=2"]},
        {"name": "d", "from": "base", "set": ["seed=3"]},
        {"name": "e"},
    ]
    read = study(rows=rows, set=["dropout=0.5"])
    assert read.parents == (None, 0, 0, None, 3)
    assert [read.origin(number) for number in range(5)] == [
        ("tiny.toml", ("dropout=0.5", "dimension=8")),
        ("tiny.toml", ("dropout=0.5", "dimension=8", "seed=1")),
        ("tiny.toml", ("dropout=0.5", "dimension=8", "seed=2")),
        ("tiny.toml", ("dropout=0.5", "seed=3")),
        ("tiny.toml", ("dropout=0.5", "seed=3")),
    ]


def test_a_row_of_another_recipe_is_compared_with_a_row_and_takes_nothing_from_it(recipes: Path) -> None:
    (recipes / "other.toml").write_text('name = "other"\ndimension = 40\n')
    rows = [
        {"name": "a", "set": ["typos=0.5"]},
        {"name": "b", "recipe": "other.toml", "set": ["seed=1"]},
        {"name": "c", "set": ["seed=2"]},
        {"name": "d", "recipe": "other.toml", "from": "base"},
        {"name": "e", "from": "a"},
    ]
    read = study(rows=rows, set=["dropout=0.5"])
    assert read.parents == (None, 0, 1, None, 0)
    resolved = read.recipes(recipes)
    assert [(recipe.name, recipe.dimension) for recipe in resolved] == [
        ("tiny", 16), ("other", 40), ("other", 40), ("other", 40), ("tiny", 16),
    ]  # fmt: skip
    assert [recipe.typos for recipe in resolved] == [0.5, 0, 0, 0, 0.5]
    assert [recipe.seed for recipe in resolved] == [0, 1, 2, 0, 0]
    assert {recipe.dropout for recipe in resolved} == {0.5}


def test_a_change_that_does_not_fit_names_row_and_field(recipes: Path) -> None:
    read = study(rows=[{"name": "fine"}, {"name": "broken", "set": ["dimension=none"]}])
    with pytest.raises(MercatoError, match=r"row 'broken'(.|\n)*dimension: "):
        read.recipes(recipes)


def test_changes_append_a_stage_and_take_a_field_back() -> None:
    text = 'name = "x"\ndropout = 0.5\n[[stages]]\nepochs = 3\n'
    recipe = Recipe.parse(text, changes=["stages.1.epochs=4", "stages.1.clip=2.0", "stages.2={epochs=5}", "dropout="])
    assert [(stage.epochs, stage.clip) for stage in recipe.stages] == [(3, 1.0), (4, 2.0), (5, 1.0)]
    assert recipe.dropout == Recipe(name="x").dropout
    with pytest.raises(MercatoError, match=r"no place stages\.2\.epochs"):
        Recipe.parse(text, changes=["stages.2.epochs=4"])


def test_the_papers_figures_are_of_metrics_by_name_or_by_place() -> None:
    metrics = ["engagement.roc_auc", "relevance.ndcg@10", "relevance.roc_auc"]
    rows = [
        {"name": "by place", "paper": [0.5, 0.6, 0.7]},
        {"name": "by name", "paper": {"relevance.roc_auc": 0.8, "engagement.roc_auc": 0.9}},
        {"name": "relative", "paper_relative": {"relevance.roc_auc": 0.91}},
        {"name": "none"},
    ]
    placed, named, relative, none = study(metrics=metrics, rows=rows).rows
    assert placed.paper == dict(zip(metrics, [0.5, 0.6, 0.7], strict=True))
    assert named.paper == {"relevance.roc_auc": 0.8, "engagement.roc_auc": 0.9}
    assert relative.paper_relative == {"relevance.roc_auc": 0.91}
    assert (named.paper_relative, relative.paper, none.paper) == (None, None, None)
    assert study(rows=[{"name": "a number", "paper": 0.5}]).rows[0].paper == {"relevance.roc_auc": 0.5}


def test_the_axes_are_the_first_metrics_of_the_first_part_and_of_the_last() -> None:
    assert axes(["knn.recall@10", "lists.ndcg_ips", "relevance.ndcg@10", "relevance.roc_auc"]) == (
        "knn.recall@10",
        "relevance.ndcg@10",
    )
    assert axes(["relevance.ndcg@10", "relevance.roc_auc"]) == ("relevance.ndcg@10",)
