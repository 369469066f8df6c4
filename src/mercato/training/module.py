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

from mercato.config import Stage
from mercato.errors import MercatoError
from mercato.evaluation.roc_auc import roc_auc
from mercato.losses.in_batch_softmax import in_batch_softmax
from mercato.models.que2search import TwoTower
from mercato.text.features import Features, FeatureSpec
from mercato.training.batches import Batch, Batches, hide, take, tensors

MONITOR = "validation/roc_auc"


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

    def roc_auc(self, towers: TwoTower, device: torch.device | str = "cpu") -> float:
        """ROC AUC of the cosines (Que2Search §3.4)."""
        return float(roc_auc(self.label_N, self.cosines(towers, device)))

    @torch.inference_mode()
    def cosines(self, towers: TwoTower, device: torch.device | str = "cpu", batch: int = 256) -> NDArray[np.float32]:
        """The cosine of every pair, (N,) float32; the towers' training mode is restored."""
        training = towers.training
        towers.eval()
        query_QD = self._encode(towers.query, self.queries, self.query_N, device, batch)
        product_PD = self._encode(towers.product, self.products, self.product_N, device, batch)
        towers.train(training)
        cosine_N: NDArray[np.float32] = (query_QD[self.query_N] * product_PD[self.product_N]).sum(1)
        return cosine_N

    def _encode(
        self, tower: torch.nn.Module, table: Features, rows: NDArray[np.int64], device: torch.device | str, batch: int
    ) -> NDArray[np.float32]:
        wanted = np.unique(rows)
        # By length, so that a batch pads little.
        lengths = sum((table[name][wanted] != 0).sum(1) for name in table if name.endswith("trigrams"))
        wanted = wanted[np.argsort(lengths, kind="stable")] if isinstance(lengths, np.ndarray) else wanted
        result: NDArray[np.float32] | None = None
        for start in range(0, len(wanted), batch):
            part = wanted[start : start + batch]
            features = take(table, part, self.spec)
            if self.withheld and table is self.products:
                hide(features, self.withheld, np.ones(len(part), bool), self.spec)
            vectors = tower({k: v.to(device) for k, v in tensors(features).items()})[0].float().cpu().numpy()
            if result is None:
                result = np.zeros((len(next(iter(table.values()))), vectors.shape[1]), np.float32)
            result[part] = vectors
        assert result is not None
        return result


class StageModule(L.LightningModule):
    """Both towers under one stage's loss and optimiser; the best validated epoch is kept in a file."""

    def __init__(
        self,
        towers: TwoTower,
        stage: Stage,
        validation: Validation | None,
        batches: Batches,
        best_file: Path,
        log_epoch: Callable[[dict[str, Any]], None],
    ) -> None:
        super().__init__()
        self.towers, self.stage, self.validation, self.batches = towers, stage, validation, batches
        self.best_file, self.best_score = best_file, float("-inf")
        self.log_epoch = log_epoch
        self._losses: list[Tensor] = []
        self._start = 0.0

    def on_fit_start(self) -> None:
        """The state before training competes for the best: from a good start, training must not lose."""
        if self.validation is not None and self.best_score == float("-inf"):  # else a resumed stage
            score = self.validation.roc_auc(self.towers, self.device)
            self.log_epoch({"epoch": 0, MONITOR: score, "best": self._keep_best(score)})

    def on_train_epoch_start(self) -> None:
        """Shuffle anew."""
        self.batches.epoch = self.current_epoch
        self._losses.clear()
        self._start = time.perf_counter()

    def training_step(self, batch: Batch, number: int) -> Tensor:
        """The stage's loss of one batch; dropout depends on seed and place alone, as a resumed run needs."""
        place = np.random.SeedSequence((self.batches.seed, self.current_epoch, number))
        torch.manual_seed(int(place.generate_state(1)[0]))
        query_BD = self.towers.query(batch.query)[0][batch.query_B]
        product_BD = self.towers.product(batch.product)[0][batch.product_B]
        with torch.autocast(self.device.type, enabled=False):  # half precision would blur s·cos
            cosine_BB = query_BD.float() @ product_BD.float().T
            loss = in_batch_softmax(cosine_BB, batch.excluded_BB, self.stage.scale)
        self._losses.append(loss.detach())
        self.log("loss", loss, batch_size=len(batch.query_B), prog_bar=True)
        return loss

    def on_train_epoch_end(self) -> None:
        """Validate: early stopping and the best epoch go by the ROC AUC; without validation pairs the last is best."""
        row: dict[str, Any] = {"epoch": self.current_epoch + 1, "loss": float(torch.stack(self._losses).mean())}
        if not np.isfinite(row["loss"]):
            raise MercatoError(f"the loss of epoch {row['epoch']} is {row['loss']}: lower the stage's learning rates")
        if self.validation is not None:
            row[MONITOR] = self.validation.roc_auc(self.towers, self.device)
            self.log(MONITOR, row[MONITOR], prog_bar=True)
        row["best"] = self._keep_best(row.get(MONITOR, self.current_epoch))
        self.log_epoch(row | {"seconds": round(time.perf_counter() - self._start, 1)})

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
        """Adam; the transformers learn at their own rate (§3.1, Table 4 "varying XLM LR")."""
        text = self.towers.text_parameters()
        own = {id(p) for p in text}
        groups = [
            {"params": [p for p in self.towers.parameters() if id(p) not in own], "lr": self.stage.learning_rate},
            {"params": text, "lr": self.stage.text_learning_rate},
        ]
        return torch.optim.Adam([group for group in groups if group["params"]], fused=True)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Move a batch's tensors."""
        moved: dict[str, Any] = {
            name: {k: v.to(device) for k, v in value.items()} if isinstance(value, dict) else value.to(device)
            for name, value in vars(batch).items()
        }
        return Batch(**moved)
