"""Amazon's Shopping Queries, from multilingual-e5-small: Mercato beside sentence-transformers on the same pairs.

    python benchmarks/esci.py --data DIR --e5 FOLDER --out DIR

What learns, learns from the same 2,905 graded pairs (`train_judgments.parquet`), or, where a loss is in-batch, from the
1,436 of them that are exact matches, for two epochs of batches of 32; all are then asked the 100 judged test queries. A
product is its title, unless a row says otherwise. The ranked row has the vectors of the row before it, and words: its
ranker learns from the same pairs, the cosine of each by a tower that was trained on two thirds of the queries, without
its own. docs/real-data.md tells what was tried, and how often the test was looked at. What has finished is kept in OUT:
the same command goes on where it was stopped. Needs mercato[bench].
"""

from __future__ import annotations

import argparse
import datetime
import json
import shutil
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

import mercato
from mercato.benchmarks.machine import machine
from mercato.config import load_recipe
from mercato.data.hashing import hash64
from mercato.data.importing import import_market
from mercato.data.market import Market
from mercato.data.mining import SPLITS
from mercato.data.normalize import normalize
from mercato.data.pairs import split_cutoff
from mercato.data.schema import LISTS
from mercato.evaluation.baselines.bm25 import BM25
from mercato.evaluation.baselines.lexical import FIELDS
from mercato.evaluation.baselines.zero_shot import DESCRIPTION, TOKENS, ZeroShot
from mercato.evaluation.dataset import EvaluationSet, LabelledPairs
from mercato.evaluation.metrics.arrays import FloatArray
from mercato.evaluation.metrics.bootstrap import interval, paired_interval, point, resample
from mercato.evaluation.metrics.metric import QueryMean, Statistic
from mercato.evaluation.metrics.ndcg import ndcg
from mercato.evaluation.metrics.roc_auc import per_query_roc_auc, pooled_auc
from mercato.evaluation.systems import LexicalSystem, encode
from mercato.files import atomic_directory, write_atomic
from mercato.progress import note
from mercato.ranking import linear
from mercato.ranking.counting import count
from mercato.ranking.dataset import judged
from mercato.ranking.features import IDS, NAMES
from mercato.ranking.lookup import query_key
from mercato.ranking.ranker import LINEAR, Ranker
from mercato.ranking.statistics import Statistics
from mercato.ranking.system import RankedSearch
from mercato.retrieval.expression import Expression
from mercato.retrieval.open import build_index, open_index
from mercato.retrieval.protocol import Index, record_from_product
from mercato.runs.encoder import Encoder
from mercato.runs.folder import RECIPE
from mercato.runs.torch_encoder import TorchEncoder
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
RANKED = "ranked"
TITLES = BASELINES | {name: peer.title for name, peer in PEERS.items()} | {RANKED: "Mercato, ranked"}
FOLDS = 3  # of the queries, each with a tower trained on the others, by whose cosines the ranker learns
COUNTRY = "us"


def main() -> None:
    """Measure what is not measured yet, then write OUT/esci.json and OUT/esci.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="products, judgments and train_judgments.parquet")
    parser.add_argument("--e5", type=Path, required=True, help="multilingual-e5-small in transformers' format")
    parser.add_argument("--out", type=Path, required=True, help="market, runs, scores and results")
    parser.add_argument("--recipe", default="esci-e5", help="ours: a recipe's name or file")
    parser.add_argument("--only", nargs="+", help=f"measure these alone, of {', '.join(TITLES)} and the recipe's name")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    market = _market(given.data, given.out / "market")
    recipe = load_recipe(given.recipe, [f"text.pretrained={given.e5}"])
    dataset = EvaluationSet.read(market)
    lists = dataset.relevance
    assert lists is not None
    products = market.arrow("products")
    titles = products.set_column(*_nothing(products, "description"))

    def of_encoder(encoder: Encoder, name: str, table: pa.Table) -> FloatArray:
        return encode(encoder, name, dataset.queries, table, dataset.rows).score(lists.queries, lists.products)

    def bm25() -> FloatArray:
        system = LexicalSystem(BM25(products.select(["product_id", *FIELDS])), dataset.queries["query"].to_list())
        return system.score(lists.queries, lists.products)

    def of_peer(name: str, peer: Peer) -> FloatArray:
        folder = given.out / f"{name}-e5"  # "e5": so that `ZeroShot` sets its prefixes
        if not _is_of(folder / "SETTINGS", repr(peer)):
            _train_peer(peer, given.data, given.e5, folder)
        return of_encoder(ZeroShot(str(folder)), name, products if peer.described else titles)

    def trained(market: Market, run: Path) -> TorchEncoder:
        return TorchEncoder.load(run) if _is_of(run / RECIPE, recipe.toml()) else train(recipe, market, run)

    def ours() -> FloatArray:
        return of_encoder(trained(market, given.out / f"run-{recipe.name}"), recipe.name, products)

    def ranked() -> FloatArray:
        encoder, as_of = trained(market, given.out / f"run-{recipe.name}"), split_cutoff(market, SPLITS)
        pairs = market.frame("pairs")
        towers = (
            trained(_apart(market, fold, given.out / f"market-apart-{fold}"), given.out / f"run-apart-{fold}")
            for fold in range(FOLDS)
        )
        cosines = _out_of_fold(pairs, products, towers)
        with _indexed(encoder, market, given.out / "index") as (index, statistics):
            learned, worth = judged(pairs, as_of, encoder, index, statistics)
            ids = (learned.ids_PT[:, IDS.index(name)].tolist() for name in ("query", "product_id"))
            learned.features_PF[:, NAMES.index("cosine")] = [cosines[key] for key in zip(*ids, strict=True)]
            model = linear.fit(learned, worth)
            ranker = Ranker.of({LINEAR: model.to_onnx()}, statistics, worth, recipe.ranking)
            rows = dataset.queries, dataset.product_ids
            search = RankedSearch(ranker.stage, ranker.rank, encoder, index, *rows, as_of)
            return search.score(lists.queries, lists.products)

    # Each system: what it was made of, and how to score every judged pair.
    systems: dict[str, tuple[str, Callable[[], FloatArray]]] = {
        "bm25": ("", bm25),
        "zero_shot": ("", lambda: of_encoder(ZeroShot(str(given.e5)), "zero-shot", titles)),
        **{name: (repr(peer), partial(of_peer, name, peer)) for name, peer in PEERS.items()},
        recipe.name: (recipe.toml(), ours),
        RANKED: (recipe.toml(), ranked),
    }
    scores: dict[str, FloatArray] = {}
    for name, (settings, measure) in systems.items():
        file = given.out / f"{name}.npz"
        known = dict(np.load(file)) if file.is_file() else {}
        if known.get("made_of") != settings + market.fingerprint() and (given.only is None or name in given.only):
            note(f"[bold]{TITLES.get(name, name)}[/]")
            known = {"made_of": np.array(settings + market.fingerprint()), "scores_P": measure()}
            np.savez(file, **known)
        if known.get("made_of") == settings + market.fingerprint():
            scores[name] = known["scores_P"]
    result = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "mercato": mercato.__version__,
        "sentence-transformers": version("sentence-transformers"),
        "machine": machine(),
        "recipe": tomllib.loads(recipe.toml()),
        "peers": {name: asdict(peer) for name, peer in PEERS.items()},
        **_compare(lists, market.config.relevant_grade, scores, (recipe.name, RANKED)),
    }
    write_atomic(given.out / "esci.json", json.dumps(result, indent=2) + "\n")
    write_atomic(given.out / "esci.md", _markdown(result))
    print(_markdown(result))


def _is_of(file: Path, settings: str) -> bool:
    """Whether what lies there was made of these settings."""
    return file.is_file() and file.read_text() == settings


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


def _fold(query: str) -> int:
    return hash64(normalize(query)) % FOLDS


def _apart(market: Market, fold: int, folder: Path) -> Market:
    """The market without the pairs of one fold of the queries."""
    if not folder.is_dir():
        pairs = market.frame("pairs")
        with atomic_directory(folder) as fresh:
            shutil.copytree(market.path, fresh, dirs_exist_ok=True, ignore=shutil.ignore_patterns("pairs*"))
            pairs.filter(pl.Series([_fold(query) != fold for query in pairs["query"]])).write_parquet(
                fresh / "pairs.parquet"
            )
    return Market.open(folder)


def _out_of_fold(pairs: pl.DataFrame, products: pa.Table, towers: Iterator[Encoder]) -> dict[tuple[int, int], float]:
    """The cosine of every pair by a tower that has not seen its query, by the keys of query and product."""
    row_of = {product_id: row for row, product_id in enumerate(products["product_id"].to_pylist())}
    cosines: dict[tuple[int, int], float] = {}
    for fold, encoder in enumerate(towers):
        own = pairs.filter(pl.Series([_fold(query) == fold for query in pairs["query"]]))
        queries_PD = encoder.encode_queries(own["query"].to_list(), COUNTRY)
        products_PD = encoder.encode_products(products.take([row_of[product] for product in own["product_id"]]))
        keys = zip(map(query_key, own["query"]), map(hash64, own["product_id"]), strict=True)
        cosines |= dict(zip(keys, (queries_PD * products_PD).sum(axis=1).tolist(), strict=True))
    return cosines


@contextmanager
def _indexed(encoder: Encoder, market: Market, folder: Path) -> Iterator[tuple[Index, Statistics]]:
    """An index of the whole catalogue by an encoder, and what a ranker knows of the catalogue: there is no log."""
    products = market.arrow("products").to_pylist()
    shutil.rmtree(folder, ignore_errors=True)
    vectors = encoder.encode_products(products)
    build_index(str(folder), map(record_from_product, products, vectors), encoder.dimension, folder.name)
    none = pl.DataFrame(LISTS.empty_table())
    with open_index(str(folder), read_only=True) as index:
        catalogue = index.lookup(Expression(), [product["product_id"] for product in products])
        columns, as_of = catalogue.signals(), split_cutoff(market, SPLITS)
        yield index, count(none, catalogue.product_ids, columns, as_of, market.config)


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
    with atomic_directory(folder) as fresh:
        model.tokenizer.save_pretrained(fresh)
        transformer: Any = model[0]
        transformer.auto_model.save_pretrained(fresh)
        (fresh / "SETTINGS").write_text(repr(peer))


def _compare(
    lists: LabelledPairs, relevant_grade: float, scores: dict[str, FloatArray], ours: tuple[str, ...]
) -> dict[str, Any]:
    """Every figure with its 95 % bootstrap interval over queries, and each of ours less all others, paired."""
    queries = len(lists.query_rows)
    weights_RQ = resample(queries, SEED)
    systems: dict[str, Any] = {}
    replicates: dict[str, dict[str, FloatArray]] = {}
    for name, scores_P in scores.items():
        statistics = _statistics(lists, relevant_grade, scores_P)
        replicates[name] = {metric: statistic(weights_RQ) for metric, statistic in statistics.items()}
        systems[name] = {
            metric: {"value": point(statistic, queries), "interval": interval(replicates[name][metric])}
            for metric, statistic in statistics.items()
        }

    def less(own: str, other: str) -> dict[str, Any]:
        return {
            metric: {
                "value": systems[own][metric]["value"] - systems[other][metric]["value"],
                "interval": paired_interval(replicates[own][metric], replicates[other][metric]),
            }
            for metric in METRICS
        }

    return {
        "queries": queries,
        "pairs": len(lists.queries),
        "systems": systems,
        "less": {own: {name: less(own, name) for name in systems if name != own} for own in ours if own in systems},
    }


def _statistics(lists: LabelledPairs, relevant_grade: float, scores_P: FloatArray) -> dict[str, Statistic]:
    relevant_P = lists.grades >= relevant_grade
    return {
        "roc_auc": pooled_auc(lists.groups, relevant_P, scores_P),
        "roc_auc_per_query": QueryMean(per_query_roc_auc(lists.groups, relevant_P, scores_P)),
        "ndcg@10": QueryMean(ndcg(lists.groups, lists.grades, scores_P, 10)),
    }


def _markdown(result: dict[str, Any]) -> str:
    lines = ["| | " + " | ".join(METRICS.values()) + " |", "|---" * (len(METRICS) + 1) + "|"]
    for name, row in result["systems"].items():
        title = TITLES.get(name, f"Mercato, `{name}`")
        lines.append(f"| {title} | " + " | ".join(_cell(row[metric]) for metric in METRICS) + " |")
    for own, others in result["less"].items():
        for name, row in others.items():
            cells = " | ".join(_cell(row[metric], "+") for metric in METRICS)
            lines.append(f"| `{own}` less `{name}` | {cells} |")
    return "\n".join(lines) + "\n"


def _cell(figure: dict[str, Any], sign: str = "") -> str:
    low, high = figure["interval"]
    return f"{figure['value']:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


if __name__ == "__main__":
    main()
