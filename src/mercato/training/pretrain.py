"""Pretraining before the stages of a recipe: done once a market, kept in its cache by content, and taken from there."""

from __future__ import annotations

import hashlib
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from faiss import Kmeans
from filelock import FileLock
from lightning.pytorch.loggers import TensorBoardLogger
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from mercato.config import Recipe
from mercato.config.pretraining import Pretraining
from mercato.config.stages import InBatchSoftmax
from mercato.data.market import Market
from mercato.data.pairs import catalogue_split
from mercato.errors import MercatoError
from mercato.features.featurizer import FeatureSpec
from mercato.fields import PRODUCT_CHANNELS
from mercato.files import atomic_directory
from mercato.models.build import build_pretraining_towers, text_configs
from mercato.models.que2engage import FusedProductTower
from mercato.models.recall import IDS
from mercato.models.taobao import MARKS, PretrainingTowers
from mercato.models.tower import TwoTower
from mercato.progress import note
from mercato.runs.folder import HISTORY, RECIPE, SPEC, TOKENIZER, WEIGHTS, read_history
from mercato.runs.image_vectors import CACHE, image_files
from mercato.runs.torch_encoder import save_text_configs
from mercato.training.data.features import catalogue_rows
from mercato.training.data.learnable import learnable_products
from mercato.training.data.masking import WordMask, Words
from mercato.training.data.prepare import Prepared, prepare
from mercato.training.data.pretraining import PretrainingBatches
from mercato.training.history import log_row
from mercato.training.optimizer import half_precision
from mercato.training.stage import finish_stage, is_done, run_stage
from mercato.training.tasks.inverse_cloze import InverseClozeTask
from mercato.training.tasks.masked_patches import MaskedPatchesTask, PatchTargets, within
from mercato.training.tasks.masked_words import MaskedWordsTask
from mercato.training.tasks.matching import MatchingTask
from mercato.training.tasks.pretraining import COLLAPSED, PretrainingTask, PretrainingValidation, best_row, told
from mercato.training.tasks.query_item import QueryItemTask
from mercato.training.tasks.step import PretrainingObjective

VERSION = 6  # of what pretraining does: another one is done again
PATCHES = 50_000  # that targets are fitted to, at most
VALIDATED = 1_024  # held-out pairs, or products where there are none, at most
LEAST_DEVIATION = 0.01  # of a patch's number, of their median
UNIGRAM = 1.0  # added to each word's count


def pretrained(market: Market, recipe: Recipe) -> Path:
    """The folder of what a recipe's `[pretraining]` learns of a market, from the cache or trained now.

    Recipes whose pretraining is alike share it. Interrupted, the same call goes on at the last finished epoch.

    Raises:
        MercatoError: the market lacks what it wants, a loss is not finite, or somebody pressed Ctrl-C.
    """
    own, unread = pretraining_recipe(recipe), unread_channels(market, recipe)
    read = f"{own.toml()}\n# market {market.fingerprint()}\n{_read_beside(market, own)}"
    identity = f"{VERSION} {half_precision(own)} {unread}\n{read}"
    cache = market.path / CACHE
    cache.mkdir(exist_ok=True)
    folder = cache / f"pretraining-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
    with FileLock(cache / f".{folder.name}.lock"):
        if folder.is_dir():
            note(f"  pretraining: {told(best_row(read_history(folder)))} [dim](from the market's cache)[/]")
            return folder
        partial = cache / f".{folder.name}.partial"
        partial.mkdir(exist_ok=True)
        note(f"[bold]pretraining[/]: {', '.join(own.product_tower.channels)} and queries")
        start = time.perf_counter()
        prepared = prepare(market, own, partial)
        towers = _train(market, own, prepared, partial, unread)
        with atomic_directory(folder) as fresh:
            for name in (SPEC, TOKENIZER, HISTORY):
                shutil.copyfile(partial / name, fresh / name)
            (fresh / RECIPE).write_text(own.toml())
            save_text_configs(towers, fresh)
            # An encoder that is shared stands there under both its names, as towers that do not share it look for it.
            save_file({name: tensor.clone() for name, tensor in towers.state_dict().items()}, str(fresh / WEIGHTS))
            (fresh / WEIGHTS).chmod(0o644)  # safetensors lets only its writer read it
        shutil.rmtree(partial)
        note(f"  pretrained in {time.perf_counter() - start:.0f} s: {told(best_row(read_history(folder)))}")
        return folder


def pretraining_recipe(recipe: Recipe) -> Recipe:
    """The two towers that pretraining trains, as a recipe: what a recipe does not name in it does not matter to it."""
    stage = recipe.pretraining
    assert stage is not None
    query, product = recipe.query_tower, recipe.product_tower
    images = recipe.images.model_copy(update={"fine_tune": False})
    if images.patches == "pixels":
        images = images.model_copy(update={"encoder": "compact"})  # which none is asked
    return Recipe(
        name="pretraining",
        seed=recipe.seed,
        dimension=recipe.dimension,
        text=recipe.text.model_copy(update={"shared": stage.shared}),
        query_tower=type(query)(
            channels=("text",),
            text=product.text.model_copy(update={"prefix": query.text.prefix}),
            fusion="attention",
            max_tokens=query.max_tokens,
        ),
        product_tower=type(product)(
            channels=stage.channels,
            text=product.text,
            fusion="transformer",
            title_tokens=product.title_tokens,
            description_tokens=product.description_tokens,
        ),
        images=images,
        pairs=recipe.pairs,
        precision=recipe.precision,
        stages=(InBatchSoftmax(engagement_weight=1.0),),  # queries that engaged nothing are read too
        pretraining=stage,
    )


def unread_channels(market: Market, recipe: Recipe) -> int:
    """How many channels of a fusion transformer are not pretrained.

    Pretraining reads a zero in place of each, which is what the towers begin with: to a transformer that never saw such
    positions they would be most of what it pools, and none of it means anything.
    """
    own = recipe.product_tower
    assert recipe.pretraining is not None
    if own.fusion != "transformer":
        return 0
    others = [PRODUCT_CHANNELS[name] for name in set(own.channels) - set(recipe.pretraining.channels)]
    others = [channel for channel in others if channel.kind not in ("text", "ids")]
    of_photos = [channel for channel in others if "images" in channel.fields]
    if of_photos and not pc.sum(pc.list_value_length(market.arrow("products", ["images"])["images"])).as_py():
        return len(others) - len(of_photos)  # which the towers leave out too
    return len(others)


def initialise(towers: TwoTower, folder: Path) -> int:
    """Take what was pretrained into towers: every parameter of the same name and shape.

    All other channels of a fusion transformer, and of the queries beside it, begin as zeros: see `unread_channels`.
    Of positions, whose tables are as long as the longest text, as many are taken as both have; of a channel's mark in
    the sequence that of the same channel. A text encoder of the description's own starts as the items' does.

    Returns:
        How many numbers were taken.
    """
    known, taken = load_file(str(folder / WEIGHTS)), 0
    before = FeatureSpec.load(folder / SPEC).product_channels
    here = [name for name in towers.product.channels if name != IDS]
    others = [name for name in here if name not in before and PRODUCT_CHANNELS[name].kind != "text"]
    rows = [(here.index(name), row) for row, name in enumerate((*before, *others)) if name in here]
    if isinstance(towers.product, FusedProductTower):
        towers.query.zero_init()
        towers.product.zero_init()
    with torch.no_grad():
        for name, parameter in towers.named_parameters():
            source = known.get(name.replace("product.description_text.", "product.text."))
            if source is None or source.shape[1:] != parameter.shape[1:]:
                continue
            if name == MARKS:
                for own, other in rows[: len(source)]:
                    parameter[own] = source[other]
                    taken += parameter.shape[1]
            elif source.shape == parameter.shape or "position_embeddings" in name:
                count = min(len(source), len(parameter))
                parameter[:count] = source[:count]
                taken += source[:count].numel()
    return taken


def _read_beside(market: Market, recipe: Recipe) -> str:
    """What is read that neither a table nor the recipe holds: photos in files, and encoders in folders."""
    files = image_files(market) if recipe.uses_patches else []
    for name in (recipe.text.pretrained, recipe.images.encoder):
        folder = Path(name or "")
        own = sorted(file for file in folder.iterdir() if file.is_file()) if name and folder.is_dir() else []
        files += [(str(file), (stat := file.stat()).st_size, stat.st_mtime_ns) for file in own]
    return repr(files)


def _train(market: Market, recipe: Recipe, prepared: Prepared, folder: Path, unread: int) -> PretrainingTowers:
    """The towers of `pretraining_recipe`, at their best epoch; checkpoints, history and curves are in `folder`."""
    stage = recipe.pretraining
    assert stage is not None
    torch.manual_seed(recipe.seed)
    spec = prepared.featurizer.spec
    towers = build_pretraining_towers(recipe, spec, text_configs(recipe, spec), unread=unread)
    task = _task(market, recipe, stage, prepared)
    if "mlm" in task.objectives:  # words begin as the unigram model, and learn the rest
        chances_W = _log_chances(task.batches)
        towers.words.bias_W.data.fill_(float(chances_W.min()))  # a pretrained encoder may know more than its tokenizer
        towers.words.bias_W.data[: len(chances_W)] = chances_W
    note(
        f"  {sum(p.numel() for p in towers.parameters()):,} parameters; {len(task.batches.pairs):,} engaged pairs,"
        f" {len(task.batches.products):,} products, {len(task.batches.queries):,} queries that engaged nothing"
    )

    def log_epoch(row: dict[str, Any]) -> None:
        log_row(folder, {"stage": "pretraining", **row}, task.validation)
        note(f"    {told(row)}")
        if row["vectors/mean_cosine"] > COLLAPSED:
            cosine = f"{row['vectors/mean_cosine']:.2f}"
            note(f"    [yellow]two products' mean cosine is {cosine}: their vectors have collapsed to nearly one[/]")

    checkpoints = folder / "checkpoints"
    if is_done(checkpoints):  # killed before it was written
        finish_stage(towers, checkpoints)
        return towers
    run_stage(
        towers,
        stage=stage,
        task=task,
        folder=checkpoints,
        logger=TensorBoardLogger(folder, name="tensorboard", version="pretraining"),
        half=half_precision(recipe),
        log_epoch=log_epoch,
    )
    return towers.cpu()


def _task(market: Market, recipe: Recipe, stage: Pretraining, prepared: Prepared) -> PretrainingTask:
    """What is learned, of products that may be learned from; of these a share validates, with all its pairs."""
    examples = prepared.examples
    ids = catalogue_rows(market, recipe)["product_id"]
    learnable_P = ids.is_in(learnable_products(market, recipe.pairs).implode()).to_numpy()
    held_P = np.array([catalogue_split(f"pretraining {product}", stage.held_out) == "future" for product in ids])
    engaged = examples.engaged[learnable_P[examples.product_N[examples.engaged]]]
    held_K = held_P[examples.product_N[engaged]]
    pairs = engaged[~held_K]
    engaging = np.unique(examples.query_N[examples.engaged])
    tokenizer = prepared.featurizer.tokenizer
    batches = PretrainingBatches(
        examples,
        pairs=pairs,
        products=np.flatnonzero(learnable_P & ~held_P),
        queries=np.setdiff1d(examples.query_N, engaging),
        stage=stage,
        words=Words.of(tokenizer),
        mask=WordMask.of(tokenizer) if stage.mlm.weight else None,
        spec=prepared.featurizer.spec,
        seed=recipe.seed,
    )
    generator = np.random.default_rng(recipe.seed)
    told: dict[str, tuple[float, PretrainingObjective]] = {}
    if "mlm" in batches.tasks:
        told["mlm"] = (stage.mlm.weight, MaskedWordsTask(stage.mlm, _log_chances(batches)))
    masks = examples.tables.products.get("patch_mask")
    if "mpm" in batches.tasks and masks is not None and masks[batches.products].any():
        told["mpm"] = (stage.mpm.weight, MaskedPatchesTask(stage.mpm, _patch_targets(batches, generator)))
    # The mean over a handful of pairs must not count as much as that over all products beside them: the towers would
    # know these pairs by heart and find nothing else.
    of_products = min(1.0, len(pairs) / len(batches.products)) if stage.unpaired and len(batches.products) else 1.0
    if "qic" in batches.tasks and of_products:
        told["qic"] = (of_products * stage.qic.weight, QueryItemTask(stage.qic))
    if "qim" in batches.tasks and of_products:
        told["qim"] = (of_products * stage.qim.weight, MatchingTask(stage.qim, "qim"))
    if "qim2" in batches.tasks:  # of products without a pair too
        told["qim2"] = (stage.qim2.weight, MatchingTask(stage.qim2, "qim2"))
    if "ict" in batches.tasks:
        told["ict"] = (stage.ict.weight, InverseClozeTask(stage.ict))
    held = generator.permutation(engaged[held_K])[:VALIDATED]
    lone = generator.permutation(np.flatnonzero(learnable_P & held_P))[:VALIDATED]
    count = max(1, -(-max(len(held), len(lone)) // stage.batch_size))
    validation = [
        batches.batch(rows, others, rows[:0], generator)
        for rows, others in zip(np.array_split(held, count), np.array_split(lone, count), strict=True)
        if len(rows) or len(others)
    ]
    if not validation:
        raise MercatoError(
            f"pretraining.held_out: {stage.held_out:g} of {int(learnable_P.sum()):,} products is none to validate on;"
            " raise it"
        )
    return PretrainingTask(
        batches=batches,
        validation=PretrainingValidation(batches=validation, objectives=told),
        objectives=told,
    )


def _log_chances(batches: PretrainingBatches) -> Tensor:
    """Log of how often each token is a word's in the queries and titles that train, (W,)."""
    assert batches.mask is not None
    tables, words_W = batches.examples.tables, batches.mask.words.words_W
    counts_W = np.full(len(words_W), UNIGRAM)
    queries = np.concatenate([batches.examples.query_N[batches.pairs], batches.queries])
    texts = [tables.queries["tokens"][queries], *(tables.products[name][batches.products] for name in batches.text)]
    for tokens_BL in texts:
        counts_W += np.bincount(tokens_BL.ravel(), minlength=len(words_W))
    counts_W[~words_W] = UNIGRAM
    return torch.from_numpy(np.log(counts_W / counts_W.sum())).float()


def _patch_targets(batches: PretrainingBatches, generator: np.random.Generator) -> PatchTargets:
    """What is known of the patches of the products that train."""
    products = batches.examples.tables.products
    some = generator.permutation(batches.products)
    parts: list[NDArray[np.float32]] = []
    for row in some:
        if sum(map(len, parts)) >= PATCHES:
            break
        parts.append(products["patches"][row][products["patch_mask"][row]].reshape(-1, products["patches"].shape[-1]))
    patch_NV = np.concatenate(parts).astype(np.float32)
    mean_V, deviation_V = patch_NV.mean(0), patch_NV.std(0)
    least = LEAST_DEVIATION * np.median(deviation_V[deviation_V > 0]) if deviation_V.any() else 1.0
    deviation_V = np.where(deviation_V > 0, np.maximum(deviation_V, least), 1.0).astype(np.float32)
    stage = batches.stage.mpm
    code_KV, chance_K = np.zeros((0, len(mean_V)), np.float32), np.zeros(0)
    if stage.target == "codebook":
        standard_NV = (patch_NV - mean_V) / deviation_V
        clusters = Kmeans(len(mean_V), min(stage.codes, len(patch_NV)), seed=batches.seed, niter=20)
        clusters.train(standard_NV)
        code_KV = np.asarray(clusters.centroids)
        counts_K = np.bincount(clusters.assign(standard_NV)[1], minlength=len(code_KV)) + UNIGRAM
        chance_K = counts_K / counts_K.sum()
    return PatchTargets(
        torch.from_numpy(mean_V),
        torch.from_numpy(deviation_V),
        torch.from_numpy(code_KV),
        torch.from_numpy(np.log(chance_K)).float(),
        within(torch.from_numpy(patch_NV)).mean(0),
    )
