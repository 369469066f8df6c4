"""The Lightning module of one stage: a task's losses, its optimiser, its validation; the best epoch is kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn

from mercato.config.stages import Fitting
from mercato.errors import MercatoError
from mercato.models.cpu import return_memory
from mercato.models.tower import TwoTower
from mercato.training.optimizer import adam, clip, schedule
from mercato.training.task import AnyTask, Batch, total


class StageModule(L.LightningModule):
    """Both towers under one stage's task and optimiser; the best validated epoch is kept in a file."""

    def __init__(
        self,
        *,
        towers: TwoTower,
        stage: Fitting,
        task: AnyTask,
        best_file: Path,
        log_epoch: Callable[[dict[str, Any]], None],
    ) -> None:
        super().__init__()
        self.towers, self.stage = towers, stage
        self.task = task  # its own parameters, if any, are the module's too
        self.best_file, self.log_epoch = best_file, log_epoch
        self.best_score: float | None = None  # the best of the monitor so far
        self._losses: list[dict[str, Tensor]] = []
        self._start = 0.0

    def on_fit_start(self) -> None:
        """The state before training competes for the best: from a good start, training must not lose."""
        validation = self.task.validation
        if validation is not None and self.best_score is None:  # else a resumed stage
            scores = validation.scores(self.towers, self.device)
            monitor = validation.monitor
            best = self._keep_best(scores[monitor.metric])
            self.log_epoch({"epoch": 0, "monitor": monitor._asdict(), **scores, "best": best})

    def on_train_epoch_start(self) -> None:
        """Begin an epoch: its batches, its losses, its clock."""
        self.task.batches.epoch = self.current_epoch
        self._losses.clear()
        self._start = time.perf_counter()

    def training_step(self, batch: Batch, number: int) -> Tensor:
        """The stage's losses of one batch; dropout depends on seed and place alone, as a resumed run needs."""
        place = np.random.SeedSequence((self.task.batches.seed, self.current_epoch, number))
        torch.manual_seed(int(place.generate_state(1)[0]))
        losses = self.task.losses(self.towers, batch)
        loss = total(losses)
        if not torch.isfinite(loss):
            wrong = next((name for name, (_, part) in losses.items() if not torch.isfinite(part)), "all together")
            raise MercatoError(
                f"the loss of {wrong} is {float(losses.get(wrong, (0, loss))[1])} in batch {number + 1} of epoch"
                f" {self.current_epoch + 1}: lower the stage's learning rates; the epochs before are kept, and the same"
                " command goes on behind them"
            )
        self._losses.append({"loss": loss.detach()} | {name: part.detach() for name, (_, part) in losses.items()})
        self.log("loss", loss, batch_size=len(batch), prog_bar=True)
        return loss

    def on_train_epoch_end(self) -> None:
        """Validate: early stopping and the best epoch go by the monitor; without validation the last is best."""
        names = dict.fromkeys(name for step in self._losses for name in step)  # a step may lack some
        means = {
            name: float(torch.stack([step[name] for step in self._losses if name in step]).mean()) for name in names
        }
        row: dict[str, Any] = {"epoch": self.current_epoch + 1, "loss": means.pop("loss")}
        if len(means) > 1:  # more than one loss: each by name, unweighted
            row["losses"] = means
        score: float = self.current_epoch
        if (validation := self.task.validation) is not None:
            row |= {"monitor": validation.monitor._asdict(), **validation.scores(self.towers, self.device)}
            score = row[validation.monitor.metric]
            self.log(validation.monitor.metric, score, prog_bar=True)
        row["best"] = self._keep_best(score)
        self.log_epoch(row | {"seconds": round(time.perf_counter() - self._start, 1)})
        return_memory()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A resumed stage must know what it has to beat."""
        checkpoint["best_score"] = self.best_score

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """See `on_save_checkpoint`."""
        self.best_score = checkpoint["best_score"]

    def _keep_best(self, score: float) -> bool:
        validation, best = self.task.validation, self.best_score
        sign = -1 if validation is not None and validation.monitor.mode == "min" else 1
        if np.isnan(score) or (best is not None and sign * score <= sign * best):
            return False
        self.best_score = float(score)  # as a checkpoint may hold it, which is read without running any code
        torch.save(self.towers.state_dict(), self.best_file)
        return True

    def configure_optimizers(self) -> Any:
        """See `mercato.training.optimizer`."""
        own = self.task.parameters() if isinstance(self.task, nn.Module) else ()
        optimizer = adam(self.towers, self.stage, own)
        rates = schedule(optimizer, self.stage, self.stage.epochs * len(self.task.batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rates, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the norm; Lightning itself refuses to beside a fused optimiser in mixed precision, for fear of scaling.

        bfloat16 scales nothing.
        """
        if gradient_clip_val is not None:
            clip(self.parameters(), gradient_clip_val)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Move a batch's tensors."""
        return batch.to(device)
