"""Engagement within the right type, by the simulator's truth: what is left when relevance and exposure are out of it?

    python benchmarks/right_type.py --market DIR --runs NAME=RUN[,RUN…] [NAME=RUN…] --out DIR

A check of the metric `roc_auc_same_kind`, which has to make do with the category: pairs of the future are compared
within a query and a stratum of impressions, all of them of the very type that the query asks for. Beside the runs (of
several seeds, their mean) stand how often a pair was shown, its price against its kind, and how fair that price really
is, which the simulator knows and no seller says. For diagnosis alone: no model may be chosen by it.
"""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import mercato
from mercato.benchmarks.machine import machine
from mercato.data.market import Market
from mercato.data.normalize import normalize
from mercato.data.pairs import split_cutoff
from mercato.errors import MercatoError
from mercato.evaluation.baselines.price import cheapness
from mercato.evaluation.dataset import EARLIER, EvaluationSet, LabelledPairs
from mercato.evaluation.metrics.arrays import BoolArray, FloatArray
from mercato.evaluation.metrics.bootstrap import Estimate, estimates, resample
from mercato.evaluation.metrics.matched_auc import matched_roc_auc, strata
from mercato.evaluation.metrics.metric import QueryMean
from mercato.evaluation.systems import encode
from mercato.files import write_atomic
from mercato.runs.image_vectors import products_with_vectors
from mercato.runs.torch_encoder import load

TRUTH = "truth"


def main() -> None:
    """Measure, and write OUT/right_type.json and OUT/right_type.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--market", type=Path, required=True, help="a simulated market, with its truth")
    parser.add_argument("--runs", nargs="+", required=True, metavar="NAME=RUN[,RUN…]", help="the first is compared")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    named = dict(text.partition("=")[::2] for text in given.runs)
    runs = {name: [Path(run) for run in own.split(",")] for name, own in named.items()}
    market = Market.open(given.market)
    if not (market.path / TRUTH).is_dir():
        raise MercatoError(f"{market.path} has no truth/: only a simulated market knows what its products really are")
    dataset = EvaluationSet.read(market, "test", lists=False)
    pairs = dataset.engagement
    if pairs is None:
        raise MercatoError(f"{market.path} has no pairs of future days: mine its events")
    right_P = of_the_right_type(market, dataset, pairs)
    rivals = {**baselines(market, dataset, pairs), **{name: scores(market, dataset, own) for name, own in runs.items()}}
    first, *_ = runs
    found = {name: measured(pairs, right_P, scores_SP, dataset) for name, scores_SP in rivals.items()}
    result = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "mercato": mercato.__version__,
        "machine": machine(),
        "n": {
            "pairs": int(right_P.sum()),
            "engaged": int((pairs.grades[right_P] >= 1).sum()),
            "queries": comparable(pairs, right_P, np.zeros(len(right_P))).queries,
            "seeds": {name: len(own) for name, own in runs.items()},
        },
        "first": first,
        "rows": {
            name: {"value": own.value, "interval": own.interval}
            | ({} if name == first else {"ahead": (found[first] - own).value, "by": (found[first] - own).interval})
            for name, own in found.items()
        },
    }
    given.out.mkdir(parents=True, exist_ok=True)
    write_atomic(given.out / "right_type.json", json.dumps(result, indent=2) + "\n")
    write_atomic(given.out / "right_type.md", markdown(result))
    print(markdown(result))


def of_the_right_type(market: Market, dataset: EvaluationSet, pairs: LabelledPairs) -> BoolArray:
    """Which pairs (P,) hold a product of the type that their query asks for, by the truth."""
    asked = pl.read_parquet(market.path / TRUTH / "queries.parquet", columns=["query", "country", "type"])
    wanted = {(normalize(query), country): own for query, country, own in asked.iter_rows()}
    wanted_Q = [wanted.get((normalize(query), country)) for query, country in dataset.queries.iter_rows()]
    are = pl.read_parquet(market.path / TRUTH / "products.parquet", columns=["product_id", "types"])
    types = dict(are.iter_rows())
    types_N = [types.get(product_id, ()) for product_id in dataset.product_ids]
    return np.array(
        [wanted_Q[query] in types_N[product] for query, product in zip(pairs.queries, pairs.products, strict=True)],
        dtype=bool,
    )


def baselines(market: Market, dataset: EvaluationSet, pairs: LabelledPairs) -> dict[str, FloatArray]:
    """What else may be behind an engagement, each as scores (1, P)."""
    products = market.frame("products", ["product_id", "category", "currency", "country", "price"])
    fairness = pl.read_parquet(market.path / TRUTH / "products.parquet", columns=["product_id", "unfairness"])
    fair_N = products.join(fairness, on="product_id", how="left", maintain_order="left")["unfairness"].to_numpy()
    cheap_N = cheapness(products)
    found = {"impressions": pairs.impressions, "the price is fair, by the truth": -fair_N[pairs.products]}
    if cheap_N is not None:
        found["price against its kind"] = cheap_N[pairs.products]
    return {name: scores_P[None] for name, scores_P in found.items()}


def scores(market: Market, dataset: EvaluationSet, runs: Sequence[Path]) -> FloatArray:
    """The scores of the pairs by each of several runs: (S, P)."""
    pairs, as_of = dataset.engagement, split_cutoff(market, EARLIER["test"])
    assert pairs is not None
    found = []
    for run in runs:
        model = load(run, market.path)
        products = products_with_vectors(market, model, run)
        system = encode(model, run.name, dataset.queries, products, dataset.rows, as_of=as_of)
        found.append(system.score(pairs.queries, pairs.products))
    return np.stack(found)


def comparable(pairs: LabelledPairs, right_P: BoolArray, scores_P: FloatArray) -> QueryMean:
    """The exposure-matched ROC AUC of each query among these pairs, of those queries that have a comparison."""
    strata_P = np.where(right_P, strata(pairs.impressions), -1)
    return QueryMean(matched_roc_auc(pairs.groups, strata_P, pairs.grades >= 1, scores_P))


def measured(pairs: LabelledPairs, right_P: BoolArray, scores_SP: FloatArray, dataset: EvaluationSet) -> Estimate:
    """The mean over seeds of the exposure-matched ROC AUC among these pairs, with its replicates."""
    weights_RQ = resample(dataset.units_Q[pairs.query_rows], seed=0)
    found = [estimates({"auc": comparable(pairs, right_P, scores_P)}, weights_RQ)["auc"] for scores_P in scores_SP]
    return Estimate(
        float(np.mean([each.value for each in found])), np.mean([each.replicates_R for each in found], axis=0)
    )


def markdown(result: Mapping[str, Any]) -> str:
    """The figures as a table for people."""
    n = result["n"]
    lines = [
        f"{n['pairs']:,} pairs with products of the type asked for, {n['engaged']:,} engaged; {n['queries']:,} queries"
        f" have a comparison; {result['date']}, {result['machine']}.",
        "",
        f"| | ROC AUC, right type, exposure matched | `{result['first']}` is ahead by |",
        "|---|---|---|",
    ]
    for name, row in result["rows"].items():
        ahead = f"{row['ahead']:+.3f} {span(row['by'])}" if "ahead" in row else ""
        lines.append(f"| {name} | {row['value']:.3f} {span(row['interval'])} | {ahead} |")
    return "\n".join(lines) + "\n"


def span(interval: Sequence[float]) -> str:
    """An interval in brackets."""
    low, high = interval
    return f"[{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    main()
