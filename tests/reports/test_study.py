"""A study's table as JSON, Markdown, HTML and on a terminal."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mercato.data.market import Market
from mercato.reports.study import ablate
from mercato.reports.study_page import page as html_page
from mercato.reports.study_text import cell, figure, mark, of_paper, signed, terminal, training_cost
from tests.support.studies import BOTH, MANY, ROWS, TWO_METRICS, study

MARKS = [("agrees", True), ("disagrees", True), ("unsure", False), (None, True), (None, False)]

pytestmark = pytest.mark.usefixtures("fake_trial")


def _texts(page: str) -> list[list[str]]:
    """The cells of a page's first table, without its header."""
    lines = page[page.index("<table") : page.index("</table>")].split("<tr>")[2:]
    return [[unescape(re.sub("<.*?>", "", cell)) for cell in re.findall(r"<td.*?</td>", line)] for line in lines]


@pytest.mark.parametrize("fields", [{}, {"metrics": BOTH, "rows": TWO_METRICS}], ids=["one metric", "two"])
def test_json_markdown_and_html_agree(
    fields: dict[str, Any], tiny_market: Market, recipes: Path, tmp_path: Path
) -> None:
    table = ablate(study(**fields), recipes, tiny_market, tmp_path, jobs=2)
    assert json.loads((tmp_path / "toy-table.json").read_text()) == table.as_dict()
    text, page = ((tmp_path / f"toy-table.{kind}").read_text() for kind in ("md", "html"))
    marked = [line for line in text.splitlines() if line.startswith("| ")]
    in_markdown = [[cell.strip() for cell in line[1:-1].split(" | ")] for line in marked]
    expected = [
        [row.name, *("<br>".join(cell(row, table, metric)) for metric in table.metrics), training_cost(row)]
        for row in table.rows
    ]
    assert in_markdown[2:] == expected
    assert in_markdown[0] == ["row", *table.metrics, "training"]
    shown = [[name + cost, *figures] for name, *figures, cost in expected]
    assert _texts(page) == [[text.replace("<br>", "") for text in row] for row in shown]
    for shown in (page, text):
        assert "of another market" in shown
        assert "Measured by Mercato 0.0.1, 2026-05-01 to 2026-05-03" in shown
        assert all(metric in shown for metric in table.metrics)
    assert "http" not in re.sub(r"http://www.w3.org\S+", "", page)  # nothing from elsewhere


def test_a_line_a_seed_and_stage_is_drawn(tiny_market: Market, recipes: Path, tmp_path: Path) -> None:
    table = ablate(study(), recipes, tiny_market, tmp_path, jobs=2)
    page = html_page(table)
    assert page.count("<polyline") == 3 * (3 * 1 + 2)
    bare = replace(table.rows[0], curves=[[] for _ in table.rows[0].curves])  # no epoch was logged
    assert html_page(replace(table, rows=[bare, *table.rows[1:]])).count("<polyline") < page.count("<polyline")


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
    ablate(study(metrics=BOTH, rows=rows), recipes, tiny_market, tmp_path, jobs=2)
    for kind in ("md", "html"):
        assert "paper" not in re.sub("<style>.*</style>", "", (tmp_path / f"toy-table.{kind}").read_text(), flags=re.S)


def test_many_metrics_fit_on_a_terminal(tiny_market: Market, recipes: Path, tmp_path: Path) -> None:
    table = ablate(study(metrics=MANY, rows=TWO_METRICS), recipes, tiny_market, tmp_path, jobs=2)
    console = Console(width=100)
    with console.capture() as capture:
        console.print(terminal(table))
    told = capture.get()
    assert "…" not in told
    for row in table.rows:
        for metric in table.metrics:
            assert all(line in told for line in cell(row, table, metric))


def test_the_papers_figures_stand_by_their_metrics_alone(tiny_market: Market, recipes: Path, tmp_path: Path) -> None:
    table = ablate(study(metrics=MANY, rows=TWO_METRICS), recipes, tiny_market, tmp_path, jobs=2)
    assert of_paper(table) == ["engagement.roc_auc", "relevance.roc_auc"]
    for metric in MANY:
        shown = ["paper .5500, −.0100", "paper .6800, +.0100"][metric == "relevance.roc_auc"]
        assert (cell(table.rows[1], table, metric)[-1] == shown) == (metric in of_paper(table))
    page = html_page(table)
    assert _tradeoff_of(page).count("<circle") == 3
    assert "engagement.roc_auc_exposure_matched against relevance.ndcg@10" in page
    assert page.count('class="hollow"') == 2 * 2  # the paper's step, in two of five panels


def test_a_step_that_is_not_sure_is_marked_with_or_without_a_paper(
    tiny_market: Market, recipes: Path, tmp_path: Path
) -> None:
    rows: list[dict[str, Any]] = [{"name": "a"}, {"name": "b", "set": ["dimension=24"]}, dict(ROWS[2], name="c")]
    for paper in ({}, {"paper": 0.5}):
        table = ablate(study(rows=[row | paper for row in rows]), recipes, tiny_market, tmp_path, jobs=2)
        first, sure, unsure = (cell(row, table, "relevance.roc_auc") for row in table.rows)
        assert len(first) == len(paper) + 1
        assert not sure[1].endswith("≈")
        assert unsure[1].endswith("≈")
    step = table.rows[1].metrics["relevance.roc_auc"].step
    assert step is not None
    marks = [mark(replace(step, verdict=verdict, sure=sure)) for verdict, sure in MARKS]
    assert marks == ["✓", "✗", "≈", "", "≈"]


def test_a_row_is_held_against_the_first_where_that_is_not_its_step(
    tiny_market: Market, recipes: Path, tmp_path: Path
) -> None:
    two = study(metrics=BOTH, rows=TWO_METRICS)  # these rows all start from the first
    assert "All against" not in html_page(ablate(two, recipes, tiny_market, tmp_path, jobs=2))
    assert "All against small" in html_page(ablate(study(), recipes, tiny_market, tmp_path, jobs=2))


def test_a_relative_step_and_the_papers_words_are_shown(tiny_market: Market, recipes: Path, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"name": "plain"},
        {"name": "noted", "set": ["dimension=20"], "paper_note": "not significant"},
        {"name": "relative", "from": "plain", "set": ["dimension=24"], "paper_relative": 0.91},
    ]
    ablate(study(rows=rows, seeds=[4]), recipes, tiny_market, tmp_path)
    text = (tmp_path / "toy-table.md").read_text()
    assert "+0.91 %" in text
    assert "not significant" in text
    assert "+.0800 (+48.8 %)" in text


def test_figures_have_four_decimals_and_differences_a_sign() -> None:
    assert [figure(0.7456), figure(1.0), signed(-0.00214), signed(0.5)] == [".7456", "1.0000", "−.0021", "+.5000"]
