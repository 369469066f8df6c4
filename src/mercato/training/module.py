"""The Lightning module of one stage, and the validation that decides when it ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mercato.errors import MercatoError
from mercato.evaluation.metrics.roc_auc import roc_auc
from mercato.features.featurizer import Features, FeatureSpec
from mercato.models.cpu import return_memory
from mercato.models.que2search import Inputs, TwoTower
from mercato.models.vision import PIXELS, Vision
from mercato.runs.folder import MONITOR
from mercato.training.data.batches import Batch, Batches, hide, take, tensors
from mercato.training.data.images import Photos, ahead
from mercato.training.optimizer import adam, schedule
from mercato.training.tasks.objective import Objective, total


@dataclass(frozen=True)
class Validation:
    """Labelled pairs that training may look at: rows of the two feature tables, and 1 relevant | 0 not."""

    queries: Features
    products: Features
    spec: FeatureSpec
    query_N: NDArray[np.int64]
    product_N: NDArray[np.int64]
    label_N: NDArray[np.int64]
    withheld: tuple[str, ...] = ()
    photos: Photos | None = None  # of every row of `products`, where an image encoder is fine-tuned
    engagement: Validation | None = None  # engaged and shown pairs, where training reads both: they count as much

    def scores(self, towers: TwoTower, device: torch.device | str = "cpu") -> dict[str, float]:
        """What early stopping goes by, and, where that is the mean of two tasks, each of them."""
        relevance = self.roc_auc(towers, device)
        if self.engagement is None:
            return {MONITOR: relevance}
        engagement = self.engagement.roc_auc(towers, device)
        mean = (relevance + engagement) / 2
        return {MONITOR: mean, "validation/relevance": relevance, "validation/engagement": engagement}

    def roc_auc(self, towers: TwoTower, device: torch.device | str = "cpu") -> float:
        """ROC AUC of the cosines (Que2Search §3.4)."""
        return float(roc_auc(self.label_N, self.cosines(towers, device)))

    @torch.inference_mode()
    def cosines(self, towers: TwoTower, device: torch.device | str = "cpu", batch: int = 256) -> NDArray[np.float32]:
        """The cosine of every pair, (N,) float32; the towers' training mode is restored."""
        training = towers.training
        towers.eval()
        query_QD = self._encode(towers.query, self.queries, self.query_N, device, batch)
        product_PD = self._encode(towers.product, self.products, self.product_N, device, batch, towers.vision)
        towers.train(training)
        cosine_N: NDArray[np.float32] = (query_QD[self.query_N] * product_PD[self.product_N]).sum(1)
        return cosine_N

    def _encode(
        self,
        tower: torch.nn.Module,
        table: Features,
        rows: NDArray[np.int64],
        device: torch.device | str,
        batch: int,
        vision: Vision | None = None,
    ) -> NDArray[np.float32]:
        wanted = np.unique(rows)
        # By length, so that a batch pads little.
        lengths = sum((table[name][wanted] != 0).sum(1) for name in table if name.endswith("trigrams"))
        wanted = wanted[np.argsort(lengths, kind="stable")] if isinstance(lengths, np.ndarray) else wanted
        result: NDArray[np.float32] | None = None
        parts = [wanted[start : start + batch] for start in range(0, len(wanted), batch)]
        made = (self._inputs(table, part) for part in parts)
        for part, found in zip(parts, made if vision is None else ahead(made), strict=True):
            inputs = {k: v.to(device) for k, v in found.items()}
            vectors = tower(inputs if vision is None else vision.look(inputs))[0].float().cpu().numpy()
            if result is None:
                result = np.zeros((len(next(iter(table.values()))), vectors.shape[1]), np.float32)
            result[part] = vectors
        assert result is not None
        return result

    def _inputs(self, table: Features, rows: NDArray[np.int64]) -> Inputs:
        features = take(table, rows, self.spec)
        if table is self.products:
            if self.withheld:
                hide(features, self.withheld, np.ones(len(rows), bool), self.spec)
            if self.photos is not None:
                features[PIXELS] = self.photos.pixels(rows, features["image_mask"].sum(1))
        return tensors(features)


class StageModule(L.LightningModule):
    """Both towers under one stage's losses and optimiser; the best validated epoch is kept in a file."""

    def __init__(
        self,
        towers: TwoTower,
        objective: Objective,
        validation: Validation | None,
        batches: Batches,
        best_file: Path,
        log_epoch: Callable[[dict[str, Any]], None],
    ) -> None:
        super().__init__()
        self.towers, self.objective, self.validation, self.batches = towers, objective, validation, batches
        self.best_file, self.best_score = best_file, float("-inf")
        self.log_epoch = log_epoch
        self._losses: list[dict[str, Tensor]] = []
        self._start = 0.0

    def on_fit_start(self) -> None:
        """The state before training competes for the best: from a good start, training must not lose."""
        if self.validation is not None and self.best_score == float("-inf"):  # else a resumed stage
            scores = self.validation.scores(self.towers, self.device)
            self.log_epoch({"epoch": 0, **scores, "best": self._keep_best(scores[MONITOR])})

    def on_train_epoch_start(self) -> None:
        """Shuffle anew."""
        self.batches.epoch = self.current_epoch
        self._losses.clear()
        self._start = time.perf_counter()

    def training_step(self, batch: Batch, number: int) -> Tensor:
        """The stage's losses of one batch; dropout depends on seed and place alone, as a resumed run needs."""
        place = np.random.SeedSequence((self.batches.seed, self.current_epoch, number))
        torch.manual_seed(int(place.generate_state(1)[0]))
        losses = self.objective.losses(self.towers, batch)
        loss = total(losses)
        self._losses.append({"loss": loss.detach()} | {name: part.detach() for name, (_, part) in losses.items()})
        self.log("loss", loss, batch_size=len(batch.query_B), prog_bar=True)
        return loss

    def on_train_epoch_end(self) -> None:
        """Validate: early stopping and the best epoch go by the ROC AUC; without validation pairs the last is best."""
        means = {name: float(torch.stack([step[name] for step in self._losses]).mean()) for name in self._losses[0]}
        row: dict[str, Any] = {"epoch": self.current_epoch + 1, "loss": means.pop("loss")}
        if len(means) > 1:  # more than one loss: each by name, unweighted
            row["losses"] = means
        if not np.isfinite(row["loss"]):
            raise MercatoError(f"the loss of epoch {row['epoch']} is {row['loss']}: lower the stage's learning rates")
        if self.validation is not None:
            row |= self.validation.scores(self.towers, self.device)
            self.log(MONITOR, row[MONITOR], prog_bar=True)
        row["best"] = self._keep_best(row.get(MONITOR, self.current_epoch))
        self.log_epoch(row | {"seconds": round(time.perf_counter() - self._start, 1)})
        return_memory()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A resumed stage must know what it has to beat."""
        checkpoint["best_score"] = self.best_score

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """See `on_save_checkpoint`."""
        self.best_score = checkpoint["best_score"]

    def _keep_best(self, score: float) -> bool:
        if not score > self.best_score:  # NaN is never better
            return False
        self.best_score = score
        torch.save(self.towers.state_dict(), self.best_file)
        return True

    def configure_optimizers(self) -> Any:
        """See `mercato.training.optimizer`."""
        stage = self.objective.stage
        optimizer = adam(self.towers, stage)
        rates = schedule(optimizer, stage, stage.epochs * len(self.batches))
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
            torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Move a batch's tensors."""
        return batch.to(device)
