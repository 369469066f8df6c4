"""`mercato train`: a recipe on a market → a run, stage by stage, resumable."""

from __future__ import annotations

import json
import logging
import shutil
import signal
import time
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from rich.markup import escape
from torch.utils.data import DataLoader

from mercato.config import Recipe
from mercato.data.market import Market
from mercato.errors import MercatoError
from mercato.files import ensure_replaceable, replace_directory, write_atomic
from mercato.models.build import build_towers, text_configs
from mercato.models.que2search import TwoTower
from mercato.progress import console, note
from mercato.runs.export import export
from mercato.runs.folder import HISTORY, MONITOR, RECIPE, SPEC, load_image_encoder, read_history, save_min_cosine
from mercato.runs.image_encoder import copy_image_encoder
from mercato.runs.torch_encoder import TorchEncoder
from mercato.training.blending import estimate_blend
from mercato.training.card import write_card
from mercato.training.data.batches import Batches
from mercato.training.data.image_encoder import starting_vision, write_image_encoder
from mercato.training.data.prepare import Prepared, prepare
from mercato.training.module import StageModule, Validation
from mercato.training.optimizer import half_precision
from mercato.training.tasks.modalities import Modality, given_blend, modalities
from mercato.training.tasks.objective import HEAD_SCALE, Objective

BLENDING = "blending.json"


def train(recipe: Recipe, market: Market, run: Path, onnx: bool = True) -> TorchEncoder:
    """Train every stage of a recipe and write the run, whole or not at all.

    Work in progress stands in a folder beside `run`; the same call picks up there after an interruption, at the last
    finished epoch. Without `onnx` the run can be measured but not served (`mercato export` adds what is missing).

    Raises:
        MercatoError: the market lacks what the recipe wants, or an interrupted run of another recipe is in the way.
    """
    ensure_replaceable(run, (RECIPE, SPEC))
    partial = partial_folder(run)
    work = partial / "work"  # checkpoints and logs of the stages, not part of a run
    identity = recipe.toml() + f"\n# market {market.fingerprint()}\n"
    known = partial / "identity"
    if partial.is_dir() and not (known.is_file() and known.read_text() == identity):
        note("[yellow]an interrupted run of another recipe or market stood here: started anew[/]")
        shutil.rmtree(partial)
    resumed = partial.is_dir()
    if resumed:
        note(escape(f"resuming {run.name} from {partial}"))
    work.mkdir(parents=True, exist_ok=True)
    write_atomic(known, identity)

    note(f"[bold]{escape(recipe.name)}[/]: reading {escape(market.config.name)}")
    start = time.perf_counter()
    L.seed_everything(recipe.seed, verbose=False)
    prepared = prepare(market, recipe, partial)
    spec = prepared.featurizer.spec
    torch.manual_seed(recipe.seed)
    towers = build_towers(recipe, spec, text_configs(recipe, spec), len(prepared.head_queries))
    if prepared.examples.photos is not None:
        assert prepared.image_folder is not None
        towers.vision = starting_vision(recipe.images, prepared.image_folder)
    note(f"  {sum(p.numel() for p in towers.parameters()):,} parameters")
    blend = _blend(recipe, prepared, towers, partial) if recipe.blending else {}
    for number, stage in enumerate(recipe.stages, 1):
        objective = Objective(stage, blend, recipe.head.weight)
        _run_stage(towers, objective, number, prepared, recipe, partial, work)

    recipe = recipe.model_copy(  # the channels that the market has
        update={"product_tower": recipe.product_tower.model_copy(update={"channels": spec.product_channels})}
    )
    if towers.head is not None:
        with torch.no_grad():
            towers.head.weight.mul_(HEAD_SCALE)  # from here on it reads plain unit vectors
    min_cosine = _min_cosine(towers.cpu(), prepared.validation)
    if towers.vision is not None:  # from here on the run's own image encoder, outside the tower
        write_image_encoder(towers.vision.trunk, towers.vision.spec, partial)
        towers.vision = None
    elif prepared.image_folder is not None:
        copy_image_encoder(prepared.image_folder, partial)
    model = TorchEncoder(recipe, prepared.featurizer, load_image_encoder(partial), towers, prepared.head_queries)
    model.save(partial)
    save_min_cosine(partial, min_cosine)
    if onnx:
        note("exporting both towers to ONNX")
        export(model, partial)
    write_card(partial, recipe, market, read_history(partial), time.perf_counter() - start)
    shutil.rmtree(work)
    known.unlink()
    replace_directory(partial, run)
    note(f"[bold green]run written to {escape(str(run))}[/] in {time.perf_counter() - start:.0f} s")
    return model


def _blend(recipe: Recipe, prepared: Prepared, towers: TwoTower, partial: Path) -> dict[Modality, float]:
    """The weights of gradient blending, given or estimated once; kept in the run."""
    assert recipe.blending is not None
    blending, spec, file = recipe.blending, prepared.featurizer.spec, partial / BLENDING
    if blending.weights != "estimated":
        blend = given_blend(recipe, spec, blending.weights)
    elif file.is_file():  # a resumed run
        blend = given_blend(recipe, spec, json.loads(file.read_text()))
    else:
        wanted = modalities({"query": spec.query_channels, "product": spec.product_channels}, blending.by)
        blend = estimate_blend(towers, prepared.examples, recipe, wanted)
    named = {modality.name: weight for modality, weight in blend.items()}
    write_atomic(file, json.dumps(named, indent=2) + "\n")
    note("  gradient blending: " + ", ".join(f"{name} {weight:.3f}" for name, weight in named.items()))
    return blend


def _min_cosine(towers: TwoTower, validation: Validation | None) -> float | None:
    """The cosine that all but one in twenty relevant validation pairs reach: a start for retrieval (§6.3)."""
    if validation is None:
        return None
    return float(np.percentile(validation.cosines(towers)[validation.label_N == 1], 5))


def partial_folder(run: Path) -> Path:
    """Where a run in progress stands."""
    return run.parent / f".{run.name}.partial"


def _run_stage(
    towers: TwoTower,
    objective: Objective,
    number: int,
    prepared: Prepared,
    recipe: Recipe,
    partial: Path,
    work: Path,
) -> None:
    """One stage to its early stop; leaves the towers at the best validated epoch (or where they started, if better)."""
    stage, examples = objective.stage, prepared.examples
    folder = work / f"stage-{number}"
    best_file, last = folder / "best.pt", folder / "last.ckpt"
    if (folder / "done").is_file():
        towers.load_state_dict(torch.load(best_file, weights_only=True, map_location="cpu"))
        return
    folder.mkdir(exist_ok=True)
    batches = Batches(examples, examples.rows(stage), stage, recipe.seed + number)
    module = StageModule(
        towers, objective, prepared.validation, batches, best_file, lambda row: _log(partial, {"stage": number, **row})
    )
    callbacks: list[Callback] = [
        ModelCheckpoint(folder, last.stem, save_on_train_epoch_end=True, enable_version_counter=False)
    ]
    if prepared.validation is not None:
        callbacks.append(EarlyStopping(MONITOR, mode="max", patience=stage.patience, check_on_train_epoch_end=True))
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = L.Trainer(
            max_epochs=stage.epochs,
            accelerator="auto",
            devices=1,
            precision="bf16-mixed" if half_precision(recipe) else "32-true",
            gradient_clip_val=stage.clip,
            callbacks=callbacks,
            logger=TensorBoardLogger(partial, name="tensorboard", version=f"stage-{number}"),
            log_every_n_steps=10,
            enable_progress_bar=console.is_terminal and not console.quiet,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        try:
            trainer.fit(
                module,
                DataLoader(batches, batch_size=None),
                ckpt_path=str(last) if last.is_file() else None,
                weights_only=False,
            )
        except SystemExit:  # how Lightning ends on Ctrl-C, deaf to any further one
            signal.signal(signal.SIGINT, signal.default_int_handler)
            raise MercatoError("interrupted: the same command picks up at the last finished epoch") from None
    towers.load_state_dict(torch.load(best_file, weights_only=True, map_location="cpu"))
    (folder / "done").touch()


def _log(run: Path, row: dict[str, Any]) -> None:
    """One line an epoch, in `history.jsonl` and on the screen; an epoch that a resumed run does again replaces it."""
    rows = [old for old in read_history(run) if (old["stage"], old["epoch"]) != (row["stage"], row["epoch"])]
    write_atomic(run / HISTORY, "".join(json.dumps(line) + "\n" for line in [*rows, row]))
    parts = [f"  stage {row['stage']}, epoch {row['epoch']}:"]
    if "loss" in row:
        parts.append(f"loss {row['loss']:.3f}")
    if MONITOR in row:
        parts.append(f"validation ROC AUC {row[MONITOR]:.4f}{' (best)' if row['best'] else ''}")
    note(" ".join([*parts, f"[dim]{row['seconds']:.0f} s[/]" if row["epoch"] else "before training"]))
