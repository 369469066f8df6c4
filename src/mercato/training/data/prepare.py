"""A market and a recipe → everything that training reads: features, examples, validation."""

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
from mercato.data.pairs import recipe_pairs, split_cutoff
from mercato.data.schema import PRODUCTS
from mercato.errors import MercatoError
from mercato.features.context import ContextSpec, columns_of
from mercato.features.featurizer import Features, FeatureSpec, Featurizer
from mercato.features.images import read_spec
from mercato.features.tokenizer import load_tokenizer, pretrained_tokenizer, train_tokenizer
from mercato.files import write_atomic
from mercato.progress import note, track
from mercato.runs.folder import SPEC, TOKENIZER
from mercato.runs.image_vectors import CACHE, ImageVectors, given_vectors, photo_counts, photo_vectors
from mercato.training.data.batches import Examples, index_of
from mercato.training.data.image_encoder import market_image_encoder
from mercato.training.data.images import Photos
from mercato.training.data.typos import misspell
from mercato.training.module import Validation

SHORTEST_CAP, LONGEST_CAP = 8, 64  # tokens of a query: a log of single words, or one with a stray page, must not set it
KEY = ["key", "country"]  # of a query, in its normal form
SLIPS = 4  # misspellings of a query to draw from
SHOWN_PAIRS = 1_500  # that validate, of each kind
RANDOM_NEGATIVES = 10  # a validation pair, where the market has no judged or shown-and-not-engaged ones


@dataclass(frozen=True)
class Prepared:
    """What a run trains on."""

    featurizer: Featurizer
    examples: Examples
    validation: Validation | None
    image_folder: Path | None  # of the image encoder
    head_queries: tuple[str, ...]  # what the head tells apart, the most common first


def prepare(market: Market, recipe: Recipe, folder: Path) -> Prepared:
    """Read the market as the recipe wants it; the tokenizer and the feature spec are kept in `folder` for a resume."""
    pairs = recipe_pairs(market, recipe.pairs)
    products = _products(market, recipe)
    products = products.drop_nulls("product_id").unique("product_id", keep="first", maintain_order=True)
    if len(products) < 2:
        raise MercatoError(f"{market.path}: table products has {len(products)} row(s); training needs at least 2")
    known = pairs.join(products.select("product_id"), on="product_id", how="semi", maintain_order="left")
    if len(known) < len(pairs):
        note(f"  [yellow]{len(pairs) - len(known):,} pairs name a product that is not in the catalogue: left out[/]")
    wanted = pl.lit(True) if recipe.learns_from_all else pl.col("label") == 1
    train = _once_engaged(_keyed(known.filter((pl.col("split") == "train") & wanted)))
    if train.filter(pl.col("label") == 1).is_empty():
        raise MercatoError(f"{market.path}: every engaged pair of the train split names a product that is not there")
    judged, withheld = _validation_pairs(market, known, recipe)
    judged, shown = _keyed(judged), _keyed(_validation_shown(market, known, recipe))

    vectors, image_folder, photos = _photos(market, recipe, products) if recipe.uses_images else (None, None, None)
    width = next((v.shape[1] for v in vectors or () if v is not None), 0)
    if recipe.uses_images and not width:
        recipe, vectors, image_folder, photos = _without_photos(market, recipe), None, None, None

    now = split_cutoff(market, ["train"])
    featurizer = _featurizer(recipe, products, train, width, now, folder)
    columns = ["query", *KEY]
    queries = pl.concat([part.select(columns) for part in (train, judged, shown)])
    queries = queries.unique(KEY, keep="first", maintain_order=True)
    texts, countries = queries["query"].to_list(), queries["country"].to_list()
    slips = None
    if recipe.misspelled:
        generator = np.random.default_rng(recipe.seed)
        slips = len(texts) + np.arange(len(texts) * SLIPS).reshape(len(texts), SLIPS)
        texts += [misspell(normalize(query), generator) for query in texts for _ in range(SLIPS)]
        countries += [country for country in countries for _ in range(SLIPS)]
    query_features = featurizer.queries(texts, countries)
    product_features = _product_features(featurizer, products, vectors, photos is None, now)

    head_queries, classes = _head(recipe, train, products)
    withholds = train["withhold"].unique(maintain_order=True).to_list()
    examples = Examples(
        query_features,
        product_features,
        featurizer.spec,
        index_of(train, queries, KEY),
        index_of(train, products, ["product_id"]),
        train["withhold"].replace_strict(withholds, list(range(len(withholds))), return_dtype=pl.Int64).to_numpy(),
        [tuple(fields.split()) for fields in withholds],
        train["grade"].fill_null(train["label"].cast(pl.Float64)).cast(pl.Float32).to_numpy(),
        (train["label"] == 1).to_numpy(),
        slips,
        recipe.misspelled,
        train["weight"].fill_null(1.0).to_numpy() if recipe.pairs.weight_power else None,
        recipe.pairs.weight_power,
        _days(train, products, now) if featurizer.spec.context and featurizer.spec.context.age_columns else None,
        classes,
        photos,
    )

    def validate_on(pairs: pl.DataFrame, engagement: Validation | None = None) -> Validation | None:
        if pairs["label"].n_unique() < 2:
            return None
        rows = index_of(pairs, queries, KEY), index_of(pairs, products, ["product_id"])
        labels = pairs["label"].to_numpy()
        return Validation(
            query_features, product_features, featurizer.spec, *rows, labels, withheld, photos, engagement
        )

    validation = validate_on(judged, validate_on(shown))
    others = f" and {len(examples.shown):,} others" if len(examples.shown) else ""
    note(
        f"  {len(examples.engaged):,} engaged pairs{others} of {train.select(KEY).n_unique():,} queries to learn from,"
        f" {len(judged) + len(shown):,} pairs to validate on, {len(products):,} products"
    )
    return Prepared(featurizer, examples, validation, image_folder, head_queries)


def _products(market: Market, recipe: Recipe) -> pl.DataFrame:
    """What the product tower reads of the catalogue, but for the photos themselves."""
    columns = ["product_id", "title", "description", "language", "country"]
    if not recipe.uses_context:
        return market.frame("products", columns)
    read = columns_of(recipe.product_tower.context)
    wanted = {*columns, *read} - {"images"}
    products = market.frame("products", [name for name in PRODUCTS.names if name in wanted])
    if "images" not in read:
        return products
    return products.with_columns(image_count=pl.Series(photo_counts(market).to_numpy()))


def _once_engaged(train: pl.DataFrame) -> pl.DataFrame:
    """A pair that somebody engaged with was not merely shown, in whatever spelling of the query."""
    pair = [*KEY, "product_id"]
    engaged = train.filter(pl.col("label") == 1)
    others = train.filter((pl.col("label") != 1) & pl.col("grade").is_null())
    lost = others.join(engaged.select(pair), on=pair, how="semi", nulls_equal=True)
    return train.join(
        lost.select([*pair, "label"]), on=[*pair, "label"], how="anti", nulls_equal=True, maintain_order="left"
    )


def _days(train: pl.DataFrame, products: pl.DataFrame, now: datetime) -> NDArray[np.int64]:
    """How old each pair's listing was when the pair was last seen, in whole days; −1 where that is unknown."""
    created = products["created_at"].gather(index_of(train, products, ["product_id"]))
    age = (train["last_seen"].fill_null(pl.lit(now)) - created).dt.total_days()
    return age.clip(0).fill_null(-1).to_numpy()


def _head(
    recipe: Recipe, train: pl.DataFrame, products: pl.DataFrame
) -> tuple[tuple[str, ...], NDArray[np.int64] | None]:
    """The most common training queries, and which of them engaged each product, (P, K) padded with -1 (§3.1.1).

    Common is what engaged many products; catalogue pairs, whose "queries" are one product's own, take no part.
    """
    if not recipe.head.queries:
        return (), None
    engaged = train.filter((pl.col("label") == 1) & (pl.col("source") == "market")).unique(["key", "product_id"])
    if engaged.is_empty():
        raise MercatoError(
            "head.queries: the head learns queries that people asked, and the recipe reads no market pairs"
        )
    common = engaged.group_by("key").len().sort(["len", "key"], descending=[True, False]).head(recipe.head.queries)
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


def _photos(
    market: Market, recipe: Recipe, products: pl.DataFrame
) -> tuple[ImageVectors | None, Path | None, Photos | None]:
    """The image vectors of each of `products`, and the folder of their encoder, where the user did not bring them.

    With an encoder that is fine-tuned, its photos, and vectors that only tell how many a product has.
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
        return [every[row] for row in rows], None, None
    (market.path / CACHE).mkdir(exist_ok=True)
    with FileLock(market.path / CACHE / ".photos.lock"):  # two runs on one market share an encoder and its vectors
        folder = market_image_encoder(market, recipe.images, recipe.seed)
        if folder is None:
            return None, None, None
        if not recipe.images.fine_tune:
            every = photo_vectors(market, folder, limit)
            return [every[row] for row in rows], folder, None
    spec = read_spec(folder)
    photos = Photos(market, rows, spec, limit)
    nothing = np.zeros(1, np.float32)
    return [np.broadcast_to(nothing, (count, spec.dimension)) for count in photos.counts], folder, photos


def _without_photos(market: Market, recipe: Recipe) -> Recipe:
    note("  [yellow]the images channel is left out[/]")
    channels = tuple(c for c in recipe.product_tower.channels if c != "images")
    if not channels:
        raise MercatoError(f"{market.path}: no photos to read, and product_tower.channels names nothing else")
    return recipe.model_copy(update={"product_tower": recipe.product_tower.model_copy(update={"channels": channels})})


def _keyed(pairs: pl.DataFrame) -> pl.DataFrame:
    """Spellings that the towers read alike are one query: no negatives of each other."""
    spellings = pairs["query"].unique()
    keys = pl.Series([normalize(query) for query in spellings], dtype=pl.String)
    return pairs.join(pl.DataFrame({"query": spellings, "key": keys}), on="query", how="left", maintain_order="left")


def _validation_pairs(market: Market, pairs: pl.DataFrame, recipe: Recipe) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """Judged validation queries where there are any; else the pairs' validation split, with random negatives.

    Test judgments are never looked at. Also returns the fields withheld from the products of catalogue pairs.
    """
    columns = ["query", "country", "product_id", "label"]
    if market.has("judgments"):
        judged = market.frame("judgments").filter((pl.col("split") == "validation") & pl.col("grade").is_finite())
        if len(judged):
            relevant = (pl.col("grade") >= market.config.relevant_grade).cast(pl.Int64)
            ids = market.frame("products", ["product_id"])
            judged = judged.with_columns(label=relevant).join(ids, on="product_id", how="semi")
            if judged["label"].n_unique() == 2:
                return judged.select(columns), ()
            note("  [yellow]the validation judgments are all of one kind: pairs validate instead[/]")
    held = pairs.filter(pl.col("split") == "validation")
    # What people did, where there is any of it; else the kind of catalogue pairs that the recipe names first.
    kinds = held["withhold"].unique(maintain_order=True).to_list()
    withheld = tuple(kinds[0].split()) if kinds else ()
    held = held.filter(pl.col("withhold") == " ".join(withheld))
    if len(held) and held["label"].min() == 1:
        generator = np.random.default_rng(recipe.seed)
        rows = generator.integers(0, len(held), (len(held), RANDOM_NEGATIVES)).ravel()
        negatives = held.select("query", "country")[np.repeat(np.arange(len(held)), RANDOM_NEGATIVES)].with_columns(
            product_id=held["product_id"].gather(rows), label=pl.lit(0, pl.Int64)
        )
        true = held.select("query", "country", "product_id")
        negatives = negatives.join(true, on=["query", "country", "product_id"], how="anti", nulls_equal=True)
        held = pl.concat([held.select(columns), negatives.select(columns)])
    return held.select(columns), withheld


def _validation_shown(market: Market, pairs: pl.DataFrame, recipe: Recipe) -> pl.DataFrame:
    """Engaged and shown pairs of the validation split, where training reads both and judgments alone would validate."""
    columns = ["query", "country", "product_id", "label"]
    nothing = pairs.clear().select(columns)
    if not any(stage.reads_shown for stage in recipe.stages) or not market.has("judgments"):
        return nothing
    held = pairs.filter((pl.col("split") == "validation") & (pl.col("source") == "market"))
    return pl.concat(
        [nothing]
        + [
            own.sample(min(len(own), SHOWN_PAIRS), seed=recipe.seed).select(columns)
            for own in (held.filter(pl.col("label") == label) for label in (0, 1))
        ]
    )


def _featurizer(
    recipe: Recipe,
    products: pl.DataFrame,
    train: pl.DataFrame,
    image_dimension: int,
    now: datetime,
    folder: Path,
) -> Featurizer:
    if (folder / SPEC).is_file() and (folder / TOKENIZER).is_file():  # a resumed run
        return Featurizer(FeatureSpec.load(folder / SPEC), load_tokenizer(folder / TOKENIZER))
    pretrained = recipe.text.pretrained
    queries = train["query"].unique().to_list()
    tokenizer: Tokenizer
    if pretrained is not None:
        tokenizer, pad_id = pretrained_tokenizer(pretrained)
    else:
        texts = {normalize(text) for column in ("title", "description") for text in products[column].drop_nulls()}
        texts.update(normalize(query) for query in queries)
        note(f"  tokenizer: unigram, {recipe.text.vocabulary:,} pieces from {len(texts):,} texts")
        tokenizer, pad_id = train_tokenizer(texts, recipe.text.vocabulary), 0
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
        max_images=recipe.images.max_images if image_dimension else 0,
        image_dimension=image_dimension,
        query_prefix=prefix,
        product_prefix=recipe.product_tower.text.prefix,
        normalized=pretrained is None,
        context=context,
    )
    write_atomic(folder / TOKENIZER, tokenizer.to_str())
    spec.save(folder / SPEC)
    return Featurizer(spec, tokenizer)


def _product_features(
    featurizer: Featurizer,
    products: pl.DataFrame,
    vectors: ImageVectors | None,
    keep_vectors: bool,
    now: datetime,
    batch: int = 4096,
) -> Features:
    parts: list[Features] = []
    for start in track(range(0, len(products), batch), f"products → features (batches of {batch:,})"):
        rows = products[start : start + batch].to_dicts()
        parts.append(featurizer.products(rows, vectors[start : start + batch] if vectors is not None else None, now))
        if not keep_vectors:  # training makes them
            del parts[-1]["images"]
    whole = Features()
    for name in parts[0]:
        arrays = [part[name] for part in parts]
        if name.endswith(("tokens", "trigrams")):
            fill = featurizer.spec.pad_id if name.endswith("tokens") else 0
            whole[name] = _stack(arrays, fill)
        else:  # half precision halves what a large catalogue's photos take
            whole[name] = np.concatenate([a.astype(np.float16) if name == "images" else a for a in arrays])
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
