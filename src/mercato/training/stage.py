"""One stage of training, to its early stop; interrupted, it goes on at the last finished epoch."""

from __future__ import annotations

import logging
import pickle
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader

from mercato.config.stages import Fitting
from mercato.errors import MercatoError
from mercato.models.tower import TwoTower
from mercato.progress import console
from mercato.training.module import StageModule
from mercato.training.task import AnyTask


def run_stage(
    towers: TwoTower,
    *,
    stage: Fitting,
    task: AnyTask,
    folder: Path,
    logger: TensorBoardLogger,
    half: bool,
    log_epoch: Callable[[dict[str, Any]], None],
) -> None:
    """Train a stage; leaves the towers at the best validated epoch (or where they started, if better).

    Args:
        towers: what learns.
        stage: its optimiser and its length.
        task: what is learned.
        folder: of the stage's checkpoints; it says where an interrupted stage stood.
        logger: of the curves.
        half: whether the encoders train in bfloat16.
        log_epoch: called with each epoch's row of the history.

    Raises:
        MercatoError: the loss is not finite, a checkpoint cannot be read, or somebody pressed Ctrl-C.
    """
    best_file, last = folder / "best.pt", folder / "last.ckpt"
    folder.mkdir(exist_ok=True)
    module = StageModule(towers=towers, stage=stage, task=task, best_file=best_file, log_epoch=log_epoch)
    callbacks: list[Callback] = [
        ModelCheckpoint(folder, last.stem, save_on_train_epoch_end=True, enable_version_counter=False)
    ]
    if task.validation is not None:
        metric, mode, _ = task.validation.monitor
        callbacks.append(EarlyStopping(metric, mode=mode, patience=stage.patience, check_on_train_epoch_end=True))
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = L.Trainer(
            max_epochs=stage.epochs,
            accelerator="auto",
            devices=1,
            precision="bf16-mixed" if half else "32-true",
            gradient_clip_val=stage.clip,
            callbacks=callbacks,
            logger=logger,
            log_every_n_steps=10,
            enable_progress_bar=console.is_terminal and not console.quiet,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        try:
            trainer.fit(
                module,
                DataLoader(task.batches, batch_size=None),
                ckpt_path=str(last) if last.is_file() else None,
                weights_only=True,  # no file of a run may run code
            )
        except pickle.UnpicklingError as error:
            raise _unreadable(last) from error
        except SystemExit:  # how Lightning ends on Ctrl-C, deaf to any further one
            signal.signal(signal.SIGINT, signal.default_int_handler)
            raise MercatoError("interrupted: the same command picks up at the last finished epoch") from None
    finish_stage(towers, folder)
    (folder / "done").touch()


def is_done(folder: Path) -> bool:
    """Whether a stage has trained to its end."""
    return (folder / "done").is_file()


def finish_stage(towers: TwoTower, folder: Path) -> None:
    """Put the towers at the stage's best epoch.

    Raises:
        MercatoError: its checkpoint cannot be read.
    """
    best = folder / "best.pt"
    try:
        towers.load_state_dict(torch.load(best, weights_only=True, map_location="cpu"))
    except pickle.UnpicklingError as error:
        raise _unreadable(best) from error


def _unreadable(file: Path) -> MercatoError:
    return MercatoError(f"{file} holds more than weights, or is broken: it was not read; delete {file.parent} to go on")
