"""Training pairs: which of a recipe's pairs are learned from, how old their listings were, what the head learns."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mercato.config import Recipe
from mercato.data.market import Market
from mercato.data.normalize import normalize
from mercato.data.pairs import LAST_SEEN
from mercato.errors import MercatoError

KEY = ["key", "country"]  # of a query, in its normal form


def train_pairs(market: Market, pairs: pl.DataFrame, recipe: Recipe) -> pl.DataFrame:
    """The pairs that train, with the `key` of their queries.

    Args:
        market: for messages.
        pairs: of `mercato.data.pairs.recipe_pairs`, all of products that the catalogue has.
        recipe: decides whether unengaged pairs train.

    Raises:
        MercatoError: no engaged pair is left.
    """
    wanted = pl.lit(True) if recipe.learns_from_all else pl.col("label") == 1
    train = _once_engaged(keyed(pairs.filter((pl.col("split") == "train") & wanted)))
    if train.filter(pl.col("label") == 1).is_empty():
        raise MercatoError(f"{market.path}: every engaged pair of the train split names a product that is not there")
    return train


def keyed(pairs: pl.DataFrame) -> pl.DataFrame:
    """Spellings that the towers read alike are one query: no negatives of each other."""
    spellings = pairs["query"].unique()
    keys = pl.Series([normalize(query) for query in spellings], dtype=pl.String)
    return pairs.join(pl.DataFrame({"query": spellings, "key": keys}), on="query", how="left", maintain_order="left")


def engagement_targets(train: pl.DataFrame) -> NDArray[np.float32]:
    """What the engagement task learns of each pair, (N,): 1 engaged; else its grade where the log gave one, else 0.

    A log's grade (`[engagement] left = "graded"`) is the share of the chain that was walked. A judge's, which comes
    without a depth, is on a scale of its own and says nothing of engagement.
    """
    walked = pl.when(pl.col("depth").is_not_null()).then(pl.col("grade").clip(0, 1)).fill_null(0.0)
    target = pl.when(pl.col("label") == 1).then(1.0).otherwise(walked)
    return train.select(target.cast(pl.Float32)).to_series().to_numpy()


def positions(train: pl.DataFrame, market: Market) -> NDArray[np.float64]:
    """The mean position (N,) at which each pair was shown, NaN where that is unknown.

    Raises:
        MercatoError: no unengaged pair has one.
    """
    if train.filter((pl.col("label") != 1) & pl.col("position").is_not_null()).is_empty():
        raise MercatoError(
            "stages.unengaged_position_power: draws unengaged pairs by their position, and table pairs of"
            f" {market.path} has none: mine its events again (they must tell positions), or leave it out"
        )
    return train["position"].fill_null(float("nan")).to_numpy()


def listing_days(train: pl.DataFrame, products: pl.DataFrame, now: datetime) -> NDArray[np.int64]:
    """The age (N,) of each pair's listing when the pair was last seen, in whole days; −1 where that is unknown."""
    created = products["created_at"].gather(index_of(train, products, ["product_id"]))
    age = (train.select(LAST_SEEN).to_series().fill_null(pl.lit(now)) - created).dt.total_days()
    return age.clip(0).fill_null(-1).to_numpy()


def head_classes(
    market: Market, recipe: Recipe, *, train: pl.DataFrame, pairs: pl.DataFrame, products: pl.DataFrame
) -> tuple[tuple[str, ...], NDArray[np.int64] | None]:
    """The most common training queries, and which of them engaged each product, (N, K) padded with -1 (§3.1.1).

    Common is what was searched most, of what engaged anything: by the train split's displayed lists where the market
    has some, else by the sessions (`weight`) of all its pairs. Catalogue pairs, whose "queries" are one product's own,
    take no part.
    """
    if not recipe.head.queries:
        return (), None
    engaged = train.filter((pl.col("label") == 1) & (pl.col("source") == "market")).unique(["key", "product_id"])
    if engaged.is_empty():
        raise MercatoError(
            "head.queries: the head learns queries that people asked, and the recipe reads no market pairs"
        )
    common = searches(market, pairs).join(engaged, on="key", how="semi")
    common = common.sort(["searches", "key"], descending=[True, False]).head(recipe.head.queries)
    queries = common["key"].to_list()
    rows = index_of(engaged, products, ["product_id"])
    classes = index_of(engaged, common, ["key"])
    owned: list[list[int]] = [[] for _ in range(len(products))]
    for row, number in zip(rows[classes >= 0], classes[classes >= 0], strict=True):
        owned[row].append(int(number))
    result = np.full((len(products), max(map(len, owned))), -1, np.int64)
    for row, own in zip(result, owned, strict=True):
        row[: len(own)] = sorted(own)
    return tuple(queries), result


def searches(market: Market, pairs: pl.DataFrame) -> pl.DataFrame:
    """How often each query of the train split was searched: columns `key` and `searches`."""
    split, count = pl.col("split").fill_null("train"), pl.col("weight").fill_null(1.0).sum()
    own = pairs.filter(pl.col("source") == "market")
    if market.has("lists"):
        own, count = market.frame("lists", ["query", "list_id", "split"]), pl.col("list_id").n_unique().cast(pl.Float64)
    counts = own.filter(split == "train").group_by("query").agg(searches=count)
    return keyed(counts).group_by("key").agg(pl.col("searches").sum())


def index_of(frame: pl.DataFrame, table: pl.DataFrame, on: list[str]) -> NDArray[np.int64]:
    """For each row of `frame` the first row of `table` with the same `on` (nulls equal nulls), -1 for none."""
    rows = table.select(on).with_row_index("row").unique(on, keep="first")
    found = frame.select(on).join(rows, on=on, how="left", nulls_equal=True, maintain_order="left")
    return found["row"].cast(pl.Int64).fill_null(-1).to_numpy()


def _once_engaged(train: pl.DataFrame) -> pl.DataFrame:
    """Drop unengaged pairs that somebody engaged with, in whatever spelling of the query; judged ones stay."""
    pair = [*KEY, "product_id"]
    engaged = train.filter(pl.col("label") == 1)
    judged = pl.col("grade").is_not_null() & pl.col("depth").is_null()
    others = train.filter((pl.col("label") != 1) & ~judged)
    lost = others.join(engaged.select(pair), on=pair, how="semi", nulls_equal=True)
    return train.join(
        lost.select([*pair, "label"]), on=[*pair, "label"], how="anti", nulls_equal=True, maintain_order="left"
    )
