"""Which (query, product) pairs train, validate and test: the market's own, the catalogue's, or both."""

from __future__ import annotations

import hashlib
import random
import string
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
from rich.markup import escape

from mercato.config import CataloguePairs, Pairs
from mercato.data.market import Market
from mercato.errors import MercatoError
from mercato.fields import SEARCHED
from mercato.progress import note

FIELDS = ("product_id", *SEARCHED, "country")  # a template may name
COLUMNS = (
    "query", "country", "product_id", "label", "grade", "weight", "last_seen", "split", "depth", "position", "source",
    "drop_fields",
)  # fmt: skip


def recipe_pairs(market: Market, wanted: Pairs) -> pl.DataFrame:
    """Every pair that a recipe names.

    Returns:
        Columns `query`, `country`, `product_id`, `label` (1 | 0), `grade` (null: the label), `weight`, `last_seen`,
        `depth` and `position` (null: unknown), `split` (train | validation | future), `source` (market | catalogue)
        and `drop_fields`, the fields (space-separated) that the product tower must not see in that pair.

    Raises:
        MercatoError: the recipe wants market pairs and there are none, one is wrong, or nothing is left to train on.
    """
    parts = []
    if wanted.market:
        if not market.has("pairs"):
            raise MercatoError(
                f"{market.path} has no pairs: run `mercato mine` (it needs events), import pairs, or set"
                " pairs.market = false and name [[pairs.catalogue]] in the recipe"
            )
        pairs = market.frame("pairs").with_columns(
            pl.col("split").fill_null("train"), source=pl.lit("market"), drop_fields=pl.lit("")
        )
        if len(missing := pairs.select(pl.col("query").is_null().arg_true()).to_series()):
            raise MercatoError(f"table pairs, row {missing[0]}, column query: is missing (`mercato check` lists all)")
        good = pl.col("weight").is_finite() & (pl.col("weight") > 0)  # null: unknown
        if wanted.weight_power and len(wrong := pairs.select((~good).arg_true()).to_series()):
            raise MercatoError(
                f"table pairs, row {wrong[0]}, column weight: is not a number above zero, and pairs.weight_power"
                " draws by it (`mercato check` lists all)"
            )
        parts.append(_fraction(pairs, wanted.fraction).select(COLUMNS))
    products = market.arrow("products", list(FIELDS)).to_pylist() if wanted.catalogue else []
    products = [product for product in products if product["product_id"] is not None]
    parts += [_catalogue_pairs(products, source, wanted.held_out) for source in wanted.catalogue]
    found = pl.concat(parts) if parts else None
    if found is None or found.filter((pl.col("split") == "train") & (pl.col("label") == 1)).is_empty():
        raise MercatoError(f"{market.path}: the recipe's pairs hold no engaged pair of the train split to learn from")
    return found


def held_out_pairs(market: Market, wanted: Pairs) -> tuple[pl.DataFrame | None, tuple[str, ...]]:
    """What a market can be asked that has no pairs and no judgments: the recipe's first kind of catalogue pairs.

    Also what was dropped for the product tower in them, which every system must do without. (None, ()) where the
    market's own tables ask, or the recipe has no catalogue pairs.
    """
    first = wanted.catalogue[:1]
    if not first or market.has("pairs") or market.has("judgments"):
        return None, ()
    return recipe_pairs(market, wanted.model_copy(update={"market": False, "catalogue": first})), first[0].drop_fields


def _day_over(moment: pl.Expr) -> pl.Expr:
    """The end of the day that a midnight stands for; a moment within a day stays."""
    return (
        pl.when(moment == moment.dt.truncate("1d")).then(moment + timedelta(days=1, microseconds=-1)).otherwise(moment)
    )


LAST_SEEN = _day_over(pl.col("last_seen"))  # by when a pair had been seen for the last time


def split_cutoff(market: Market, splits: Collection[str]) -> datetime:
    """When these splits of the market's pairs end: the present of who learns from them, by which listings have an age.

    Pairs tell the day: it is over by then. Where they tell none, it is when the newest listing was made; else now.
    """
    found = None
    if market.has("pairs"):
        pairs = market.frame("pairs", ["last_seen", "split"])
        found = pairs.filter(pl.col("split").fill_null("train").is_in(list(splits))).select(LAST_SEEN.max()).item()
    if found is None:
        found = market.frame("products", ["created_at"])["created_at"].max()
    return found if isinstance(found, datetime) else datetime.now(UTC)


def catalogue_split(product_id: str, held_out: float) -> str:
    """The split of a product's catalogue pairs, by a hash of its id: all fall on one side, today and tomorrow."""
    place = _place(product_id)
    return "future" if place < held_out else "validation" if place < 2 * held_out else "train"


def _fraction(pairs: pl.DataFrame, fraction: float) -> pl.DataFrame:
    """Some of the pairs of the train split, by a hash of query, country and product; all of the others."""
    if fraction == 1:
        return pairs
    named = pairs.select(pl.concat_str(["query", "country", "product_id"], separator="\0", ignore_nulls=True))
    kept = pl.Series([_place(name) < fraction for name in named.to_series()], dtype=pl.Boolean)
    return pairs.filter(kept | (pl.col("split") != "train"))


def _place(name: str) -> float:
    """Where a name falls between 0 and 1 by its hash, today and tomorrow."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()) / 2**64


def _catalogue_pairs(products: list[dict[str, Any]], source: CataloguePairs, held_out: float) -> pl.DataFrame:
    template = [(text, field) for text, field, _, _ in string.Formatter().parse(source.query)]
    rows = []
    for product in products:
        query = _fill(template, product)
        if query and source.words:
            query = _some_words(query, *source.words, product["product_id"])
        if query:
            split = catalogue_split(product["product_id"], held_out)
            rows.append((query, product["country"], product["product_id"], 1, split))
    if not rows:
        note(f"  [yellow]pairs.catalogue: no product has all the fields of {escape(source.query)}: left out[/]")
    frame = pl.DataFrame(
        rows,
        schema={
            "query": pl.String, "country": pl.String, "product_id": pl.String, "label": pl.Int64,
            "split": pl.String,
        },
        orient="row",
    )  # fmt: skip
    frame = frame.with_columns(
        grade=pl.lit(None, pl.Float64),
        weight=pl.lit(None, pl.Float64),
        last_seen=pl.lit(None, pl.Datetime("us", "UTC")),
        depth=pl.lit(None, pl.Int64),
        position=pl.lit(None, pl.Float64),
        source=pl.lit("catalogue"),
        drop_fields=pl.lit(" ".join(source.drop_fields)),
    )
    return frame.select(COLUMNS)


def _fill(template: list[tuple[str, str | None]], product: dict[str, Any]) -> str | None:
    """The template with a product's fields; None where it lacks one. `{category}` is the last level of the path."""
    text, attributes = "", dict(product["attributes"] or ())
    for literal, field in template:
        text += literal
        if field is None:
            continue
        value = product[field] if field in product else attributes.get(field)
        if not value:
            return None
        text += str(value).split(" > ")[-1] if field == "category" else str(value)
    return text


def _some_words(text: str, fewest: int, most: int, product_id: str) -> str:
    """So many words in a row, the same for a product and text today and tomorrow."""
    words = text.split()
    generator = random.Random(f"{product_id}\n{text}")
    count = generator.randint(fewest, most)
    start = generator.randint(0, max(0, len(words) - count))
    return " ".join(words[start : start + count])
