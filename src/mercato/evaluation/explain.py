"""`mercato explain`: what a run's towers look at, as `explain.json` and `explain.html` in the run (Que2Search §3.7)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Group
from rich.table import Table

from mercato.data.market import Market
from mercato.data.pairs import split_cutoff
from mercato.errors import MercatoError
from mercato.evaluation.attention import mean_weights, short_and_long, weights_by_length
from mercato.evaluation.dataset import EARLIER, EvaluationSet, LabelledPairs
from mercato.evaluation.encoded import EncodedTower, encode_products, encode_queries
from mercato.evaluation.importance import importance
from mercato.evaluation.metrics.arrays import IntArray
from mercato.evaluation.metrics.roc_auc import roc_auc
from mercato.files import write_atomic
from mercato.models.que2search import fields_of
from mercato.reports.charts import decimal
from mercato.reports.explanation_page import write_explain_report
from mercato.reports.html import percent
from mercato.runs.image_vectors import products_with_vectors
from mercato.runs.torch_encoder import load

JSON, HTML = "explain.json", "explain.html"
MOST_PAIRS = 20_000  # more would not move a share; whole queries are left out at random
PAPER = {  # Que2Search: mean attention (§3.7.1) and share of the tower's importance (Table 2)
    "attention": {"query": {"text": 0.64, "trigrams": 0.36}, "product": {}},
    "importance": {
        "query": {"text": 0.60, "trigrams": 0.40},
        "product": {
            "images": 0.55,
            "description_text": 0.13,
            "title_text": 0.09,
            "description_trigrams": 0.015,
            "title_trigrams": 0.015,
            "language": 0.01,
            "country": 0.01,
        },
    },
}


def explain_run(run: Path, market: Market, seed: int = 0) -> dict[str, Any]:
    """Attention and importance of a run's channels on the questions of the test split.

    The pairs are the judged ones, or where there are no judgments those shown on future days. Writes `explain.json`
    (what is returned) and `explain.html` into the run.

    Raises:
        MercatoError: not a run, or a market without test judgments and without future pairs.
    """
    model = load(run, market.path)
    model.now = split_cutoff(market, EARLIER["test"])
    tasks = EvaluationSet.read(market)
    lists = tasks.relevance or tasks.engagement
    if lists is None:
        raise MercatoError(f"{market.path} has nothing to explain a run on: no test judgments, no future pairs")
    lists = _bounded(lists, seed)
    grade = market.config.relevant_grade if tasks.relevance else 1.0
    rows, product_P = np.unique(lists.products, return_inverse=True)
    queries = encode_queries(model, tasks.queries)
    products = encode_products(model, products_with_vectors(market, model, run).take(rows))

    labels_P = lists.grades >= grade
    pairs = {
        "query": (queries, lists.queries, products.unit_RD[torch.tensor(product_P)]),
        "product": (products, product_P, queries.unit_RD[torch.tensor(lists.queries)]),
    }
    cosine_P = (pairs["query"][2] * pairs["product"][2]).sum(1).numpy()
    both = bool(labels_P.any() and not labels_P.all())
    result: dict[str, Any] = {
        "recipe": model.recipe.name,
        "fusion": {"query": model.recipe.query_tower.fusion, "product": model.recipe.product_tower.fusion},
        "market": market.config.name,
        "n": {
            "pairs": "relevance" if tasks.relevance else "engagement",
            "count": len(labels_P),
            "queries": len(lists.query_rows),
            "all_queries": len(tasks.queries),
            "products": len(rows),
            "seed": seed,
        },
        "roc_auc": roc_auc(labels_P, cosine_P) if both else None,
        "attention": {
            "query": _attention(queries, tasks.queries["query"].to_list()),
            "product": _attention(products),
        },
        "importance": {},
        "paper": PAPER,
    }
    for tower, (encoded, rows_P, opposite_PD) in pairs.items():
        asked = (rows_P, opposite_PD)
        each = {name: (name,) for name in encoded.names}
        fields = fields_of(encoded.names)
        result["importance"][tower] = {"channels": importance(encoded, *asked, each, lists.groups, labels_P, seed)}
        if len(fields) < len(each):
            result["importance"][tower]["groups"] = importance(encoded, *asked, fields, lists.groups, labels_P, seed)
    write_atomic(run / JSON, json.dumps(result, indent=2) + "\n")
    write_explain_report(result, run / HTML)
    return result


def summary(result: dict[str, Any]) -> Group:
    """The report's figures as tables for a terminal."""
    return Group(*(_table(result, tower) for tower in ("query", "product")))


def _attention(encoded: EncodedTower, queries: list[str] | None = None) -> dict[str, Any] | None:
    """None for a fusion without weights."""
    if encoded.weights_RN is None:
        return None
    found: dict[str, Any] = {
        "channels": mean_weights(
            encoded.names,
            encoded.weights_RN,
            encoded.channels.present_BS.numpy(),
            encoded.channels.vectors_BSE.norm(dim=-1).double().numpy(),
        )
    }
    if queries is not None:
        found["by_length"] = weights_by_length(encoded.names, queries, encoded.weights_RN)
        found |= short_and_long(encoded.names, queries, encoded.weights_RN)
    return found


def _bounded(lists: LabelledPairs, seed: int) -> LabelledPairs:
    """At most `MOST_PAIRS` pairs, but for the last query's: whole queries, drawn by the seed."""
    if len(lists.queries) <= MOST_PAIRS:
        return lists
    drawn: IntArray = np.random.default_rng(seed).permutation(len(lists.query_rows))
    counts = np.bincount(lists.groups)[drawn]
    kept = drawn[: int(np.searchsorted(np.cumsum(counts), MOST_PAIRS)) + 1]
    return lists.only(np.isin(lists.groups, kept))


def _table(result: dict[str, Any], tower: str) -> Table:
    attention, ablation = result["attention"][tower], result["importance"][tower]
    grid = Table(title=f"The {tower} tower", title_justify="left")
    heads = ("attention", "importance: missing", "another's", "ROC AUC without", "change", "paper")
    grid.add_column("")
    for head in heads:
        grid.add_column(head, justify="right")
    weights = {name: weight["mean"] for name, weight in attention["channels"].items()} if attention else {}
    paper = result["paper"]["importance"][tower]
    whole = [field for field, channels in fields_of(ablation["channels"]).items() if len(channels) > 1]
    rows = [(name.replace("_", " "), name, kinds) for name, kinds in ablation["channels"].items()]
    rows += [(f"{field}, whole", "", ablation["groups"][field]) for field in whole]  # "": neither weight nor paper
    for place, (label, channel, kinds) in enumerate(rows):
        if place == len(ablation["channels"]):
            grid.add_section()
        missing = kinds["missing"]
        grid.add_row(
            label,
            percent(weights.get(channel)),
            percent(missing["share"]),
            percent(kinds["other"]["share"]),
            "–" if missing["roc_auc"] is None else decimal(missing["roc_auc"]),
            _change(missing),
            percent(paper.get(channel)),
        )
    counts = result["n"]
    auc = "" if result["roc_auc"] is None else f"; ROC AUC of all together {decimal(result['roc_auc'])}"
    grid.caption = f"{counts['count']:,} {counts['pairs']} pairs of {counts['queries']:,} queries{auc}"
    if attention is None:
        grid.caption += f"; the fusion {result['fusion'][tower]!r} has no attention weights"
    return grid


def _change(kind: dict[str, Any]) -> str:
    if kind["roc_auc_change"] is None:
        return "–"
    span = kind["interval"]
    return f"{kind['roc_auc_change']:+.3f}" + (f" [{span[0]:+.3f}, {span[1]:+.3f}]" if span else "")
