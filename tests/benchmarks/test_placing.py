"""What is measured of a first page, and the table of all options, on the tiny market."""

from __future__ import annotations

import json
import math
import shutil
import sys

import pytest

from mercato.catalogue.indexing import index_market
from mercato.errors import MercatoError
from mercato.ranking.train import rank
from mercato.runs.folder import RECIPE, load_recipe_and_featurizer
from tests.support.scripts import script


@pytest.fixture(scope="module")
def placing():
    with script("placing") as module:
        yield module


@pytest.fixture(scope="module")
def run(tiny_run, tmp_path_factory):
    """One that may be written to, and whose recipe suits so small a log."""
    run = shutil.copytree(tiny_run, tmp_path_factory.mktemp("placing") / "run")
    recipe = load_recipe_and_featurizer(run)[0]
    trees = recipe.ranking.trees.model_copy(update={"least_rows": 5})
    dlrm = recipe.ranking.dlrm.model_copy(update={"epochs": 1})
    ranking = recipe.ranking.model_copy(update={"trees": trees, "dlrm": dlrm, "relevance_bound": 1.0})
    (run / RECIPE).write_text(recipe.model_copy(update={"ranking": ranking}).toml())
    return run


def test_ndcg_is_of_the_judged_in_the_page_s_order(placing):
    grades = {"a": 3.0, "b": 0.0, "c": 1.0, "d": 2.0}
    best = 3 / math.log2(2) + 2 / math.log2(3) + 1 / math.log2(4)
    assert placing.judged_ndcg(["a", "d", "c", "b"], grades) == pytest.approx(1)
    shown = (0 + 3 / math.log2(3) + 1 / math.log2(4)) / best  # what nobody judged is passed over, "d" is missing
    assert placing.judged_ndcg(["x", "b", "y", "a", "c"], grades) == pytest.approx(shown)
    assert placing.judged_ndcg(["d", "a"], grades, k=1) == pytest.approx(2 / 3)
    assert placing.judged_ndcg([], grades) == 0
    assert math.isnan(placing.judged_ndcg(["a"], {})) and math.isnan(placing.judged_ndcg(["b"], {"b": 0.0}))


def test_the_share_of_the_engaged(placing):
    assert placing.engaged_share(["a", "x"], {"a": 1.0, "b": 1.0}) == 0.5
    assert math.isnan(placing.engaged_share(["a"], {}))


def test_a_table_of_what_each_option_costs(placing, run, tiny_market, tmp_path, monkeypatch, capsys):
    url = str(tmp_path / "index")
    index_market(run, tiny_market, url)
    arguments = ["placing.py", "--market", str(tiny_market.path), "--runs", str(run), "--indexes", url]
    monkeypatch.setattr(sys, "argv", [*arguments, "--out", str(tmp_path / "out")])
    with pytest.raises(MercatoError, match="has no ranker"):
        placing.main()
    rank(run, tiny_market, url)
    placing.main()
    result = json.loads((tmp_path / "out" / "placing.json").read_text())
    rows = result["rows"]
    assert [*rows] == [*placing.OPTIONS] and "ahead" not in rows["neither"]["engaged"]
    assert rows["neither"]["drawn"]["value"] == 0 < rows["25 % to new listings"]["drawn"]["value"]
    ahead = [rows[name]["sellers"]["ahead"] for name in ("2 of a seller", "1 of a seller")]
    assert 0 < ahead[0] <= ahead[1]  # a country of so small a market has fewer sellers than a page has places
    for row in rows.values():
        assert 0 < row["engaged"]["value"] < 1 and 0 < row["ndcg@10"]["value"] < 1
    assert result["milliseconds"].keys() == {"100", "300"}
    assert (tmp_path / "out" / "placing.md").read_text() in capsys.readouterr().out
