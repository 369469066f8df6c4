"""`mercato robustness`: what the page says, and the verb."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mercato.cli import app
from mercato.errors import MercatoError
from mercato.evaluation.metrics.bootstrap import Interval
from mercato.evaluation.results import Figure
from mercato.evaluation.robustness import (
    Compared,
    Comparison,
    Difference,
    FieldLosses,
    Loss,
    Robustness,
    RobustnessCounts,
    RunRobustness,
)
from mercato.reports.robustness import page_of, robustness, summary
from mercato.reports.robustness_page import measured_headlines, rows, sentences
from tests.support.html import Balanced

LOSS = Loss(0.7, 0.1, (0.06, 0.14), (0.05, 0.15))


def made(**less_lost: tuple[float, Interval]) -> Robustness:
    """Two runs by hand, of which the second loses less by so much."""
    ahead = Difference(0.02, (0.0, 0.04), (-0.01, 0.05))
    run = RunRobustness(
        name="old",
        folder="old",
        fusion="concat",
        whole={"relevance": {"roc_auc_per_query": Figure(0.8, None)}},
        fields={field: FieldLosses(9, {"relevance": {"roc_auc_per_query": LOSS}}) for field in less_lost},
    )
    return Robustness(
        market="a market",
        n=RobustnessCounts(resamples=9, seed=0, parts={}, products=9, queries=3),
        fields={field: [field] for field in less_lost},
        runs=[run, replace(run, name="new")],
        comparison=Comparison(
            first="old",
            second="new",
            whole={"relevance": {"roc_auc_per_query": ahead}},
            fields={
                field: {
                    "relevance": {
                        "roc_auc_per_query": Compared(Difference(less[0], (less[0], less[0]), less[1]), ahead)
                    }
                }
                for field, less in less_lost.items()
            },
        ),
    )


def alone(**losses: Loss) -> Robustness:
    """One run by hand with these losses."""
    both = made(**dict.fromkeys(losses, (0.0, (0.0, 0.0))))
    fields = {field: FieldLosses(9, {"relevance": {"roc_auc_per_query": loss}}) for field, loss in losses.items()}
    return replace(both, runs=[replace(both.runs[0], fields=fields)], comparison=None)


def test_only_a_sure_difference_is_said_to_be_less():
    (said,) = sentences(made(images=(0.05, (0.01, 0.09)), price=(0.05, (-0.01, 0.1)), title=(-0.1, (-0.2, -0.01))))
    assert "<b>new loses less</b> without images" in said and "<b>old loses less</b> without title" in said
    assert "the other 1 there is no difference" in said and "new is level, within chance" in said
    assert "price" not in said
    assert "any of the 1 " in sentences(made(price=(0.05, (-0.01, 0.1))))[0]


def test_the_worst_field_is_named_and_chance_is_not():
    assert "most without <b>images</b>: .700 in place of .800" in sentences(alone(images=LOSS, price=LOSS))[0]
    chance = replace(LOSS, simultaneous=(-0.1, 0.2))
    assert "no worse beyond chance" in sentences(alone(images=chance, price=chance))[0]


@pytest.mark.parametrize("number", [1, 2])
def test_the_page_is_one_file_and_whole(number, tiny_run, tiny_market, tmp_path):
    page = tmp_path / "page.html"
    runs = [tiny_run, shutil.copytree(tiny_run, tmp_path / "copy")][:number]
    result = robustness(runs, tiny_market, page)
    assert json.loads(page.with_suffix(".json").read_text()) == result.as_dict()
    html = page.read_text()
    parsed = Balanced()
    parsed.feed(html)
    text = " ".join(parsed.text)
    assert parsed.open == [] and not parsed.links
    assert not re.search(r"https?://|@import|<script|nan\b|None", html)
    for expected in ("What is lost without each field", "Every metric", "images", "all text", "relevance ROC AUC"):
        assert expected in text, expected
    assert ("Who loses less" in text) == (number == 2)
    assert [row.field for row in rows(result, measured_headlines(result)[1])] == [
        row.field for row in rows(result, measured_headlines(result)[0])
    ]
    assert len(summary(result).renderables) == 3


def test_a_field_that_a_run_does_not_read_is_said(tmp_path):
    both = made(images=(0.05, (0.01, 0.09)), price=(0.0, (0.0, 0.0)))
    second = replace(both.runs[1], fields=both.runs[1].fields | {"price": None})
    unread = replace(both, runs=[both.runs[0], second])
    (price,) = (row for row in rows(unread, measured_headlines(unread)[0]) if row.field == "price")
    assert price.losses == [LOSS, None]


# --- the verb


def test_the_verb_writes_into_the_only_run_and_prints_one_json_object(tiny_run, tiny_market, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    said = CliRunner().invoke(app, ["robustness", str(run), "--market", str(tiny_market.path), "--json"])
    assert said.exit_code == 0, said.output
    printed = json.loads(said.stdout)
    assert printed == json.loads((run / "robustness.json").read_text())
    assert (run / "robustness.html").is_file()


def test_several_runs_need_a_page():
    runs = [Path("a"), Path("b")]
    with pytest.raises(MercatoError, match="--out"):
        page_of(runs)
    with pytest.raises(MercatoError, match=r"\.html"):
        page_of(runs, Path("page.json"))
    assert page_of(runs, Path("page.html")) == Path("page.html")
    assert page_of(runs[:1]) == Path("a/robustness.html")
