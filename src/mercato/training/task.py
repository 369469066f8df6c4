"""What a training task is: its batches, its losses of a batch, its validation. `mercato.training.tasks` holds them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, Protocol, Self, TypeVar

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from mercato.models.tower import TwoTower

Losses = dict[str, tuple[float, Tensor]]
"""Every loss of a batch by name, as (weight, scalar), in the order in which `total` adds them up."""


class Batch(Protocol):
    """Batch: what one step of training reads."""

    def __len__(self) -> int:
        """Size of the batch, by which the mean of logged losses weighs it."""

    def to(self, device: torch.device) -> Self:
        """The batch on a device."""


BatchT = TypeVar("BatchT", bound=Batch)


class Epochs(IterableDataset[BatchT], ABC):
    """A stage's batches, epoch by epoch.

    What an epoch draws depends on `seed` and `epoch` alone, so that a resumed run sees what an unbroken one would.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed, self.epoch = seed, 0

    @abstractmethod
    def __len__(self) -> int:
        """The batches of an epoch."""

    @abstractmethod
    def __iter__(self) -> Iterator[BatchT]:
        """The batches of the epoch that `epoch` counts, from 0."""


class Monitor(NamedTuple):
    """The metric that early stopping and the best epoch go by."""

    metric: str  # its key in `Validation.scores` and in the history of a run
    mode: Literal["max", "min"]
    name: str  # for people


class Validation(Protocol):
    """Validation of a stage."""

    @property
    def monitor(self) -> Monitor:
        """Which of the scores decides."""

    def scores(self, towers: TwoTower, device: torch.device | str = "cpu") -> dict[str, float]:
        """Every metric by the name it has in the history; the towers' training mode is restored."""


class Task(Protocol[BatchT]):
    """Training task: what a stage learns.

    A task with parameters of its own, such as a head that no run keeps, is an `nn.Module` too: they learn at the
    stage's `learning_rate`, and are resumed.
    """

    @property
    def batches(self) -> Epochs[BatchT]:
        """The batches that the task reads, epoch by epoch."""

    @property
    def validation(self) -> Validation | None:
        """What it is validated on; None: the last epoch is the best."""

    def losses(self, towers: TwoTower, batch: BatchT) -> Losses:
        """Its losses of one batch."""


def total(losses: Mapping[str, tuple[float, Tensor]]) -> Tensor:
    """The weighted sum of a batch's losses, a scalar."""
    return torch.stack([weight * loss for weight, loss in losses.values()]).sum()


AnyTask = Task[Any]
