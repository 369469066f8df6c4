"""`mercato train`: a recipe on a market → a run, stage by stage, resumable."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from rich.markup import escape

from mercato.config import Recipe
from mercato.data.market import Market
from mercato.features.featurizer import FeatureSpec
from mercato.files import ensure_replaceable, replace_directory, write_atomic
from mercato.manifest import MANIFEST
from mercato.models.build import build_towers, text_configs
from mercato.models.tower import TwoTower
from mercato.progress import note
from mercato.runs.export import export
from mercato.runs.folder import (
    PRETRAINING,
    RECIPE,
    SPEC,
    TOKENIZER,
    load_image_encoder,
    read_history,
    save_min_cosine,
)
from mercato.runs.image_encoder import copy_image_encoder
from mercato.runs.torch_encoder import TorchEncoder
from mercato.training.blending import estimate_blend
from mercato.training.card import write_card
from mercato.training.data.image_encoder import starting_vision, write_image_encoder
from mercato.training.data.prepare import Prepared, prepare
from mercato.training.history import log_row
from mercato.training.optimizer import half_precision
from mercato.training.pretrain import initialise, pretrained
from mercato.training.stage import finish_stage, is_done, run_stage
from mercato.training.task import Validation
from mercato.training.tasks.blending import given_blend
from mercato.training.tasks.build import build_task
from mercato.training.tasks.modalities import Modality, modalities
from mercato.training.tasks.query_prediction import HEAD_SCALE

OnEpoch = Callable[[dict[str, Any]], None]

BLENDING, WORK = "blending.json", "work"  # the latter: checkpoints of the stages, not part of a run


def train(
    recipe: Recipe, market: Market, run: Path, onnx: bool = True, on_epoch: OnEpoch | None = None
) -> TorchEncoder:
    """Train every stage of a recipe and write the run, whole or not at all.

    Work in progress stands in a folder beside `run`; the same call picks up there after an interruption, at the last
    finished epoch. Without `onnx` the run can be measured but not served (`mercato export` adds what is missing).
    `on_epoch` is called with each row of the history once it is written.

    Raises:
        MercatoError: the market lacks what the recipe wants, or a folder that is no run is in the way.
    """
    ensure_replaceable(run, (RECIPE, SPEC))
    partial = partial_folder(run)
    identity = recipe.toml() + f"\n# market {market.fingerprint()}\n"
    known = partial / "identity"
    if partial.is_dir() and not (known.is_file() and known.read_text() == identity):
        note("[yellow]an interrupted run of another recipe or market stood here: started anew[/]")
        shutil.rmtree(partial)
    if partial.is_dir():
        note(escape(f"resuming {run.name} from {partial}"))
    partial.mkdir(parents=True, exist_ok=True)
    write_atomic(known, identity)
    (partial / MANIFEST).unlink(missing_ok=True)  # of files that are about to be written anew

    note(f"[bold]{escape(recipe.name)}[/]: reading {escape(market.config.name)}")
    start = time.perf_counter()
    L.seed_everything(recipe.seed, verbose=False)
    start_from = None
    if recipe.pretraining is not None:
        start_from = pretrained(market, recipe)
        read = {"channels": FeatureSpec.load(start_from / SPEC).product_channels}  # those that the market has
        recipe = recipe.model_copy(update={"pretraining": recipe.pretraining.model_copy(update=read)})
        shutil.copyfile(start_from / TOKENIZER, partial / TOKENIZER)
        shutil.copytree(start_from, partial / PRETRAINING, copy_function=_link, dirs_exist_ok=True)
    prepared = prepare(market, recipe, partial)
    towers = train_towers(recipe, prepared, partial, on_epoch, start_from)
    model = _finish(recipe, prepared, towers, partial)
    if onnx:
        note("exporting both towers to ONNX")
        export(model, partial)
    write_card(partial, model.recipe, market, read_history(partial), time.perf_counter() - start)
    shutil.rmtree(partial / WORK)
    known.unlink()
    replace_directory(partial, run)
    note(f"[bold green]run written to {escape(str(run))}[/] in {time.perf_counter() - start:.0f} s")
    return model


def train_towers(
    recipe: Recipe, prepared: Prepared, folder: Path, on_epoch: OnEpoch | None = None, pretrained: Path | None = None
) -> TwoTower:
    """Both towers after every stage of a recipe, on the CPU, an image encoder that was fine-tuned still among them.

    `folder` keeps history, curves and checkpoints; the same call on it picks up at the last finished epoch.
    `pretrained` is what the towers start from (`mercato.training.pretrain`).

    Raises:
        MercatoError: the market lacks what a stage wants, a loss is not finite, or somebody pressed Ctrl-C.
    """
    spec, work = prepared.featurizer.spec, folder / WORK
    work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    towers = build_towers(recipe, spec, text_configs(recipe, spec), len(prepared.head_queries))
    if prepared.tables.images is not None:
        assert prepared.image_folder is not None
        towers.vision = starting_vision(recipe.images, prepared.image_folder)
    count = sum(p.numel() for p in towers.parameters())
    taken = initialise(towers, pretrained) if pretrained is not None else 0
    note(f"  {count:,} parameters" + (f", {taken:,} of them pretrained" if taken else ""))
    blend = _blend(recipe, prepared, towers, folder) if recipe.blending else {}
    for number, stage in enumerate(recipe.stages, 1):
        own = work / f"stage-{number}"
        if is_done(own):
            finish_stage(towers, own)
            continue
        task = build_task(stage, recipe=recipe, prepared=prepared, blend=blend, seed=recipe.seed + number)

        def log_epoch(
            row: dict[str, Any], number: int = number, validation: Validation | None = task.validation
        ) -> None:
            log_row(folder, {"stage": number, **row}, validation)
            if on_epoch is not None:
                on_epoch({"stage": number, **row})

        run_stage(
            towers,
            stage=stage,
            task=task,
            folder=own,
            logger=TensorBoardLogger(folder, name="tensorboard", version=f"stage-{number}"),
            half=half_precision(recipe),
            log_epoch=log_epoch,
        )
    return towers.cpu()


def _link(source: str, target: str) -> None:
    """The same file under another name, where the file system can: pretrained weights may be large."""
    Path(target).unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def partial_folder(run: Path) -> Path:
    """Where a run in progress stands."""
    return run.parent / f".{run.name}.partial"


def _finish(recipe: Recipe, prepared: Prepared, towers: TwoTower, partial: Path) -> TorchEncoder:
    """Write what a run is made of, but for its ONNX towers and its card."""
    recipe = recipe.model_copy(  # the channels that the market has
        update={
            "product_tower": recipe.product_tower.model_copy(
                update={"channels": prepared.featurizer.spec.product_channels}
            )
        }
    )
    if towers.head is not None:
        with torch.no_grad():
            towers.head.weight.mul_(HEAD_SCALE)  # from here on it reads plain unit vectors
    min_cosine = None if prepared.pairs is None else prepared.pairs.min_cosine(towers)
    if towers.vision is not None:  # from here on the run's own image encoder, outside the tower
        write_image_encoder(towers.vision.trunk, towers.vision.spec, partial)
        towers.vision = None
    elif prepared.image_folder is not None:
        copy_image_encoder(prepared.image_folder, partial)
    model = TorchEncoder(recipe, prepared.featurizer, load_image_encoder(partial), towers, prepared.head_queries)
    model.save(partial)
    save_min_cosine(partial, min_cosine)
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
