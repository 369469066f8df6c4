"""The page of a ranker: what its order is ahead by, and what its stages go by."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from mercato.evaluation.results import OURS, Counts, Figure, Metrics, PartCounts
from mercato.ranking.calibration import Held, StepCalibration
from mercato.ranking.train import COSINE, Ranked
from mercato.reports.ranking import summary
from mercato.reports.ranking_page import write_ranking_report


def ranked(less_cosine: tuple[float, float], network: dict[str, float]) -> Ranked:
    figures = {OURS: 0.832, "trees": 0.821, COSINE: 0.799}
    parts = {
        name: {"engagement": {"roc_auc_exposure_matched": Figure(x, (x - 0.02, x + 0.02))}}
        for name, x in figures.items()
    }
    intervals = {"trees": (-0.001, 0.02), COSINE: less_cosine}
    differences = {name: {"engagement": {"roc_auc_exposure_matched": span}} for name, span in intervals.items()}
    counts = PartCounts(queries=3442, pairs=68153, split="future", unknown_products=0)
    metrics = Metrics(
        ours=parts.pop(OURS),
        baselines=parts,
        differences=differences,
        simultaneous_differences=differences,
        n=Counts(products=6000, queries=3442, resamples=1000, seed=0, parts={"engagement": counts}),
    )
    calibration = [
        StepCalibration("click", Held(700, 0.335, 0.341, 0.049), Held(700, 0.335, 0.341, 0.049)),
        StepCalibration("<reply>", None, Held(1508, 0.256, 0.259, 0.014)),
    ]
    gains = {"cosine": 0.53, "bm25": 0.47}
    return Ranked(
        metrics, gains, shap={"bm25": 0.6, "cosine": 0.4}, network=network, calibration=calibration if network else []
    )


def page(tmp_path: Path, *arguments: object) -> str:
    write_ranking_report(ranked(*arguments), tmp_path / "report.html", "How <b> orders")
    return (tmp_path / "report.html").read_text()


def test_the_lead_says_what_the_order_is_ahead_by_beyond_chance(tmp_path: Path) -> None:
    said = page(tmp_path, (0.02, 0.046), {"trees": 1.0})
    assert "How &lt;b&gt; orders" in said
    assert "Ahead of the cosine's order on engagement ROC AUC, exposure matched <b>+.033</b>" in said
    assert '<td class="number better">+.033 [+.020, +.046]</td>' in said
    assert '<td class="number unsure">+.011 [−.001, +.020]</td>' in said
    assert "Not told apart" in page(tmp_path, (-0.02, 0.046), {"trees": 1.0})
    assert "Behind on" in page(tmp_path, (-0.046, -0.02), {"trees": 1.0})


def test_each_stage_has_its_bars_and_a_missing_one_none(tmp_path: Path) -> None:
    both = page(tmp_path, (0.02, 0.046), {"trees": 0.75, "id of product": 0.25})
    assert "53.0 %" in both and "75.0 %" in both and "id of product" in both
    assert "Stage 2" not in page(tmp_path, (0.02, 0.046), {})


def test_stage_2_s_chances_stand_beside_what_came_true(tmp_path: Path) -> None:
    said = page(tmp_path, (0.02, 0.046), {"trees": 1.0})
    assert '<td>click</td><td class="number">.335</td><td class="number">.341</td><td class="number">.049</td>' in said
    assert "<td>&lt;reply&gt;</td><td></td>" in said and '<td class="number">1,508</td>' in said
    console = Console(record=True, width=200)
    console.print(summary(ranked((0.02, 0.046), {"trees": 1.0})))
    (told,) = (line for line in console.export_text().splitlines() if "reply" in line)
    assert [cell.strip() for cell in told.strip("│").split("│")][1:] == ["–", "–", "–", ".256", ".259", ".014"]
    assert "come true" not in page(tmp_path, (0.02, 0.046), {})
