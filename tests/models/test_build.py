"""How towers begin: from scratch with one dictionary, so that they can learn at all."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mercato.config import Recipe, load_recipe
from mercato.features.context import ContextSpec
from mercato.features.featurizer import FeatureSpec, Featurizer
from mercato.features.tokenizer import train_tokenizer
from mercato.losses.in_batch_softmax import in_batch_softmax
from mercato.models.build import build_towers, text_configs
from mercato.models.tower import TwoTower
from mercato.training.data.features import product_ids

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))
SCRATCH = [path for path in RECIPES if load_recipe(path).text.pretrained is None]
WORDS = [a + b for a in ("ma", "lo", "ri", "te", "su", "ga") for b in ("ben", "tok", "vis", "dar", "pul", "nex")]
TITLES = [f"{one} {two} new" for one, two in zip(WORDS, WORDS[7:] + WORDS[:7], strict=True)]


def make(pooling: str = "mean", query=("text",), product=("title_text",)) -> tuple[TwoTower, Featurizer]:
    text = {"layers": 2, "heads": 2, "hidden": 32, "feed_forward": 64, "pooling": pooling}
    recipe = Recipe.model_validate(
        {"name": "start", "dimension": 32, "query_tower": {"text": text}, "product_tower": {"text": text}}
    )
    tokenizer = train_tokenizer([*WORDS, *TITLES], 150)
    spec = FeatureSpec(
        query_channels=query, product_channels=product, pad_id=0, vocabulary=tokenizer.get_vocab_size(), buckets=500,
        query_tokens=8, query_characters=20, title_tokens=12, description_tokens=8, countries=(), languages=(),
    )  # fmt: skip
    torch.manual_seed(0)
    return build_towers(recipe, spec, text_configs(recipe, spec)), Featurizer(spec, tokenizer)


def grid(towers: TwoTower, featurizer: Featurizer) -> torch.Tensor:
    def as_tensors(features: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
        return {name: torch.from_numpy(array) for name, array in features.items()}

    query = towers.query(as_tensors(featurizer.queries(WORDS, [None] * len(WORDS))))[0]
    product = towers.product(as_tensors(featurizer.products([{"title": title} for title in TITLES])))[0]
    return query @ product.T


@pytest.mark.parametrize("path", SCRATCH, ids=lambda path: path.stem)
def test_every_recipe_from_scratch_builds(path):
    recipe = load_recipe(path, ["trigrams.buckets=500"])
    tokenizer = train_tokenizer([*WORDS, *TITLES], 150)
    goods = [{"title": title, "country": "us", "price": 10.0} for title in TITLES]
    now = datetime(2026, 3, 1, tzinfo=UTC)
    spec = FeatureSpec(
        query_channels=recipe.query_tower.channels, product_channels=recipe.product_tower.channels, pad_id=0,
        vocabulary=tokenizer.get_vocab_size(), buckets=500, query_tokens=8, query_characters=20, title_tokens=12,
        description_tokens=8, countries=("mx", "us"), languages=("en",), max_images=1, image_dimension=3,
        image_patches=4 if recipe.uses_patches else 0, product_ids=product_ids(recipe), query_ids=10,
        context=ContextSpec.fit(recipe.product_tower.context, goods, now) if recipe.uses_context else None,
    )  # fmt: skip
    towers = build_towers(recipe, spec, text_configs(recipe, spec), 5 if recipe.head.queries else 0)
    unknown = dict.fromkeys((name for name, _ in spec.product_ids), np.zeros(0, np.uint64))
    features = Featurizer(spec, tokenizer, unknown).products(goods, as_of=now)
    vectors = towers.product({name: torch.from_numpy(array) for name, array in features.items()})[0]
    assert vectors.shape == (len(TITLES), recipe.dimension) and torch.isfinite(vectors).all()


@pytest.mark.parametrize(
    ("query", "product"), [(("text",), ("title_text",)), (("trigrams",), ("title_trigrams", "description_trigrams"))]
)
def test_untrained_towers_match_words(query, product):
    towers, featurizer = make(query=query, product=product)
    with torch.no_grad():
        cosine = grid(towers.eval(), featurizer)
    holds = torch.tensor([[word in title.split() for title in TITLES] for word in WORDS])
    found = holds[torch.arange(len(WORDS)), cosine.argmax(1)].float().mean()
    assert found >= 0.5 and cosine[holds].mean() > cosine[~holds].mean() + 0.05  # two titles in 36 hold a word


def test_a_transformer_from_scratch_learns_and_does_not_collapse():
    towers, featurizer = make()
    optimizer = torch.optim.Adam(towers.parameters(), 1e-3)
    nothing = torch.zeros(len(WORDS), len(WORDS), dtype=torch.bool)
    for _ in range(30):
        optimizer.zero_grad()
        cosine = grid(towers.train(), featurizer)
        loss = in_batch_softmax(cosine, nothing, 20.0)
        loss.backward()
        optimizer.step()
    assert loss < 0.5 * np.log(len(WORDS))  # what vectors all alike would cost


def test_both_transformers_read_one_dictionary_and_then_go_their_own_ways():
    towers, _ = make()
    query, product = (encoder.backbone.embeddings for encoder in towers.text_encoders())
    assert torch.equal(query.word_embeddings.weight, product.word_embeddings.weight)
    assert query.word_embeddings.weight is not product.word_embeddings.weight
    assert query.position_embeddings.weight.std() < 0.2 * query.word_embeddings.weight.std()
    bags, _ = make(query=("trigrams",), product=("title_trigrams", "description_trigrams"))
    title, description = bags.product.bags.values()
    assert torch.equal(title.weight, description.weight) and torch.equal(title.weight, bags.query.trigrams.weight)
    assert F.cosine_similarity(title.weight[1:2], title.weight[2:3]).abs() < 0.9


def test_bags_of_a_fusion_transformer_are_as_wide_as_it_is_and_alike():
    text = {"layers": 1, "heads": 2, "hidden": 16, "feed_forward": 32}
    query, product = ("text", "trigrams"), ("title_text", "title_trigrams", "description_trigrams")
    recipe = Recipe.model_validate(
        {
            "name": "narrow",
            "dimension": 32,
            "query_tower": {"text": text},
            "product_tower": {"channels": product, "text": text, "fusion": "transformer"},
        }
    )
    spec = FeatureSpec(
        query_channels=query, product_channels=product, pad_id=0, vocabulary=50, buckets=90, query_tokens=8,
        query_characters=20, title_tokens=12, description_tokens=8, countries=(), languages=(),
    )  # fmt: skip
    towers = build_towers(recipe, spec, text_configs(recipe, spec))
    title, description = towers.product.bags.values()
    assert title.weight.shape == (91, 16) and towers.query.trigrams.weight.shape == (91, 32)
    assert torch.equal(title.weight, description.weight)
