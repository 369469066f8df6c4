from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from mercato.config import Recipe
from mercato.features.featurizer import FeatureSpec, Featurizer
from mercato.features.tokenizer import train_tokenizer
from mercato.models.build import build_towers, text_configs
from mercato.models.tower import TwoTower
from mercato.runs.export import export
from mercato.runs.torch_encoder import TorchEncoder

QUERY = ("text", "trigrams", "country")
PRODUCT = ("title_text", "title_trigrams", "description_text", "description_trigrams", "language", "country", "images")
QUERIES = ["red sofa", "x", "", "a wooden table with six chairs and more", "sofá"] * 30
PRODUCTS = [
    {"title": "red sofa", "description": "hardly used, three seats", "country": "us", "language": "en"},
    {"title": "bici", "image_embeddings": [[0.5, 0.1, 0.2]]},
    {"description": "a wooden table and six chairs, all from one tree", "image_embeddings": [[1.0, 0.0, 0.0]] * 3},
    {"title": "x" * 200, "country": "mx"},
    {},
]  # fmt: skip
PRODUCTS = PRODUCTS * 30


def make(
    query: tuple[str, ...] = QUERY,
    product: tuple[str, ...] = PRODUCT,
    shared: bool = False,
    fusion: str = "attention",
    shared_text: bool = True,
) -> TorchEncoder:
    text = {"layers": 2, "heads": 2, "hidden": 8, "feed_forward": 16}
    recipe = Recipe.model_validate(
        {
            "name": "towers",
            "dimension": 12,
            "text": {"shared": shared},
            "query_tower": {"channels": query, "text": text, "fusion": fusion},
            "product_tower": {"channels": product, "text": text, "shared_text": shared_text, "fusion": fusion},
        }
    )
    tokenizer = train_tokenizer(QUERIES[:5], 60)
    spec = FeatureSpec(
        query_channels=query,
        product_channels=product,
        pad_id=0,
        vocabulary=tokenizer.get_vocab_size(),
        buckets=100,
        query_tokens=12,
        query_characters=20,
        title_tokens=8,
        description_tokens=16,
        countries=("mx", "us"),
        languages=("en",),
        max_images=3,
        image_dimension=3,
    )
    torch.manual_seed(0)
    return TorchEncoder(
        recipe, Featurizer(spec, tokenizer), None, build_towers(recipe, spec, text_configs(recipe, spec))
    )


@pytest.fixture(scope="module")
def model() -> TorchEncoder:
    return make()


def count(towers: TwoTower) -> int:
    return sum(p.numel() for p in towers.parameters())


def test_vectors_have_unit_length(model):
    for vectors in (model.encode_queries(QUERIES, "us"), model.encode_products(PRODUCTS[:4])):
        assert vectors.dtype == np.float32 and vectors.shape[1] == model.dimension == 12
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_nothing_at_all_is_a_zero_vector_and_not_nan(model):
    assert not model.encode_queries([""]).any() and not model.encode_products([{}]).any()
    assert model.encode_queries([]).shape == (0, 12) and model.encode_products([]).shape == (0, 12)


def test_a_row_does_not_depend_on_its_batch(model):
    """Alone, in a batch of five, and in one long enough to be encoded by length."""
    queries, products = model.encode_queries(QUERIES, "us"), model.encode_products(PRODUCTS)
    for row in range(5):
        for n in (1, 5, 150):
            rows = [*range(row, 150), *range(row)][:n]
            np.testing.assert_allclose(
                model.encode_queries([QUERIES[i] for i in rows], "us")[0], queries[row], atol=1e-5
            )
            np.testing.assert_allclose(model.encode_products([PRODUCTS[i] for i in rows])[0], products[row], atol=1e-5)


def test_padding_does_not_count(model):
    features = model.featurizer.products(PRODUCTS[:3])
    padded = {
        name: np.pad(array, ((0, 0), (0, min(3, 16 - array.shape[1] if name.endswith("tokens") else 3))))
        if name.endswith(("tokens", "trigrams"))
        else array
        for name, array in features.items()
    }
    assert padded["title_tokens"].shape != features["title_tokens"].shape
    np.testing.assert_allclose(model.product_vectors(padded), model.product_vectors(features), atol=1e-5)


def test_country_matters(model):
    assert not np.allclose(model.encode_queries(["sofa"], "us"), model.encode_queries(["sofa"], "mx"))
    assert np.array_equal(model.encode_queries(["sofa"], "atlantis"), model.encode_queries(["sofa"], None))


def test_title_and_description_share_one_encoder(model):
    names = [name for name, _ in model.towers.named_parameters() if "backbone" in name]
    alone = make(product=("title_text",)).towers
    assert sum("backbone" in name for name, _ in alone.named_parameters()) == len(names)
    assert model.towers.product.text is not None


def test_title_and_description_apart_on_wish(tmp_path):
    together, apart = make(), make(shared_text=False)
    encoder = sum(p.numel() for p in together.towers.product.text.parameters())
    assert count(apart.towers) == count(together.towers) + encoder
    backbones = sum(p.numel() for e in apart.towers.text_encoders() for p in e.backbone.parameters())
    assert sum(p.numel() for p in apart.towers.text_parameters()) == backbones
    apart.save(tmp_path)
    again = TorchEncoder.load(tmp_path)
    np.testing.assert_array_equal(again.encode_products(PRODUCTS[:5]), apart.encode_products(PRODUCTS[:5]))
    description = apart.towers.product.description_text
    with torch.no_grad():
        description.projection.bias += 1
    assert not np.allclose(again.encode_products(PRODUCTS[:1]), apart.encode_products(PRODUCTS[:1]))
    titled = [{"title": "red sofa"}]
    np.testing.assert_array_equal(again.encode_products(titled), apart.encode_products(titled))


@pytest.mark.parametrize(("fusion", "shared_text"), [("concat", False), ("wide_and_deep", True)])
def test_every_fusion_survives_export(tmp_path, fusion, shared_text):
    model = make(fusion=fusion, shared_text=shared_text)
    model.save(tmp_path)
    assert max(export(model, tmp_path).values()) < 1e-5
    assert np.isfinite(model.encode_products(PRODUCTS[:5])).all()


def test_one_encoder_for_both_towers_on_wish():
    apart, together = make(), make(shared=True)
    assert together.towers.query.text is together.towers.product.text
    longest = 16 - 12  # position rows of the longer texts
    encoder = sum(p.numel() for p in apart.towers.query.text.parameters()) + longest * 8
    assert count(together.towers) == count(apart.towers) - encoder + longest * 8


def test_a_shared_encoder_survives_its_file(tmp_path):
    model = make(shared=True)
    model.save(tmp_path)
    again = TorchEncoder.load(tmp_path)
    assert again.towers.query.text is again.towers.product.text
    assert np.array_equal(again.encode_queries(QUERIES[:5]), model.encode_queries(QUERIES[:5]))


def test_the_text_rate_is_of_the_transformers_alone(model):
    own = {id(p) for p in model.towers.text_parameters()}
    named = {name for name, p in model.towers.named_parameters() if id(p) in own}
    assert named == {name for name, _ in model.towers.named_parameters() if ".text.backbone." in name} and named
    assert not make(query=("trigrams",), product=("title_trigrams",)).towers.text_parameters()


def subsets(channels: tuple[str, ...]) -> list[tuple[str, ...]]:
    return [s for n in range(1, len(channels) + 1) for s in itertools.combinations(channels, n)]


@pytest.mark.parametrize("channels", subsets(QUERY), ids="+".join)
def test_every_query_tower(channels):
    assert np.isfinite(make(query=channels, product=("title_trigrams",)).encode_queries(QUERIES[:5], "us")).all()


def test_every_product_tower():
    for channels in subsets(PRODUCT):
        vectors = make(query=("trigrams",), product=channels).encode_products(PRODUCTS[:5])
        assert np.isfinite(vectors).all() and not vectors[4].any(), channels
