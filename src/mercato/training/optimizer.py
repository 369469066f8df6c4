"""The optimiser of a stage, how its rates rise and fall, and in what precision it works."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from mercato.config import Recipe
from mercato.config.stages import Fitting
from mercato.models.tower import TwoTower


def adam(towers: TwoTower, stage: Fitting, others: Iterable[nn.Parameter] = ()) -> torch.optim.Adam:
    """Adam; the transformers learn at their own rate (Que2Search §3.1, Table 4 "varying XLM LR"), frozen layers not.

    So does an image encoder that is fine-tuned. `others` are a task's own parameters, which learn at the main rate.
    """
    text = [p for p in towers.text_parameters() if p.requires_grad]
    vision = [] if towers.vision is None else list(towers.vision.parameters())
    own = {id(parameter) for parameter in [*towers.text_parameters(), *vision]}
    groups = [
        {"params": [p for p in towers.parameters() if id(p) not in own], "lr": stage.learning_rate},
        {"params": text, "lr": stage.text_learning_rate},
        {"params": vision, "lr": stage.image_learning_rate},
        {"params": list(others), "lr": stage.learning_rate},
    ]
    return torch.optim.Adam([group for group in groups if group["params"]], fused=True)


def schedule(optimizer: torch.optim.Optimizer, stage: Fitting, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """The stage's warm-up and decay over `steps` steps."""
    rising = stage.warmup * steps

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / (rising + 1)
        return max(0.0, (steps - step) / max(1.0, steps - rising)) if stage.decay else 1.0

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def half_precision(recipe: Recipe) -> bool:
    """Whether the encoders train in bfloat16; losses are float32 in any case."""
    return recipe.precision == "bfloat16" or (recipe.precision is None and torch.cuda.is_available())
