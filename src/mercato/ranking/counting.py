"""Counting: how often products, sellers, categories and conditions were clicked and what came of it, what queries ask
for, what things cost, which words are rare.

A click where few people look says more than one at the first position. So clicks are held against those that the
positions alone would have brought (clicks over expected clicks, COEC; Zhang & Jones, "Comparing Click Logs for
Editorial Training", WWW 2007 workshop), and a rate is drawn to the market's own where little was seen.

Shapes: P rows of displayed lists, N products, n keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mercato.data.hashing import hash64
from mercato.data.market import MarketConfig
from mercato.features.values import folded
from mercato.ranking.lookup import Keys, Lookup, mixed, query_key
from mercato.ranking.statistics import Statistics, named_currencies
from mercato.retrieval.signals import SECTIONS, SignalColumns

PRIOR_CLICKS = 5.0  # of the market's own rate, added to everybody's
LEAST_PRICED = 5  # products that make a median

_ENGAGED = 2  # steps along the chain, or all of a shorter one: what people would pay
_PLAIN = MarketConfig()


def count(
    lists: pl.DataFrame,
    product_ids: Sequence[str],
    columns: SignalColumns,
    as_of: datetime,
    config: MarketConfig = _PLAIN,
) -> Statistics:
    """Count displayed lists of the past (schema `LISTS`) of the catalogue's N products and their signals.

    What is told of the catalogue (prices, rare words, lengths) is of what was listed by then.
    """
    currency, listed = np.uint64(hash64(folded(config.currency))), _listed(columns, as_of)
    numbered = pl.DataFrame({"product_id": product_ids, "place": range(len(product_ids))})
    shown = lists.drop_nulls("depth").join(numbered, on="product_id", how="inner", maintain_order="left")
    queries = {query: query_key(query) for query in shown["query"].unique().to_list()}
    shown = shown.with_columns(
        clicked=(pl.col("depth") >= 1).cast(pl.Float64),
        depth=pl.col("depth").cast(pl.Float64),
        query=pl.Series([queries[query] for query in shown["query"].to_list()], dtype=pl.UInt64),
    ).with_columns(expected=pl.col("clicked").mean().over("position"))
    places = shown["place"].cast(pl.Int64).to_numpy()
    products, sellers, conditions, categories = (
        columns.key(name)[places] for name in ("product_id", "seller_id", "condition", "category")
    )
    asked = mixed(shown["query"].to_numpy(), categories)
    days = max(1, shown["day"].n_unique())
    rates = _rates(shown, asked, days)
    shares = (
        shown.select("query", "clicked", key=pl.Series(asked))
        .group_by("query", "key")
        .agg(pl.col("clicked").sum())
        .with_columns(share=(pl.col("clicked") / pl.col("clicked").sum().over("query")).fill_nan(0.0))
    )
    priced_in = named_currencies(listed, currency)
    share = rates.select("key").join(shares, on="key", how="left", maintain_order="left")["share"]
    return Statistics(
        products=_lookup(_rates(shown, products, days)),
        sellers=_lookup(_rates(shown, sellers, days)),
        conditions=_lookup(_rates(shown, conditions, days)),
        categories=_lookup(_rates(shown, categories, days)),
        query_categories=_lookup(rates.with_columns(share)),
        queries=_queries(shown, shares, days),
        query_prices=_engaged_prices(shown, columns, currency, min(_ENGAGED, len(config.engagement.steps))),
        category_prices=_medians(mixed(listed.key("category"), priced_in), listed),
        department_prices=_medians(mixed(listed.key("department"), priced_in), listed),
        market_prices=_medians(priced_in, listed),
        words=_rarity(listed),
        mean_words_S=_mean_words(listed),
        currency=currency,
    )


def _listed(columns: SignalColumns, as_of: datetime) -> SignalColumns:
    """Those of products that had been listed by then, or nobody knows when."""
    created_N = columns.number("created")
    return columns.take(np.flatnonzero(~(created_N > as_of.timestamp())))


def _rates(shown: pl.DataFrame, keys_P: Keys, days: int) -> pl.DataFrame:
    """The rates of each key but the unknown one."""
    clicks, steps = float(shown["clicked"].to_numpy().sum()), float(shown["depth"].to_numpy().sum())
    steps_a_click = steps / clicks if clicks else 1.0
    counted = (
        shown.select("clicked", "expected", "depth", key=pl.Series(keys_P))
        .filter(pl.col("key") != 0)
        .group_by("key", maintain_order=True)
        .agg(pl.len().alias("impressions"), pl.col("clicked", "expected", "depth").sum())
    )
    return counted.select(
        "key",
        coec=(pl.col("clicked") + PRIOR_CLICKS) / (pl.col("expected") + PRIOR_CLICKS),
        steps=(pl.col("depth") + PRIOR_CLICKS * steps_a_click) / (pl.col("clicked") + PRIOR_CLICKS),
        shown=(1 + pl.col("impressions") / days).log(),
    )


def _queries(shown: pl.DataFrame, shares: pl.DataFrame, days: int) -> Lookup:
    logs = pl.col("share").log()
    entropy = shares.filter(pl.col("share") > 0).group_by("query").agg(entropy=-(pl.col("share") * logs).sum())
    asked = (
        shown.group_by("query", maintain_order=True)
        .agg(searches=(1 + pl.col("list_id").n_unique() / days).log())
        .join(entropy, on="query", how="left", maintain_order="left")
    )
    return _lookup(asked.select(pl.col("query").alias("key"), "searches", "entropy"))


def _engaged_prices(shown: pl.DataFrame, columns: SignalColumns, currency: np.uint64, depth: int) -> Lookup:
    engaged = shown.filter(pl.col("depth") >= depth)
    places = engaged["place"].cast(pl.Int64).to_numpy()
    keys = mixed(engaged["query"].to_numpy(), named_currencies(columns, currency)[places])
    priced = pl.DataFrame({"key": keys, "price": columns.number("price")[places]}).filter(pl.col("price").is_not_nan())
    return _lookup(priced.group_by("key", maintain_order=True).agg(pl.col("price").median()))


def _medians(keys_N: Keys, columns: SignalColumns) -> Lookup:
    """The median price of the products of each key, of which there are enough."""
    medians = (
        pl.DataFrame({"key": keys_N, "price": columns.number("price")})
        .filter(pl.col("price").is_not_nan())
        .group_by("key", maintain_order=True)
        .agg(pl.len().alias("count"), pl.col("price").median())
        .filter(pl.col("count") >= LEAST_PRICED)
    )
    return _lookup(medians.select("key", "price"))


def _rarity(columns: SignalColumns) -> Lookup:
    """The inverse document frequency of every word of the products, by BM25's formula; its trigrams are not words."""
    lengths_NS = columns.lengths_HS
    section = np.repeat(np.tile(np.arange(len(SECTIONS)), len(lengths_NS)), lengths_NS.reshape(-1))
    product = np.repeat(np.arange(len(lengths_NS)), lengths_NS.sum(axis=1))
    words = section != SECTIONS.index("trigrams")
    held = np.unique(columns.words_W[words].astype(np.uint64) << np.uint64(32) | product[words].astype(np.uint64))
    keys, holders = np.unique(held >> np.uint64(32), return_counts=True)
    return Lookup.of(keys, np.log1p((len(lengths_NS) - holders + 0.5) / (holders + 0.5)))


def _mean_words(columns: SignalColumns) -> NDArray[np.float32]:
    """How many words each section has, where it has any: (S,), its trigrams not being words."""
    lengths_NS = columns.lengths_HS[:, : SECTIONS.index("trigrams")]
    mean_S = lengths_NS.sum(axis=0) / np.maximum(1, (lengths_NS > 0).sum(axis=0))
    least_S: NDArray[np.float32] = np.maximum(1, mean_S).astype(np.float32)
    return least_S


def _lookup(table: pl.DataFrame) -> Lookup:
    """Of a table whose first column is the key."""
    keys, *columns = (table[name].to_numpy() for name in table.columns)
    return Lookup.of(keys, *(np.asarray(column, np.float64) for column in columns))
