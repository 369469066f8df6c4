"""The history of a run: one line an epoch, in `history.jsonl` and on the screen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mercato.files import write_atomic
from mercato.progress import note
from mercato.runs.folder import HISTORY, read_history
from mercato.training.task import Validation


def log_row(run: Path, row: dict[str, Any], validation: Validation | None) -> None:
    """Log an epoch; one that a resumed run does again replaces its row."""
    rows = [old for old in read_history(run) if (old["stage"], old["epoch"]) != (row["stage"], row["epoch"])]
    write_atomic(run / HISTORY, "".join(json.dumps(line) + "\n" for line in [*rows, row]))
    stage = f"stage {row['stage']}" if isinstance(row["stage"], int) else row["stage"]
    parts = [f"  {stage}, epoch {row['epoch']}:"]
    if "loss" in row:
        parts.append(f"loss {row['loss']:.3f}")
    if validation is not None:
        metric, _, name = validation.monitor
        parts.append(f"validation {name} {row[metric]:.4f}{' (best)' if row['best'] else ''}")
    note(" ".join([*parts, f"[dim]{row['seconds']:.0f} s[/]" if row["epoch"] else "before training"]))
