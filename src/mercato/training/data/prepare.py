"""A market and a recipe → everything that training reads: features, examples, validation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mercato.config import Recipe
from mercato.data.market import Market
from mercato.data.pairs import recipe_pairs, split_cutoff
from mercato.evaluation.dataset import within_country
from mercato.features.featurizer import Featurizer
from mercato.progress import note
from mercato.training.data.batches import Examples, FeatureTables
from mercato.training.data.features import (
    ImageSource,
    catalogue_rows,
    fit_featurizer,
    image_source,
    product_features,
    query_features,
    without_images,
)
from mercato.training.data.learnable import learnable_products
from mercato.training.data.pairs import (
    KEY,
    engagement_targets,
    head_classes,
    index_of,
    keyed,
    listing_days,
    positions,
    train_pairs,
)
from mercato.training.data.validation import (
    RECALL_CATALOGUE,
    PairValidation,
    RecallValidation,
    engagement_pairs,
    recalled_pairs,
    validation_pairs,
)
from mercato.training.task import Validation


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Training data of a run: examples, validation, the featurizer fitted on them."""

    featurizer: Featurizer
    tables: FeatureTables  # of every query and product
    examples: Examples
    pairs: PairValidation | None  # labelled ones that validate
    recall: RecallValidation | None  # where early stopping goes by it
    image_folder: Path | None  # of the image encoder
    head_queries: tuple[str, ...]  # what the head tells apart, the most common first
    learnable: NDArray[np.int64]  # the rows of the products that may be learned from

    @property
    def validation(self) -> Validation | None:
        """What stages are validated on."""
        return self.recall or self.pairs


def prepare(market: Market, recipe: Recipe, folder: Path) -> Prepared:
    """Read the market as the recipe wants it; the tokenizer and the feature spec are kept in `folder` for a resume.

    Raises:
        MercatoError: the market lacks what the recipe wants.
    """
    pairs = recipe_pairs(market, recipe.pairs)
    products = catalogue_rows(market, recipe)
    known = pairs.join(products.select("product_id"), on="product_id", how="semi", maintain_order="left")
    if len(known) < len(pairs):
        note(f"  [yellow]{len(pairs) - len(known):,} pairs name a product that is not in the catalogue: left out[/]")
    train = train_pairs(market, known, recipe)
    judged, dropped = validation_pairs(market, known, recipe)
    judged, engagement = keyed(judged), keyed(engagement_pairs(market, known, recipe))
    recalled, dropped_of_recalled = recalled_pairs(known, recipe)
    recalled = keyed(recalled)

    learnable = learnable_products(market, recipe.pairs)
    source = image_source(market, recipe, products, learnable) if recipe.uses_images else ImageSource()
    if recipe.uses_images and source.shape is None:
        recipe, source = without_images(market, recipe), ImageSource()

    now = split_cutoff(market, ["train"])
    featurizer = fit_featurizer(
        recipe,
        products=products.filter(pl.col("product_id").is_in(learnable.implode())),
        train=train,
        image_shape=source.shape,
        now=now,
        folder=folder,
    )
    columns = ["query", *KEY]
    queries = pl.concat([part.select(columns) for part in (train, judged, engagement, recalled)])
    queries = queries.unique(KEY, keep="first", maintain_order=True)
    own, typos_QK = query_features(featurizer, queries, recipe.typos > 0, recipe.seed)
    tables = FeatureTables(
        queries=own,
        products=product_features(
            featurizer, products, vectors=source.vectors, keep_vectors=source.images is None, now=now
        ),
        spec=featurizer.spec,
        images=source.images,
    )

    every = pl.concat([train["country"], recalled["country"], products["country"]])
    known_countries = every.drop_nulls().unique().sort().to_list()

    def numbered(countries: pl.Series) -> NDArray[np.int64]:
        """Countries as numbers from 1; 0 for none."""
        numbers = list(range(1, len(known_countries) + 1))
        return countries.replace_strict(known_countries, numbers, default=0, return_dtype=pl.Int64).to_numpy()

    head_queries, classes_MK = head_classes(market, recipe, train=train, pairs=known, products=products)
    product_N = index_of(train, products, ["product_id"])
    engaged_N = (train["label"] == 1).to_numpy()
    local = within_country(products["country"], train["country"].filter(engaged_N), product_N[engaged_N])
    drops = train["drop_fields"].unique(maintain_order=True).to_list()
    reads_age = featurizer.spec.context is not None and bool(featurizer.spec.context.age_columns)
    examples = Examples(
        tables=tables,
        query_N=index_of(train, queries, KEY),
        product_N=product_N,
        grade_N=train["grade"].fill_null(train["label"].cast(pl.Float64)).cast(pl.Float32).to_numpy(),
        engaged_N=engaged_N,
        target_N=engagement_targets(train),
        drop_fields=[tuple(fields.split()) for fields in drops],
        drop_N=train["drop_fields"].replace_strict(drops, list(range(len(drops))), return_dtype=pl.Int64).to_numpy(),
        typos_QK=typos_QK,
        typo_share=recipe.typos,
        weight_N=train["weight"].fill_null(1.0).to_numpy() if recipe.pairs.weight_power else None,
        weight_power=recipe.pairs.weight_power,
        position_N=positions(train, market) if any(stage.position_power for stage in recipe.pair_stages) else None,
        country_N=numbered(train["country"]),
        country_M=numbered(products["country"]) if local else None,
        days_N=listing_days(train, products, now) if reads_age else None,
        classes_MK=classes_MK,
    )

    def validate_on(labelled: pl.DataFrame, beside: PairValidation | None = None) -> PairValidation | None:
        if labelled["label"].n_unique() < 2:
            return None
        return PairValidation(
            tables=tables,
            query_N=index_of(labelled, queries, KEY),
            product_N=index_of(labelled, products, ["product_id"]),
            label_N=labelled["label"].to_numpy(),
            drop_fields=dropped,
            engagement=beside,
            monitors_relevance="relevance" in recipe.monitored,
        )

    validation = validate_on(judged, validate_on(engagement))
    recall = None
    if len(recalled):
        found_N = index_of(recalled, products, ["product_id"])
        generator = np.random.default_rng(recipe.seed)
        beside = np.setdiff1d(np.arange(len(products)), found_N)
        room = max(0, RECALL_CATALOGUE - (len(products) - len(beside)))
        some = generator.choice(beside, min(len(beside), room), replace=False)
        recall = RecallValidation(
            tables=tables,
            query_N=index_of(recalled, queries, KEY),
            product_N=found_N,
            product_M=np.union1d(some, found_N),
            country_N=numbered(recalled["country"]) if local else None,
            country_M=numbered(products["country"]),
            drop_fields=dropped_of_recalled,
            beside=validation,
        )

    others = f" and {len(examples.unengaged):,} others" if len(examples.unengaged) else ""
    note(
        f"  {len(examples.engaged):,} engaged pairs{others} of {train.select(KEY).n_unique():,} queries to learn from,"
        f" {len(judged) + len(engagement) + len(recalled):,} pairs to validate on, {len(products):,} products"
    )
    return Prepared(
        featurizer=featurizer,
        tables=tables,
        examples=examples,
        pairs=validation,
        recall=recall,
        image_folder=source.folder,
        head_queries=head_queries,
        learnable=np.flatnonzero(products["product_id"].is_in(learnable.implode()).to_numpy()),
    )
