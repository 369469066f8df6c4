"""Which products may be learned from: those that were there when the train split ended and that no test hides.

Everything that is fitted to the catalogue itself (tokenizer, vocabularies, context statistics, the compact CNN) is
fitted to these. The others get features like any product; a value that only they have is an unknown one.
"""

from __future__ import annotations

import polars as pl

from mercato.config import Pairs
from mercato.data.market import Market
from mercato.data.pairs import catalogue_split, split_cutoff
from mercato.errors import MercatoError
from mercato.progress import note


def learnable_products(market: Market, pairs: Pairs) -> pl.Series:
    """The ids of the products that may be learned from.

    Not those listed after the train split's end, nor, where a recipe makes pairs of the catalogue, those whose pairs
    validate or test. These teach nothing at all: one attribute often tells another ("Print or Pattern Type" the
    "Pattern" that a query names), so that to hide only the fields that a pair drops would not hide them.

    Args:
        market: where listings have no time (`created_at`), they count as listed before.
        pairs: of the recipe.

    Raises:
        MercatoError: there is none.
    """
    products = market.frame("products", ["product_id", "created_at"])
    products = products.drop_nulls("product_id").unique("product_id", keep="first", maintain_order=True)
    cutoff = split_cutoff(market, ["train"])
    learnable = products.filter((pl.col("created_at") <= cutoff).fill_null(True))["product_id"]
    if learnable.is_empty():
        raise MercatoError(
            f"{market.path}: table products, column created_at: every product is listed after {cutoff:%Y-%m-%d %H:%M},"
            " when the pairs of the train split end, so that none may be learned from; leave the column empty where"
            " the day of listing is not known"
        )
    if pairs.catalogue:
        learned = [catalogue_split(product, pairs.held_out) == "train" for product in learnable]
        learnable = learnable.filter(pl.Series(learned, dtype=pl.Boolean))
    if len(learnable) < len(products):
        note(
            f"  {len(products) - len(learnable):,} of {len(products):,} products, held out or listed later, teach"
            " nothing to tokenizer, context and image encoder"
        )
    return learnable
