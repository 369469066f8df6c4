"""`mercato explain`: what is said of a run, and its page and JSON."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mercato.cli import app
from mercato.data.market import Market
from mercato.evaluation.importance import Ablation
from mercato.evaluation.interpretation import Explanation, ExplanationCounts, TowerImportance
from mercato.models.build import build_towers, text_configs
from mercato.reports.explanation import explain
from mercato.reports.explanation_page import write_explain_report
from mercato.runs.torch_encoder import TorchEncoder
from tests.support.html import Balanced


def lead(path: Path, **fields: tuple[float, tuple[float, float]]) -> str:
    """What the page begins with where the product's fields leave this ROC AUC, and change it within this interval."""
    other = Ablation(change=0.1, share=0.5, roc_auc=0.8, roc_auc_change=0.0, interval=(0.0, 0.0))
    channels = {
        name: {"missing": Ablation(0.1, 0.5, auc, auc - 0.8, span), "other": other}
        for name, (auc, span) in fields.items()
    }
    counts = ExplanationCounts(pairs="relevance", count=9, queries=3, all_queries=3, products=9, seed=0)
    importance = TowerImportance(channels=channels)
    write_explain_report(
        Explanation(
            recipe="one",
            fusion={"query": "concat", "product": "concat"},
            market="a market",
            n=counts,
            roc_auc=0.8,
            attention={"query": None, "product": None},
            importance={"query": importance, "product": importance},
            paper={"attention": {"query": {}, "product": {}}, "importance": {"query": {}, "product": {}}},
        ),
        path,
    )
    (found,) = re.findall('<p class="lead">(.*?)</p>', path.read_text())
    return found


def test_only_what_surely_costs_order_is_said_to_matter(tmp_path):
    page = tmp_path / "explain.html"
    said = lead(page, images=(0.7, (-0.2, 0.01)), title=(0.75, (-0.06, -0.04)), country=(0.79, (-0.02, -0.001)))
    assert "<b>title</b> matters most" in said and "without country" in said and "images" not in said
    assert "no field" in lead(page, images=(0.7, (-0.2, 0.01)))


@pytest.fixture(scope="module")
def explained(tiny_run: Path, tiny_market: Market, tmp_path_factory) -> tuple[Path, Explanation]:
    run = shutil.copytree(tiny_run, tmp_path_factory.mktemp("explained") / "run")
    return run, explain(run, tiny_market)


def test_the_report_is_one_file_with_charts_and_the_papers_figures(explained):
    run, explanation = explained
    assert json.loads((run / "explain.json").read_text()) == explanation.as_dict()
    page = (run / "explain.html").read_text()
    parsed = Balanced()
    parsed.feed(page)
    text = " ".join(parsed.text)
    assert parsed.open == [] and not parsed.links
    assert not re.search(r"https?://|@import|<script", page)
    for expected in ("Attention", "By the length of the query", "images", "description trigrams", "By field", "55%"):
        assert expected in text, expected


def test_a_fusion_without_weights_says_so(tiny_run, tiny_market, tmp_path, tiny_recipe):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    trained = TorchEncoder.load(run)
    towers = {
        name: getattr(tiny_recipe, name).model_copy(update={"fusion": "concat"})
        for name in ("query_tower", "product_tower")
    }
    recipe = tiny_recipe.model_copy(update=towers)
    towers = build_towers(recipe, trained.featurizer.spec, text_configs(recipe, trained.featurizer.spec))
    TorchEncoder(recipe, trained.featurizer, trained.image_encoder, towers).save(run)
    said = CliRunner().invoke(app, ["explain", str(run), "--market", str(tiny_market.path)])
    assert said.exit_code == 0, said.output
    assert "concat" in said.stdout and "no attention weights" in " ".join(said.stdout.split())
    result = json.loads((run / "explain.json").read_text())
    assert result["attention"] == {"query": None, "product": None}
    assert result["importance"]["product"]["channels"]["title_text"]["missing"]["change"] > 0
    assert "no attention weights to show" in (run / "explain.html").read_text()


def test_the_verb_prints_one_json_object(explained, tiny_market):
    said = CliRunner().invoke(app, ["explain", str(explained[0]), "--market", str(tiny_market.path), "--json"])
    assert said.exit_code == 0, said.output
    assert json.loads(said.stdout) == explained[1].as_dict()
