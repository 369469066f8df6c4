"""The optimiser of a stage."""

from __future__ import annotations

import torch

from mercato.config import Stage
from mercato.models.que2search import TwoTower


def adam(towers: TwoTower, stage: Stage) -> torch.optim.Adam:
    """Adam; the transformers learn at their own rate (Que2Search §3.1, Table 4 "varying XLM LR")."""
    text = towers.text_parameters()
    own = {id(parameter) for parameter in text}
    groups = [
        {"params": [p for p in towers.parameters() if id(p) not in own], "lr": stage.learning_rate},
        {"params": text, "lr": stage.text_learning_rate},
    ]
    return torch.optim.Adam([group for group in groups if group["params"]], fused=True)
