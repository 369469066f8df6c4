"""Amazon's Shopping Queries, from multilingual-e5-small: Mercato beside sentence-transformers on the same pairs.

    python benchmarks/esci.py --data DIR --e5 FOLDER --out DIR

Every system learns from the same 2,905 graded pairs (`train_judgments.parquet`), or, in-batch losses, from the 1,436
of them that are exact matches, and is asked the 100 judged test queries. Epochs and learning rates of ours were chosen
by cross-validation over the training queries; the test judgments are read once, here. What has finished is kept in OUT:
the same command goes on where it was stopped. Needs `pip install mercato[bench]`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from mercato.benchmarks.machine import machine
from mercato.config import load_recipe
from mercato.data.importing import import_market
from mercato.data.market import Market
from mercato.evaluation.arrays import FloatArray
from mercato.evaluation.bm25 import BM25, FIELDS
from mercato.evaluation.bootstrap import Statistic, interval, paired_interval, point, pooled_auc, query_mean, resample
from mercato.evaluation.ndcg import ndcg
from mercato.evaluation.roc_auc import per_query_roc_auc
from mercato.evaluation.systems import LexicalSystem, encode
from mercato.evaluation.tasks import Lists, Tasks
from mercato.files import write_whole
from mercato.models.encoder import Encoder
from mercato.models.model import Model
from mercato.models.zero_shot import DESCRIPTION, TOKENS, ZeroShot
from mercato.progress import note
from mercato.training.train import train

GRADES = {"E": 1.0, "S": 0.4, "C": 0.2, "I": 0.0}  # what graded losses learn; the test's gains are 1, .1, .01, 0
METRICS = {"roc_auc": "ROC AUC", "roc_auc_per_query": "ROC AUC, per query", "ndcg@10": "nDCG@10"}
BASELINES = {"bm25": "BM25", "zero_shot": "multilingual-e5-small, zero-shot"}
SEED = 0


@dataclass(frozen=True)
class Peer:
    """A fine-tuning by sentence-transformers, in the settings that its documentation gives for the loss."""

    title: str
    loss: str
    described: bool = False  # a product is its title and the start of its description; else its title
    epochs: int = 2
    batch_size: int = 32
    learning_rate: float = 5e-5
    warmup: float = 0.1


PEERS = {
    "mnrl": Peer("sentence-transformers, MultipleNegativesRankingLoss (E pairs)", "MultipleNegativesRankingLoss"),
    "cosent": Peer("sentence-transformers, CoSENTLoss", "CoSENTLoss"),
    "cosent_described": Peer("the same, title and description", "CoSENTLoss", described=True),
}
OURS = {"mercato": "Mercato, `esci-e5`"}
NAMES = BASELINES | {name: peer.title for name, peer in PEERS.items()} | OURS


def main() -> None:
    """Measure what is not measured yet, then write OUT/esci.json and OUT/esci.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="products, judgments and train_judgments.parquet")
    parser.add_argument("--e5", type=Path, required=True, help="multilingual-e5-small in transformers' format")
    parser.add_argument("--out", type=Path, required=True, help="market, runs, scores and results")
    parser.add_argument("--recipe", default="esci-e5", help="ours: a recipe's name or file")
    parser.add_argument("--only", nargs="+", choices=NAMES, help="measure these alone")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    market = _market(given.data, given.out / "market")
    tasks = Tasks.read(market)
    lists = tasks.relevance
    assert lists is not None
    products = market.arrow("products")

    def of_encoder(encoder: Encoder, name: str, described: bool = False) -> FloatArray:
        table = products if described else products.set_column(*_nothing(products, "description"))
        return encode(encoder, name, tasks.queries, table, tasks.rows).score(lists.queries, lists.products)

    def bm25() -> FloatArray:
        system = LexicalSystem(BM25(products.select(["product_id", *FIELDS])), tasks.queries["query"].to_list())
        return system.score(lists.queries, lists.products)

    def peer(name: str) -> FloatArray:
        folder = given.out / f"{name}-e5"  # "e5": so that `ZeroShot` sets its prefixes
        _train_peer(PEERS[name], given.data, given.e5, folder)
        return of_encoder(ZeroShot(str(folder)), name, PEERS[name].described)

    def ours() -> FloatArray:
        run = given.out / "run"
        recipe = load_recipe(given.recipe, [f"text.pretrained={given.e5}"])
        return of_encoder(Model.load(run) if run.is_dir() else train(recipe, market, run), "mercato")

    ways: dict[str, Callable[[], FloatArray]] = {
        "bm25": bm25,
        "zero_shot": lambda: of_encoder(ZeroShot(str(given.e5)), "zero-shot"),
        **{name: (lambda name=name: peer(name)) for name in PEERS},
        "mercato": ours,
    }
    scores = {}
    for name, measure in ways.items():
        file = given.out / f"{name}.npz"
        if not file.is_file() and (given.only is None or name in given.only):
            start = time.perf_counter()
            note(f"[bold]{NAMES[name]}[/]")
            found = measure()
            np.savez(file, scores_P=found, seconds=time.perf_counter() - start, machine=machine())
        if file.is_file():
            scores[name] = dict(np.load(file))
    result = _compare(lists, market.config.relevant_grade, scores)
    write_whole(given.out / "esci.json", json.dumps(result, indent=2) + "\n")
    write_whole(given.out / "esci.md", _markdown(result))
    print(_markdown(result))


def _market(data: Path, folder: Path) -> Market:
    """ESCI as a market in which every training pair trains."""
    if not folder.is_dir():
        train_file = data / "train_judgments.parquet"
        import_market(
            folder,
            [data / "products.parquet", train_file],
            judgments=[data / "judgments.parquet"],
            pairs=[train_file],
            mapping=Path(__file__).with_suffix(".toml"),
        )
    return Market.open(folder)


def _nothing(table: pa.Table, column: str) -> tuple[int, pa.Field, pa.Array]:
    """What puts nulls in the place of a column."""
    place = table.column_names.index(column)
    field = table.schema.field(place)
    return place, field, pa.nulls(table.num_rows, field.type)


def _train_peer(peer: Peer, data: Path, e5: Path, folder: Path) -> None:
    """Fine-tune by sentence-transformers' own trainer: AdamW, linear warm-up and decay, dropout .1."""
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer import losses

    if (folder / "config.json").is_file():
        return
    pairs = pl.read_parquet(data / "train_judgments.parquet")
    graded = peer.loss == "CoSENTLoss"
    if not graded:
        pairs = pairs.filter(pl.col("esci_label") == "E")
    described = pl.col("description").fill_null("").str.slice(0, DESCRIPTION if peer.described else 0)
    product = pl.concat_str(pl.lit("passage: "), pl.concat_str("title", described, separator=" ").str.strip_chars())
    columns = {"anchor": pl.concat_str(pl.lit("query: "), "query"), "positive": product}
    if graded:
        columns["score"] = pl.col("esci_label").replace_strict(GRADES, return_dtype=pl.Float64)
    model = SentenceTransformer(str(e5), device="cpu", model_kwargs={"attn_implementation": "eager"})
    model.max_seq_length = TOKENS
    with tempfile.TemporaryDirectory() as scratch:
        arguments = SentenceTransformerTrainingArguments(
            scratch,
            num_train_epochs=peer.epochs,
            per_device_train_batch_size=peer.batch_size,
            learning_rate=peer.learning_rate,
            warmup_steps=peer.warmup,
            # Recommended for in-batch negatives: no text twice in a batch.
            batch_sampler="batch_sampler" if graded else "no_duplicates",
            bf16=True,
            use_cpu=True,
            seed=SEED,
            save_strategy="no",
            report_to="none",
        )
        trainer = SentenceTransformerTrainer(
            model, arguments, Dataset.from_polars(pairs.select(**columns)), loss=getattr(losses, peer.loss)(model)
        )
        trainer.train()
    tokenizer, transformer = model.tokenizer, model[0].auto_model
    tokenizer.save_pretrained(folder)
    transformer.save_pretrained(folder)


def _compare(lists: Lists, relevant_grade: float, scores: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Every figure with its 95 % bootstrap interval over queries, and ours less the best peer's, paired."""
    queries = len(lists.asked)
    weights_RQ = resample(queries, SEED)
    systems: dict[str, Any] = {}
    replicates: dict[str, dict[str, FloatArray]] = {}
    for name, kept in scores.items():
        statistics = _statistics(lists, relevant_grade, kept["scores_P"])
        replicates[name] = {metric: statistic(weights_RQ) for metric, statistic in statistics.items()}
        systems[name] = {
            "system": NAMES[name],
            "seconds": round(float(kept["seconds"]), 1),
            "machine": str(kept["machine"]),
            **{
                metric: {"value": point(statistic, queries), "interval": interval(replicates[name][metric])}
                for metric, statistic in statistics.items()
            },
        }
    result: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "queries": queries,
        "pairs": len(lists.queries),
        "systems": systems,
    }
    peers = [name for name in systems if name in PEERS]
    if peers and "mercato" in systems:
        best = max(peers, key=lambda name: systems[name]["roc_auc"]["value"])
        result["best_peer"] = best
        result["mercato_less_best_peer"] = {
            metric: {
                "value": systems["mercato"][metric]["value"] - systems[best][metric]["value"],
                "interval": paired_interval(replicates["mercato"][metric], replicates[best][metric]),
            }
            for metric in METRICS
        }
    return result


def _statistics(lists: Lists, relevant_grade: float, scores_P: FloatArray) -> dict[str, Statistic]:
    relevant_P = lists.grades >= relevant_grade
    return {
        "roc_auc": pooled_auc(lists.groups, relevant_P, scores_P),
        "roc_auc_per_query": query_mean(per_query_roc_auc(lists.groups, relevant_P, scores_P)),
        "ndcg@10": query_mean(ndcg(lists.groups, lists.grades, scores_P, 10)),
    }


def _markdown(result: dict[str, Any]) -> str:
    lines = ["| | " + " | ".join(METRICS.values()) + " |", "|---" * (len(METRICS) + 1) + "|"]
    lines += [
        f"| {row['system']} | " + " | ".join(_cell(row[m]) for m in METRICS) + " |"
        for row in result["systems"].values()
    ]
    if "best_peer" in result:
        difference = result["mercato_less_best_peer"]
        lines.append("| ours less the best peer's | " + " | ".join(_cell(difference[m], "+") for m in METRICS) + " |")
    return "\n".join(lines) + "\n"


def _cell(figure: dict[str, Any], sign: str = "") -> str:
    low, high = figure["interval"]
    return f"{figure['value']:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


if __name__ == "__main__":
    main()
