"""`mercato ablate`: a study's table as JSON, Markdown and HTML."""

from __future__ import annotations

import json
from pathlib import Path

from mercato.data.market import Market
from mercato.experiments.ablation.ablate import measure_study
from mercato.experiments.ablation.study import Study
from mercato.experiments.ablation.table import Table
from mercato.files import write_atomic
from mercato.reports.study_page import page
from mercato.reports.study_text import markdown


def ablate(
    study: Study, folder: Path, market: Market, out: Path, *, jobs: int | None = None, keep: bool = False
) -> Table:
    """Measure a study, as `measure_study`, and write `STUDY.json`, `STUDY.md` and `STUDY.html` into `out`."""
    table = measure_study(study, folder, market, out, jobs=jobs, keep=keep)
    write_atomic(out / f"{study.name}.json", json.dumps(table.as_dict(), indent=1) + "\n")
    write_atomic(out / f"{study.name}.md", markdown(table))
    write_atomic(out / f"{study.name}.html", page(table))
    return table
