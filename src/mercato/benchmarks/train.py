"""`mercato bench train`: pairs a second of training, against sentence-transformers on the same encoder and pairs."""

from __future__ import annotations

import logging
import tempfile
import time
import warnings
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from rich.table import Table
from torch.utils.data import DataLoader
from transformers import AutoConfig, BertConfig, BertModel, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from mercato.benchmarks.machine import machine
from mercato.config import Recipe
from mercato.errors import MercatoError
from mercato.features.featurizer import FeatureSpec, Featurizer
from mercato.features.tokenizer import SPECIAL, pretrained_tokenizer, train_tokenizer
from mercato.models.build import build_towers, text_configs
from mercato.progress import track
from mercato.simulation.listings import make_catalogue
from mercato.training.data.batches import Examples, FeatureTables, PairBatches
from mercato.training.module import StageModule
from mercato.training.tasks.build import pair_objectives
from mercato.training.tasks.pairs import PairTask

BUDGET = 1.5
TOKENS = 64  # of a text, at most
SCALE, RATE, CLIP = 20.0, 1e-4, 1.0
VOCABULARY, LAYERS, HEADS, HIDDEN = 8_000, 4, 4, 256  # of the encoder from scratch


@dataclass(frozen=True)
class Outcome:
    """What one epoch took, by the clock and of the processor (less moved by others on the machine)."""

    seconds: float
    cpu_seconds: float
    loss: float  # mean


class _Clock:
    def __init__(self) -> None:
        self.start, self.cpu_start = time.perf_counter(), time.process_time()

    def stop(self, loss: float) -> Outcome:
        return Outcome(time.perf_counter() - self.start, time.process_time() - self.cpu_start, loss)


def run(
    encoder: str | None = None, pairs: int = 2_048, batch_size: int = 64, repeats: int = 3, hidden: int = HIDDEN
) -> dict[str, Any]:
    """Train one epoch on (title, description) pairs of simulated listings, Mercato and its peer in turn.

    Both start from the same transformer (`encoder`: hub name or folder; else one from scratch, `hidden` wide), pool the
    mean of its states, see the same pairs in batches of one size with the other pairs as negatives, at one learning
    rate, with Adam and gradient clipping. Each tokenises in its own way within its time. The peer is
    MultipleNegativesRankingLoss in sentence-transformers' own trainer, with the sampler that this loss asks for.

    Raises:
        MercatoError: sentence-transformers is not installed, or `encoder` cannot be loaded.
    """
    _peer_is_there()
    titles, descriptions = _texts(pairs)
    with tempfile.TemporaryDirectory() as scratch:
        name = encoder or _from_scratch(Path(scratch) / "encoder", titles + descriptions, hidden)
        systems = {"mercato": _mercato, "sentence_transformers": _peer}
        warm = slice(2 * batch_size)
        for train in systems.values():
            train(name, titles[warm], descriptions[warm], batch_size, Path(scratch))
        outcomes: dict[str, list[Outcome]] = {system: [] for system in systems}
        for _ in track(range(repeats), "training both, in turn"):
            for system, train in systems.items():
                outcomes[system].append(train(name, titles, descriptions, batch_size, Path(scratch)))
        turns = list(zip(outcomes["mercato"], outcomes["sentence_transformers"], strict=True))
        return {
            **{system: _figures(of_it, pairs) for system, of_it in outcomes.items()},
            "ratio": float(np.median([peer.seconds / own.seconds for own, peer in turns])),
            "ratios": [peer.seconds / own.seconds for own, peer in turns],
            "cpu_time_ratio": float(np.median([peer.cpu_seconds / own.cpu_seconds for own, peer in turns])),
            "budget_ratio": BUDGET,
            "padding": _padding(name, titles, descriptions, batch_size),
            "encoder": encoder or f"from scratch, {LAYERS} layers × {hidden}",
            "pairs": pairs,
            "batch_size": batch_size,
            "threads": torch.get_num_threads(),
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "machine": machine(),
        }


def table(figures: dict[str, Any]) -> Table:
    """The figures for people."""
    grid = Table("", "pairs/s", "lowest–highest", "mean loss", title=f"training, one epoch: {figures['encoder']}")
    for system in ("mercato", "sentence_transformers"):
        own = figures[system]
        spread = f"{own['slowest']:.0f}–{own['fastest']:.0f}"
        grid.add_row(system.replace("_", "-"), f"{own['pairs_per_s']:.0f}", spread, f"{own['loss']:.2f}")
    grid.caption = (
        f"{figures['ratio']:.2f}× (by processor time {figures['cpu_time_ratio']:.2f}×; budget"
        f" {figures['budget_ratio']}×); {figures['pairs']:,} pairs, batches of"
        f" {figures['batch_size']}, {figures['padding']:.0%} padding if all texts are as long as the longest;"
        f" {figures['threads']} threads, {figures['device']}, {figures['machine']}"
    )
    return grid


def _figures(outcomes: list[Outcome], pairs: int) -> dict[str, float]:
    speeds = [pairs / outcome.seconds for outcome in outcomes]
    return {
        "pairs_per_s": float(np.median(speeds)),
        "slowest": min(speeds),
        "fastest": max(speeds),
        "cpu_seconds": float(np.median([outcome.cpu_seconds for outcome in outcomes])),
        "loss": outcomes[-1].loss,
    }


def _mercato(name: str, titles: list[str], descriptions: list[str], batch_size: int, scratch: Path) -> Outcome:
    """One epoch, tokenising included."""
    tokenizer, pad_id = pretrained_tokenizer(name)
    configuration = AutoConfig.from_pretrained(name)
    text = {"layers": configuration.num_hidden_layers, "pooling": "mean"}
    recipe = Recipe.model_validate(
        {
            "name": "bench",
            "dimension": configuration.hidden_size,
            "dropout": 0.0,
            "text": {"pretrained": name, "shared": True},
            "query_tower": {"channels": ("text",), "text": text},
            "product_tower": {"channels": ("description_text",), "text": text},
            "stages": (
                {
                    "scale": SCALE,
                    "batch_size": batch_size,
                    "epochs": 1,
                    "learning_rate": RATE,
                    "text_learning_rate": RATE,
                    "clip": CLIP,
                },
            ),
        }
    )
    spec = FeatureSpec(
        query_channels=recipe.query_tower.channels,
        product_channels=recipe.product_tower.channels,
        pad_id=pad_id,
        vocabulary=tokenizer.get_vocab_size(),
        buckets=recipe.trigrams.buckets,
        query_tokens=TOKENS,
        query_characters=8 * TOKENS,
        title_tokens=0,  # no channel reads it
        description_tokens=TOKENS,
        countries=(),
        languages=(),
        normalized=False,
    )
    towers = build_towers(recipe, spec, text_configs(recipe, spec))
    featurizer = Featurizer(spec, tokenizer)
    rows: list[dict[str, Any]] = []

    clock = _Clock()
    query, query_N = np.unique(np.array(titles, object), return_inverse=True)
    product, product_N = np.unique(np.array(descriptions, object), return_inverse=True)
    examples = Examples(
        tables=FeatureTables(
            queries=featurizer.queries(query.tolist(), [None] * len(query)),
            products=featurizer.products([{"description": text} for text in product]),
            spec=spec,
        ),
        query_N=query_N,
        product_N=product_N,
        grade_N=np.ones(len(titles), np.float32),
        engaged_N=np.ones(len(titles), bool),
    )
    stage = recipe.pair_stages[0]
    batches = PairBatches(examples, examples.engaged, stage, seed=0)
    task = PairTask(batches=batches, validation=None, objectives=pair_objectives(stage))
    best = scratch / "best.pt"
    module = StageModule(towers=towers, stage=stage, task=task, best_file=best, log_epoch=rows.append)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = L.Trainer(
            max_epochs=1,
            devices=1,
            precision="bf16-mixed" if torch.cuda.is_available() else "32-true",
            gradient_clip_val=stage.clip,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, DataLoader(batches, batch_size=None))
    return clock.stop(rows[-1]["loss"])


def _peer(name: str, titles: list[str], descriptions: list[str], batch_size: int, scratch: Path) -> Outcome:
    """The same of sentence-transformers."""
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.losses import MultipleNegativesRankingLoss
    from sentence_transformers.training_args import BatchSamplers
    from transformers.trainer_callback import PrinterCallback

    model = SentenceTransformer(name)
    model.max_seq_length = TOKENS
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(scratch / "peer"),
        num_train_epochs=1,
        per_device_train_batch_size=batch_size,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        max_grad_norm=CLIP,
        optim="adamw_torch_fused",
        batch_sampler=BatchSamplers.NO_DUPLICATES,
        bf16=torch.cuda.is_available(),
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    pairs = Dataset.from_dict({"anchor": titles, "positive": descriptions})
    loss = MultipleNegativesRankingLoss(model, scale=SCALE)
    trainer = SentenceTransformerTrainer(model=model, args=arguments, train_dataset=pairs, loss=loss)
    trainer.remove_callback(PrinterCallback)
    clock = _Clock()  # only now: its trainer writes a model card when it is made
    outcome = trainer.train()
    return clock.stop(float(outcome.training_loss))


def _peer_is_there() -> None:
    try:
        datasets, _ = map(import_module, ("datasets", "sentence_transformers"))
    except ImportError as error:
        raise MercatoError(
            f"the peer of this benchmark is missing ({error}): `pip install 'mercato[bench]'` brings it"
        ) from None
    datasets.disable_progress_bars()
    disable_progress_bar()  # type: ignore[no-untyped-call]
    for chatty in ("sentence_transformers", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(chatty).setLevel(logging.ERROR)


def _texts(count: int) -> tuple[list[str], list[str]]:
    """Titles and descriptions of `count` simulated listings that have both."""
    listings = make_catalogue(2 * count, 82, np.random.default_rng(0)).listings
    both = [(listing.title, listing.description) for listing in listings if listing.title and listing.description]
    titles, descriptions = zip(*both[:count], strict=True)
    return list(titles), list(descriptions)


def _from_scratch(folder: Path, texts: list[str], hidden: int) -> str:
    """An untrained BERT with a tokenizer of these texts, in a folder as transformers reads it."""
    pad, first, last, unknown = SPECIAL
    tokenizer = train_tokenizer(set(texts), VOCABULARY)
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token=pad,
        cls_token=first,
        sep_token=last,
        unk_token=unknown,
        model_max_length=TOKENS,
    ).save_pretrained(folder)
    torch.manual_seed(0)
    BertModel(
        BertConfig(
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=hidden,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            intermediate_size=4 * hidden,
            max_position_embeddings=2 * TOKENS,
            pad_token_id=SPECIAL.index(pad),
        )
    ).save_pretrained(folder)
    return str(folder)


def _padding(name: str, titles: list[str], descriptions: list[str], batch_size: int) -> float:
    """The share of padding where each batch's texts are as long as its longest."""
    tokenizer, _ = pretrained_tokenizer(name)
    real = padded = 0
    for texts in (titles, descriptions):
        lengths = [min(TOKENS, len(encoding.ids)) for encoding in tokenizer.encode_batch_fast(texts)]
        for start in range(0, len(lengths), batch_size):
            part = lengths[start : start + batch_size]
            real, padded = real + sum(part), padded + len(part) * max(part)
    return 1 - real / padded
