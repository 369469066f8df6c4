"""The optimiser of a stage, how its rates rise and fall, and in what precision it works."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mercato.config import Recipe
from mercato.config.stages import Fitting
from mercato.models.tower import TwoTower

NAMES = ("dense", "sparse")  # in a checkpoint


class DenseAndSparse(torch.optim.Optimizer):
    """Adam for dense gradients and lazy Adam for sparse ones, as one optimiser; a schedule reads the groups of both.

    Where a gradient is sparse, only the rows that it names are read and written: those of a step's ids, of a table of
    millions. (torchrec's CombinedOptimizer does the like.)
    """

    def __init__(self, dense: torch.optim.Adam, sparse: torch.optim.SparseAdam) -> None:
        self.parts = (dense, sparse)
        super().__init__([*dense.param_groups, *sparse.param_groups], {})  # the very groups, so that rates are shared

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """A step of both, of the gradients that `closure` computes, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """That of both."""
        return {name: part.state_dict() for name, part in zip(NAMES, self.parts, strict=True)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        for name, part in zip(NAMES, self.parts, strict=True):
            part.load_state_dict(state_dict[name])  # which makes new groups
        self.param_groups = [group for part in self.parts for group in part.param_groups]


def adam(towers: TwoTower, stage: Fitting, others: Iterable[nn.Parameter] = ()) -> torch.optim.Optimizer:
    """Adam; the transformers learn at their own rate (Que2Search §3.1, Table 4 "varying XLM LR"), frozen layers not.

    So does an image encoder that is fine-tuned. `others` are a task's own parameters, which learn at the main rate, as
    do the ID embeddings, whose gradients are sparse.
    """
    text = [p for p in towers.text_parameters() if p.requires_grad]
    vision = [] if towers.vision is None else list(towers.vision.parameters())
    sparse = [
        parameter
        for part in towers.modules()
        if isinstance(part, nn.Embedding) and part.sparse
        for parameter in part.parameters()
    ]
    own = {id(parameter) for parameter in [*towers.text_parameters(), *vision, *sparse]}
    groups = [
        {"params": [p for p in towers.parameters() if id(p) not in own], "lr": stage.learning_rate},
        {"params": text, "lr": stage.text_learning_rate},
        {"params": vision, "lr": stage.image_learning_rate},
        {"params": list(others), "lr": stage.learning_rate},
    ]
    dense = torch.optim.Adam([group for group in groups if group["params"]], fused=True)
    return DenseAndSparse(dense, torch.optim.SparseAdam(sparse, stage.learning_rate)) if sparse else dense


def clip(parameters: Iterable[nn.Parameter], largest: float) -> None:
    """Scale all gradients down, in place, so that their norm together is at most `largest`, sparse ones among them."""
    values: list[Tensor] = []
    for parameter in parameters:
        if parameter.grad is not None and parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()  # a row that was read twice is added up first
            values.append(parameter.grad.values())
        elif parameter.grad is not None:
            values.append(parameter.grad)
    norm = torch.nn.utils.get_total_norm(values)
    scale = (largest / (norm + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_(values, scale)


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
