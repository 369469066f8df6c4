"""Attribute queries ("Navy Blue Casual Shoes") whose words no text contains: what do photos add?

    python benchmarks/myntra.py --market DIR --out DIR

Takes the market that `mercato import` makes of Myntra. A copy of it loses every word that names a colour or a pattern
from titles and descriptions, be it of a value of the catalogue or of the general list (`mercato.evaluation.looks`):
nothing but the photo is left to tell a colour. The recipe, with and without its photos, and where it has
`[pretraining]` also without that, learns from the products that it does not hold out, and nothing of it from the
others; these are then searched by attribute and category. All of them that have both are relevant to a query, whichever
it was made of. Recall is given apart for products whose text had named what is asked for, before it was withheld, and
for those whose text never did. What has finished is kept in OUT: the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import datetime
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

import mercato
from mercato.benchmarks.machine import machine
from mercato.benchmarks.withheld import derive, named_in_text, set_column
from mercato.config import Recipe, load_recipe
from mercato.data.market import Market, atomic_market, write_market_toml
from mercato.data.pairs import recipe_pairs, split_cutoff
from mercato.errors import MercatoError
from mercato.evaluation.baselines.bm25 import BM25
from mercato.evaluation.baselines.lexical import FIELDS
from mercato.evaluation.metrics.arrays import BoolArray, FloatArray, IntArray
from mercato.evaluation.metrics.bootstrap import interval, paired_interval, point, resample
from mercato.evaluation.metrics.knn import recall_and_precision
from mercato.evaluation.metrics.metric import QueryMean
from mercato.evaluation.systems import LexicalSystem, RandomSystem, System, encode
from mercato.fields import ATTRIBUTE
from mercato.files import write_atomic
from mercato.progress import note
from mercato.runs.folder import RECIPE
from mercato.runs.image_vectors import products_with_vectors
from mercato.runs.torch_encoder import TorchEncoder
from mercato.training.train import train

ASKED = {"colour": "base_colour", "pattern": "Pattern"}  # what is asked for, and the attribute that answers
NOTHING = {"", "NA"}  # values that say nothing
TITLES = {
    "random": "random",
    "category": "the category, in any order",
    "bm25": "BM25",
    "bm25_worded": "BM25, the words left in",
    "without": "`{}` without photos",
    "with": "`{}`",
    "scratch": "`{}`, not pretrained",
    "perfect": "a perfect ranking",
}
TEXTS = {"all": "all", "named": "once named in the text", "silent": "never named"}
K = 10  # of the figures by kind, value and crowd
DEPTHS = (10, 100)  # of those by what texts had named
ADDED = {"photos add": ("with", "without"), "pretraining adds": ("with", "scratch")}  # the first less the second
CROWDS = (1, 11, 41)  # the fewest held-out products of a query's category, for the figures by size

Recalls = dict[str, FloatArray]  # by depth and text, see `Questions.by_text`: (Q,), NaN where a query has no such pair


def main() -> None:
    """Measure what is not measured yet, then write OUT/myntra.json and OUT/myntra.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--market", type=Path, required=True, help="the imported market; it is only read")
    parser.add_argument("--out", type=Path, required=True, help="derived market, runs, figures and results")
    parser.add_argument("--recipe", default="myntra-engage", help="a recipe's name or file")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="change the recipe")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--products", type=int, help="only the first so many products, for a trial")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    recipe = load_recipe(given.recipe, given.set)
    whole = Market.open(given.market)
    products = without_nothing(whole.arrow("products").slice(0, given.products))
    market, removal = _derived(whole, products, given.out / "market")
    questions = Questions.of(market, recipe, named_in_text(products, ASKED))

    arms = {"with": recipe, "without": _without_photos(recipe)}
    if recipe.pretraining is not None:
        arms["scratch"] = recipe.model_copy(update={"pretraining": None})
    recalls: dict[str, list[Recalls]] = {name: [] for name in TITLES}  # by seed
    plain = without_unread(market.arrow("products", ["product_id", *FIELDS]), recipe)
    worded = plain
    for name in ("title", "description"):
        worded = worded.set_column(worded.schema.get_field_index(name), name, products[name])
    texts = questions.queries["query"].to_list()
    recalls["random"].append(questions.recall(RandomSystem(len(products), 0)))
    recalls["category"].append(questions.of_category())
    recalls["bm25"].append(questions.recall(LexicalSystem(BM25(plain), texts)))
    recalls["bm25_worded"].append(questions.recall(LexicalSystem(BM25(worded), texts)))
    recalls["perfect"].append(questions.best())
    trained: list[int] = []
    for seed in given.seeds:
        for arm, base in arms.items():
            own = base.model_copy(update={"seed": seed})
            file = given.out / f"{arm}-{seed}.npz"
            made_of = own.toml() + market.fingerprint()
            known = dict(np.load(file)) if file.is_file() else {}
            if known.get("made_of") != made_of:
                note(f"[bold]{TITLES[arm].format(recipe.name)}, seed {seed}[/]")
                found = questions.recall(_model(own, market, given.out / f"run-{arm}-{seed}", questions))
                known = {"made_of": np.array(made_of), **found}
                np.savez(file, **known)
            recalls[arm].append({name: recall_Q for name, recall_Q in known.items() if name != "made_of"})
        trained.append(seed)
        result = {
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "mercato": mercato.__version__,
            "machine": machine(),
            "recipe": tomllib.loads(recipe.toml()),
            "seeds": trained,
            "removal": removal,
            **compare(questions, recalls),
        }
        write_atomic(given.out / "myntra.json", json.dumps(result, indent=2) + "\n")
        write_atomic(given.out / "myntra.md", markdown(result))
    print(markdown(result))


# --- the derived market


def without_nothing(products: pa.Table) -> pa.Table:
    """The products without attributes whose value says nothing, so that nobody asks for "NA Shoes"."""
    rows = [[(k, v) for k, v in row or () if v and v not in NOTHING] for row in products["attributes"].to_pylist()]
    return set_column(products, "attributes", rows)


def without_unread(products: pa.Table, recipe: Recipe) -> pa.Table:
    """The products as BM25 may read them: of attributes only those that the context reads, too."""
    context = recipe.product_tower.context
    read = {name.removeprefix(ATTRIBUTE) for name in (*context.numbers, *context.categories)}
    rows = [[(key, value) for key, value in row or () if key in read] for row in products["attributes"].to_pylist()]
    return set_column(products, "attributes", rows)


def _derived(whole: Market, products: pa.Table, folder: Path) -> tuple[Market, dict[str, int]]:
    """The derived market, made once."""
    removal = folder / "removal.json"
    if not removal.is_file():
        with atomic_market(folder) as fresh:
            write_market_toml(fresh, whole.config)
            derived, counts = derive(products, ASKED)
            pq.write_table(derived, fresh / "products.parquet")
            write_atomic(fresh / removal.name, json.dumps(counts) + "\n")
    counts = json.loads(removal.read_text())
    if "words" not in counts:
        raise MercatoError(f"{folder} is of an earlier version, which withheld fewer words: give another --out")
    if counts["products"] != len(products):
        raise MercatoError(
            f"{folder} is made of {counts['products']:,} products, not of {len(products):,}: give another --out"
        )
    return Market.open(folder), counts


# --- questions


def held_out(market: Market, recipe: Recipe) -> pl.DataFrame:
    """The questions of the test: columns `kind`, `query` and `product_id`, one row a held-out product and kind.

    Raises:
        MercatoError: the recipe learns no pairs of an attribute that is asked for.
    """
    frames = []
    for kind, attribute in ASKED.items():
        source = next((s for s in recipe.pairs.catalogue if f"{{{attribute}}}" in s.query), None)
        if source is None:
            raise MercatoError(f"pairs.catalogue: no query names {{{attribute}}}")
        pairs = recipe_pairs(market, recipe.pairs.model_copy(update={"market": False, "catalogue": (source,)}))
        test = pairs.filter(pl.col("split") == "future")
        frames.append(test.select(pl.lit(kind).alias("kind"), "query", "product_id"))
    return pl.concat(frames)


@dataclass(frozen=True)
class Questions:
    """Q queries, each with the held-out products that answer it; see `of`."""

    queries: pl.DataFrame  # columns `kind`, `query`, `country` (none), `value` of the attribute and `crowd`: see `ask`
    groups: IntArray  # (P,) the query of each relevant pair
    products: IntArray  # (P,) the row of its product
    catalogue: int  # products in the table
    among: Mapping[str, IntArray]  # by kind: rows of the held-out products that can be found
    named: BoolArray  # (P,) whether the product's text named what is asked for, before it was withheld

    @classmethod
    def of(cls, market: Market, recipe: Recipe, named: Mapping[str, set[str]]) -> Questions:
        """The questions of a derived market; `named` as `named_in_text` has it of the whole one."""
        products = market.arrow("products", ["product_id", "attributes"])
        values = [dict(row) for row in products["attributes"].to_pylist()]
        return cls.ask(held_out(market, recipe), products["product_id"].to_pylist(), values, named)

    @classmethod
    def ask(
        cls,
        held: pl.DataFrame,
        ids: Sequence[str],
        attributes: Sequence[Mapping[str, str]],
        named: Mapping[str, set[str]],
    ) -> Questions:
        """One query for each text and kind: every held-out product with that attribute and category is relevant.

        Searched are the held-out products of which the attribute is known: of the others nobody knows whether they
        are relevant, and those learned from would be found by heart. A query's `crowd` counts those of its category:
        where they are ten or fewer, to know the category is to find them all.
        """
        row_of = {product: row for row, product in enumerate(ids)}
        rows = held.with_columns(
            row=pl.Series([row_of[product] for product in held["product_id"]], dtype=pl.Int64)
        ).unique(["kind", "query", "row"], maintain_order=True)
        asked = rows.group_by("kind", "query", maintain_order=True).agg(pl.col("row").first())
        queries = asked.select("kind", "query").with_row_index("group")
        pairs = rows.join(queries, on=["kind", "query"], how="left", maintain_order="left")
        told = [attributes[row][ASKED[kind]] for kind, row in asked.select("kind", "row").iter_rows()]
        asked = asked.with_columns(
            category=pl.Series([query.removeprefix(value) for query, value in zip(asked["query"], told, strict=True)])
        )
        rivals = rows.join(asked.drop("row"), on=["kind", "query"]).group_by("kind", "category").agg(crowd=pl.len())
        crowd = asked.join(rivals, on=["kind", "category"], how="left", maintain_order="left")["crowd"]
        among = {kind: np.unique(rows.filter(pl.col("kind") == kind)["row"].to_numpy()) for kind in ASKED}
        return cls(
            queries.with_columns(country=pl.lit(None, pl.String), value=pl.Series(told, dtype=pl.String), crowd=crowd),
            pairs["group"].cast(pl.Int64).to_numpy(),
            pairs["row"].to_numpy(),
            len(ids),
            among,
            np.array([ids[row] in named[kind] for kind, row in pairs.select("kind", "row").iter_rows()], dtype=bool),
        )

    def recall(self, system: System) -> Recalls:
        """What a system finds of each query's products."""
        top_QK = np.full((len(self.queries), max(DEPTHS)), -1, np.int64)
        for kind, among_M in self.among.items():
            places = np.flatnonzero(self.queries["kind"].to_numpy() == kind)
            if len(places):
                top_QK[places] = system.top(places, max(DEPTHS), among_M)
        return {
            _name(k, text): recall_and_precision(top_QK, self.groups[own_P], self.products[own_P], self.catalogue, k)[0]
            for k in DEPTHS
            for text, own_P in self.by_text.items()
        }

    def of_category(self) -> Recalls:
        """What is expected of a ranking that knows the category and nothing else."""
        return self._expected(self.queries["crowd"].to_numpy())

    def best(self) -> Recalls:
        """What the best ranking has: 1, less where more products answer than are looked at."""
        return self._expected(np.bincount(self.groups, minlength=len(self.queries)))

    def _expected(self, among_Q: IntArray) -> Recalls:
        """The recall of so many products of each query in any order."""
        asked_Q = {text: np.isin(np.arange(len(among_Q)), self.groups[own_P]) for text, own_P in self.by_text.items()}
        return {
            _name(k, text): np.where(own_Q, np.minimum(among_Q, k) / among_Q, np.nan)
            for k in DEPTHS
            for text, own_Q in asked_Q.items()
        }

    @property
    def by_text(self) -> dict[str, BoolArray]:
        """The relevant pairs (P,): all, and by whether the product's text had named what is asked for."""
        return {"all": np.ones(len(self.groups), bool), "named": self.named, "silent": ~self.named}


def _without_photos(recipe: Recipe) -> Recipe:
    def without(own: Any) -> Any:
        channels = tuple(channel for channel in own.channels if channel not in ("images", "patches"))
        return own.model_copy(update={"channels": channels})

    pretraining = None if recipe.pretraining is None else without(recipe.pretraining)
    return recipe.model_copy(update={"product_tower": without(recipe.product_tower), "pretraining": pretraining})


def _model(recipe: Recipe, market: Market, run: Path, questions: Questions) -> System:
    """The recipe's run on the market, trained unless it is there, with the held-out products encoded."""
    file = run / RECIPE
    known = file.is_file() and file.read_text() == recipe.toml()
    model = TorchEncoder.load(run) if known else train(recipe, market, run, onnx=False)
    model.market_path = market.path
    rows = np.unique(np.concatenate([*questions.among.values()]))
    products = products_with_vectors(market, model, run)
    return encode(model, run.name, questions.queries, products, rows, as_of=split_cutoff(market, ["train"]))


# --- figures


def compare(questions: Questions, by_seed: Mapping[str, Sequence[Recalls]]) -> dict[str, Any]:
    """Recall@10 of all queries and of each kind, the mean over seeds, and what photos and pretraining add; by text.

    With and without photos also by value and crowd. Intervals are 95 % bootstrap ones over queries, of each query's
    mean over seeds; differences are paired.
    """
    kind_Q = questions.queries["kind"].to_numpy()
    parts = {"all": np.ones(len(kind_Q), bool), **{kind: kind_Q == kind for kind in ASKED}}
    parts = {part: chosen_Q for part, chosen_Q in parts.items() if chosen_Q.any()}
    recalls = {name: [each[_name(K, "all")] for each in own] for name, own in by_seed.items() if own}
    mean_Q = {name: np.mean(own, axis=0) for name, own in recalls.items()}
    systems: dict[str, Any] = {name: {} for name in mean_Q}
    added: dict[str, dict[str, Any]] = {what: {} for what, sides in ADDED.items() if {*sides} <= {*mean_Q}}
    counts = {}
    for part, chosen_Q in parts.items():
        queries = int(chosen_Q.sum())
        weights_RQ = resample(queries, 0)
        replicates = {}
        for name, recall_Q in mean_Q.items():
            statistic = QueryMean(recall_Q[chosen_Q])
            replicates[name] = statistic(weights_RQ)
            systems[name][part] = {
                "value": point(statistic, queries),
                "interval": interval(replicates[name]),
                "seeds": [float(own[chosen_Q].mean()) for own in recalls[name]],
            }
        for what, gained in added.items():
            first, second = ADDED[what]
            gained[part] = {
                "value": systems[first][part]["value"] - systems[second][part]["value"],
                "interval": paired_interval(replicates[first], replicates[second]),
            }
        counts[part] = {"queries": queries, "pairs": int(chosen_Q[questions.groups].sum())}
    for kind in ASKED:
        counts.get(kind, {})["products"] = len(questions.among[kind])
    values = questions.queries.with_columns(
        pl.max_horizontal(pl.when(pl.col("crowd") >= fewest).then(fewest) for fewest in CROWDS).alias("crowd"),
        **{arm: pl.Series(mean_Q[arm]) for arm in ("without", "with")},
    )
    figures = pl.len().alias("queries"), pl.col("without", "with").mean()
    by_value = values.group_by("kind", "value").agg(*figures)
    by_crowd = values.group_by("kind", "crowd").agg(*figures)
    return {
        "n": counts,
        "systems": systems,
        **{what.replace(" ", "_"): gained for what, gained in added.items()},
        "by_text": by_text(questions, by_seed),
        "by_value": by_value.sort(["kind", "queries", "value"], descending=[False, True, False]).to_dicts(),
        "by_crowd": by_crowd.sort("kind", "crowd").to_dicts(),
    }


def by_text(questions: Questions, by_seed: Mapping[str, Sequence[Recalls]]) -> dict[str, Any]:
    """Recall at each depth, of all products and by what their texts had named: of each system, and what is added."""
    tables: dict[str, Any] = {}
    weights_RQ = resample(len(questions.queries), 0)
    for text, own_P in questions.by_text.items():
        if not own_P.any():
            continue
        tables[text] = {"queries": len(np.unique(questions.groups[own_P])), "pairs": int(own_P.sum())}
        for k in DEPTHS:
            means = {
                name: QueryMean(np.mean([each[_name(k, text)] for each in own], axis=0))
                for name, own in by_seed.items()
                if own
            }
            replicates = {name: statistic(weights_RQ) for name, statistic in means.items()}
            row = {
                name: {"value": point(statistic, len(questions.queries)), "interval": interval(replicates[name])}
                for name, statistic in means.items()
            }
            for what, (first, second) in ADDED.items():
                if first in means and second in means:
                    row[what] = {
                        "value": row[first]["value"] - row[second]["value"],
                        "interval": paired_interval(replicates[first], replicates[second]),
                    }
            tables[text][f"recall@{k}"] = row
    return tables


def _name(k: int, text: str) -> str:
    return f"recall@{k} {text}"


def markdown(result: Mapping[str, Any]) -> str:
    """The result as a table."""
    counts, name = result["n"], result["recipe"]["name"]
    heads = [f"{part}, n = {count['queries']:,}" for part, count in counts.items()]
    lines = [f"| recall@{K} | " + " | ".join(heads) + " |", "|---" * (len(counts) + 1) + "|"]
    for system, row in result["systems"].items():
        lines.append(f"| {TITLES[system].format(name)} | " + " | ".join(_cell(row[part]) for part in counts) + " |")
    added = [what for what in ADDED if what.replace(" ", "_") in result]
    for what in added:
        cells = " | ".join(_cell(result[what.replace(" ", "_")][part], "+") for part in counts)
        lines.append(f"| what {what} | {cells} |")
    lines.append("")
    texts = result["by_text"]
    columns = [(text, f"recall@{k}") for text in texts for k in DEPTHS]
    heads = [f"{metric}, {TEXTS[text]}, n = {texts[text]['pairs']:,}" for text, metric in columns]
    lines += ["| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for system in (*result["systems"], *added):
        cells = " | ".join(_cell(texts[text][metric][system], "+" * (system in added)) for text, metric in columns)
        lines.append(f"| {TITLES.get(system, f'what {system}').format(name)} | {cells} |")
    return "\n".join(lines) + "\n"


def _cell(figure: Mapping[str, Any], sign: str = "") -> str:
    low, high = figure["interval"]
    return f"{figure['value']:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


if __name__ == "__main__":
    main()
