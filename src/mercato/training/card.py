"""The model card of a run: what it is, what it learned from, how to use it."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mercato.config import Recipe
from mercato.data.market import Market
from mercato.runs.folder import PRETRAINING, monitored, read_history
from mercato.training.tasks.pretraining import best_row, told


def write_card(run: Path, recipe: Recipe, market: Market, history: list[dict[str, Any]], seconds: float) -> None:
    """Write `README.md` into a run."""
    best = next((row for row in reversed(history) if row["best"] and monitored(row)), None)  # what the run holds
    epochs = sum(row["epoch"] > 0 for row in history)
    (run / "README.md").write_text(
        f"""# {recipe.name}

Two towers that embed queries and products into one {recipe.dimension}-dimensional space (Mercato).

| | |
|---|---|
| trained | {datetime.now(UTC):%Y-%m-%d %H:%M} UTC on {platform.machine()}, {seconds:.0f} s, {epochs} epochs |
| market | {market.config.name}, data fingerprint `{market.fingerprint()}` |
| engagement | {" → ".join(market.config.engagement.chain)} within {market.config.engagement.window_hours:g} h |
{_pretrained(run, recipe)}| query reads | {", ".join(recipe.query_tower.channels)} |
| product reads | {", ".join(recipe.product_tower.channels)} |
| validation | {_validated(best)} |
| seed | {recipe.seed} |

```python
import mercato as mc

model = mc.load("{run.name.strip(".").removesuffix(".partial")}")
model.encode_queries(["red sofa"], country="us")  # (1, {recipe.dimension}) float32, unit length
model.encode_products([{{"title": "Red sofa", "price": 120.0}}])
```

`recipe.toml` is the whole recipe; `history.jsonl` one line an epoch; `tensorboard/` the same as curves;
`metrics.json` and `report.html` come with `mercato evaluate`. It learned from what shoppers of this market did, so it
carries their habits and the old engine's choices with it; judge it on judgments before you serve it.
"""
    )


def _pretrained(run: Path, recipe: Recipe) -> str:
    if recipe.pretraining is None:
        return ""
    channels = ", ".join(recipe.pretraining.channels)
    return f"| pretrained | queries and {channels}: {told(best_row(read_history(run / PRETRAINING)))} |\n"


def _validated(best: dict[str, Any] | None) -> str:
    found = best and monitored(best)
    if not best or not found:
        return "none: the market has no labelled validation pairs"
    tasks = {name: best[f"validation/{name}"] for name in ("relevance", "engagement") if f"validation/{name}" in best}
    named = ", ".join(f"{name} {value:.4f}" for name, value in tasks.items())
    name, value = found
    return f"{name} {value:.4f}" + (f", the mean of two tasks ({named})" if tasks else "")
