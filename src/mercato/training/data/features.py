"""Features for training: what the towers read of the catalogue, of its images and of the queries."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
from filelock import FileLock
from numpy.typing import NDArray
from tokenizers import Tokenizer

from mercato.config import Recipe
from mercato.data.market import Market
from mercato.data.normalize import normalize
from mercato.data.schema import PRODUCTS
from mercato.errors import MercatoError
from mercato.features.context import ContextSpec, columns_of
from mercato.features.featurizer import Features, FeatureSpec, Featurizer
from mercato.features.ids import QUERY, Hashes, KnownIds, fit_ids, save_ids
from mercato.features.images import read_spec
from mercato.features.tokenizer import load_tokenizer, pretrained_tokenizer, train_tokenizer
from mercato.fields import FEATURES, PRODUCT_CHANNELS, channel_fields, label_of
from mercato.files import write_atomic
from mercato.progress import note, track
from mercato.runs.folder import IDS, SPEC, TOKENIZER, load_known_ids
from mercato.runs.image_vectors import CACHE, ImageVectors, encoded_vectors, given_vectors, image_counts
from mercato.training.data.image_encoder import market_image_encoder
from mercato.training.data.images import ProductImages
from mercato.training.data.pairs import index_of
from mercato.training.data.typos import with_typo

SHORTEST_CAP, LONGEST_CAP = 8, 64  # tokens of a query: a log of single words, or one with a stray page, must not set it
TYPOS = 4  # of each query, to draw from


@dataclass(frozen=True, kw_only=True)
class ImageSource:
    """Where a run's image features come from; all None where there are none."""

    vectors: ImageVectors | None = None  # of each product
    folder: Path | None = None  # of the image encoder, where the market did not bring the vectors
    images: ProductImages | None = None  # of each product, where the encoder is fine-tuned

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Of an image: (V,), in patches (P, V); None without any."""
        return next((own.shape[1:] for own in self.vectors or () if own is not None), None)


def catalogue_rows(market: Market, recipe: Recipe) -> pl.DataFrame:
    """What the product tower reads of the catalogue, but for the images themselves: a row for each product id.

    Raises:
        MercatoError: there are fewer than two.
    """
    own = channel_fields(recipe.product_tower.channels, "text", "trigrams", "category")
    columns = list(dict.fromkeys(["product_id", "title", "description", "language", "country", *own]))
    read = columns_of(recipe.product_tower.context) if recipe.uses_context else set()
    wanted = {*columns, *read, *(recipe.product_tower.ids.fields if recipe.uses_ids else ())} - {"images"}
    products = market.frame("products", [name for name in PRODUCTS.names if name in wanted])
    if "images" in read:
        products = products.with_columns(image_count=pl.Series(image_counts(market).to_numpy()))
    products = products.drop_nulls("product_id").unique("product_id", keep="first", maintain_order=True)
    if len(products) < 2:
        raise MercatoError(f"{market.path}: table products has {len(products)} row(s); training needs at least 2")
    return products


def image_source(market: Market, recipe: Recipe, products: pl.DataFrame, learnable: pl.Series) -> ImageSource:
    """The image vectors of each of `products`, and the folder of their encoder, where the user did not bring them.

    The encoder learns from the products whose ids are `learnable`. A recipe that reads patches has patches in place of
    vectors; a vector that the user brought is then an image of one patch.

    With an encoder that is fine-tuned, its images, and vectors that only tell how many a product has.

    Raises:
        MercatoError: vectors that the user brought are to be fine-tuned.
    """
    limit = recipe.images.max_images
    rows = index_of(products, market.frame("products", ["product_id"]), ["product_id"])
    every = given_vectors(market, limit)
    if every is not None:
        if recipe.images.fine_tune:
            raise MercatoError(
                f"{market.path}: products.image_embeddings brings vectors, and not the encoder that made them: set"
                " images.fine_tune=false, or take the column out"
            )
        if recipe.uses_patches:
            every = [None if own is None else own[:, None] for own in every]
        return ImageSource(vectors=[every[row] for row in rows])
    (market.path / CACHE).mkdir(exist_ok=True)
    with FileLock(market.path / CACHE / ".images.lock"):  # two runs on one market share an encoder and its vectors
        folder = market_image_encoder(market, recipe.images, recipe.seed, learnable, recipe.uses_patches)
        if folder is None:
            return ImageSource()
        if not recipe.images.fine_tune:
            every = encoded_vectors(market, folder, limit)
            return ImageSource(vectors=[every[row] for row in rows], folder=folder)
    spec = read_spec(folder)
    images = ProductImages(market, rows, spec, limit)
    nothing = np.zeros(1, np.float32)
    vectors: ImageVectors = [np.broadcast_to(nothing, (count, spec.dimension)) for count in images.counts]
    return ImageSource(vectors=vectors, folder=folder, images=images)


def without_images(market: Market, recipe: Recipe) -> Recipe:
    """The recipe without the channel that reads images.

    Raises:
        MercatoError: no other channel is left.
    """
    channels = tuple(c for c in recipe.product_tower.channels if "images" not in PRODUCT_CHANNELS[c].fields)
    left_out = ", ".join(c for c in recipe.product_tower.channels if c not in channels)
    note(f"  [yellow]the channel {left_out} is left out[/]")
    texts = any(PRODUCT_CHANNELS[channel].kind == "text" for channel in channels)
    if not set(channels) - {"ids"} or (recipe.product_tower.fusion == "transformer" and not texts):
        raise MercatoError(f"{market.path}: no images to read, and product_tower.channels names no text beside them")
    return recipe.model_copy(update={"product_tower": recipe.product_tower.model_copy(update={"channels": channels})})


def fit_featurizer(
    recipe: Recipe,
    *,
    products: pl.DataFrame,
    train: pl.DataFrame,
    image_shape: tuple[int, ...] | None,
    now: datetime,
    folder: Path,
) -> Featurizer:
    """What turns queries and products into features, fitted to them or, in a resumed run, read from `folder`.

    Args:
        recipe: what the towers read.
        products: of `catalogue_rows`, those that may be learned from (`learnable_products`).
        train: the training pairs, whose queries the tokenizer and the longest query are fitted to; the engaged ones say
            which ids are known.
        image_shape: of an image: (V,), in patches (P, V); None without images.
        now: the present, by which listings have an age.
        folder: where the tokenizer and the feature spec are kept.
    """
    if (folder / SPEC).is_file() and (folder / TOKENIZER).is_file():  # a resumed run
        spec = FeatureSpec.load(folder / SPEC)
        return Featurizer(spec, load_tokenizer(folder / TOKENIZER), load_known_ids(folder, spec))
    pretrained = recipe.text.pretrained
    queries = train["query"].unique().to_list()
    tokenizer: Tokenizer
    if pretrained is not None:
        tokenizer, pad_id = pretrained_tokenizer(pretrained)
    elif (folder / TOKENIZER).is_file():  # of pretraining
        tokenizer, pad_id = load_tokenizer(folder / TOKENIZER), 0
    else:
        texts = {normalize(text) for column in ("title", "description") for text in products[column].drop_nulls()}
        texts.update(normalize(query) for query in queries)
        note(f"  tokenizer: unigram, {recipe.text.vocabulary:,} pieces from {len(texts):,} texts")
        tokenizer, pad_id = train_tokenizer(texts, recipe.text.vocabulary, recipe.pretraining is not None), 0
    prefix = recipe.query_tower.text.prefix
    lengths = [len(e.ids) for e in tokenizer.encode_batch_fast([prefix + normalize(query) for query in queries])]
    characters = [len(normalize(query)) for query in queries]
    cap = recipe.query_tower.max_tokens or int(np.clip(np.ceil(np.percentile(lengths, 99)), SHORTEST_CAP, LONGEST_CAP))
    context = None
    if recipe.uses_context:
        of_it = columns_of(recipe.product_tower.context) | {"image_count"}
        rows = products.select(name for name in products.columns if name in of_it).to_dicts()
        context = ContextSpec.fit(recipe.product_tower.context, rows, now)
    spec = FeatureSpec(
        query_channels=recipe.query_tower.channels,
        product_channels=recipe.product_tower.channels,
        pad_id=pad_id,
        vocabulary=tokenizer.get_vocab_size(),
        buckets=recipe.trigrams.buckets,
        query_tokens=cap,
        query_characters=int(np.clip(np.ceil(np.percentile(characters, 99)), 4 * SHORTEST_CAP, 8 * LONGEST_CAP)),
        title_tokens=recipe.product_tower.title_tokens,
        description_tokens=recipe.product_tower.description_tokens,
        countries=_values(pl.concat([products["country"], train["country"]])),
        languages=_values(products["language"]),
        other_categories=tuple(
            (field, _values(products[field]))
            for field in channel_fields(recipe.product_tower.channels, "category")
            if field not in ("country", "language")
        ),
        max_images=recipe.images.max_images if image_shape else 0,
        image_dimension=image_shape[-1] if image_shape else 0,
        image_patches=image_shape[0] if image_shape and recipe.uses_patches else 0,
        query_prefix=prefix,
        product_prefix=recipe.product_tower.text.prefix,
        normalized=pretrained is None,
        context=context,
        product_ids=product_ids(recipe),
        query_ids=recipe.query_tower.ids.buckets if "ids" in recipe.query_tower.channels else 0,
    )
    write_atomic(folder / TOKENIZER, tokenizer.to_str())
    known = known_ids(recipe, products, train)
    if known:
        save_ids(known, folder / IDS)
    spec.save(folder / SPEC)
    return Featurizer(spec, tokenizer, known)


def product_ids(recipe: Recipe) -> tuple[tuple[str, int], ...]:
    """The fields of a product whose ids are read, and the buckets of each."""
    own = recipe.product_tower.ids
    sizes = {"product_id": own.product_buckets}
    return tuple((field, sizes.get(field, own.buckets)) for field in own.fields) if recipe.uses_ids else ()


def known_ids(recipe: Recipe, products: pl.DataFrame, train: pl.DataFrame) -> KnownIds:
    """The ids that enough engaged training pairs have; none where the towers read none."""
    engaged, known = train.filter(pl.col("label") == 1), dict[str, Hashes]()
    if recipe.uses_ids:
        fields = recipe.product_tower.ids.fields
        bought = engaged.select("product_id").join(products.select({"product_id", *fields}), on="product_id")
        known |= {field: fit_ids(field, bought[field].to_list(), recipe.product_tower.ids.least) for field in fields}
    if "ids" in recipe.query_tower.channels:
        known[QUERY] = fit_ids(QUERY, engaged["key"].to_list(), recipe.query_tower.ids.least)
    for field, own in known.items():
        note(f"  ids: {len(own):,} of {label_of(field)} are known")
    return known


def query_features(
    featurizer: Featurizer, queries: pl.DataFrame, typos: bool, seed: int
) -> tuple[Features, NDArray[np.int64] | None]:
    """The features of some queries, and with `typos` of four misspellings of each behind them.

    Args:
        featurizer: of `fit_featurizer`.
        queries: columns `query` and `country`, Q rows.
        typos: whether to make them.
        seed: of the typos.

    Returns:
        The feature table, and which of its rows are each query with a typo, (Q, 4) or None.
    """
    texts, countries = queries["query"].to_list(), queries["country"].to_list()
    if not typos:
        return featurizer.queries(texts, countries), None
    generator = np.random.default_rng(seed)
    typos_QK = len(texts) + np.arange(len(texts) * TYPOS).reshape(len(texts), TYPOS)
    texts += [with_typo(normalize(query), generator) for query in texts for _ in range(TYPOS)]
    countries += [country for country in countries for _ in range(TYPOS)]
    return featurizer.queries(texts, countries), typos_QK


def product_features(
    featurizer: Featurizer,
    products: pl.DataFrame,
    *,
    vectors: ImageVectors | None,
    keep_vectors: bool,
    now: datetime,
    batch: int = 1024,
) -> Features:
    """The features of the catalogue; without `keep_vectors` not those of its images, which training makes itself."""
    parts: list[Features] = []
    for start in track(range(0, len(products), batch), f"products → features (batches of {batch:,})"):
        rows = products[start : start + batch].to_dicts()
        part = featurizer.products(rows, vectors[start : start + batch] if vectors is not None else None, now)
        if not keep_vectors:  # training makes them
            del part["images"]
        parts.append({name: a.astype(np.float16) if FEATURES[name].half else a for name, a in part.items()})
    whole = Features()
    for name in parts[0]:
        arrays = [part[name] for part in parts]
        if FEATURES[name].ragged:
            whole[name] = _stack(arrays, featurizer.spec.missing(name))
        else:
            whole[name] = np.concatenate(arrays)
    return whole


def _stack(arrays: list[NDArray[np.int64]], fill: int) -> NDArray[np.int32]:
    result = np.full((sum(map(len, arrays)), max(a.shape[1] for a in arrays)), fill, np.int32)
    row = 0
    for array in arrays:
        result[row : row + len(array), : array.shape[1]] = array
        row += len(array)
    return result


def _values(column: pl.Series) -> tuple[str, ...]:
    return tuple(sorted(value for value in column.unique() if value))
