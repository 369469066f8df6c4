"""Que2Engage's product tower."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import onnxruntime
import pytest
import torch

from mercato.config import Recipe
from mercato.features.context import ContextSpec
from mercato.features.featurizer import FeatureSpec, Featurizer
from mercato.features.tokenizer import train_tokenizer
from mercato.models.build import build_towers, text_configs
from mercato.models.text_encoder import TextEncoder
from mercato.models.tower import tensors
from mercato.runs.export import export, onnx_tower
from mercato.runs.onnx_encoder import OnnxEncoder
from mercato.runs.torch_encoder import TorchEncoder

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CHANNELS = ("title_text", "description_text", "images", "context")
PATCHES = ("title_text", "description_text", "patches", "context")
TEXT, IMAGES, CONTEXT = (0, 1), (2,), (3,)
FIELDS = {  # of each modality
    TEXT: ("title", "description"),
    IMAGES: ("image_embeddings",),
    CONTEXT: ("price", "currency", "condition", "created_at", "category"),
}
WHOLE = {
    "title": "red sofa", "description": "three seats, hardly used", "image_embeddings": [[0.5, 0.1, 0.2], [0, 0, 1.0]],
    "price": 30.0, "currency": "USD", "condition": "new", "created_at": NOW - timedelta(days=9),
    "category": "Home > Sofas",
}  # fmt: skip
CATALOGUE = [
    WHOLE | {"price": 10.0 + i, "condition": ("new", "used")[i % 2], "created_at": NOW - timedelta(days=i)}
    for i in range(40)
]


def without(*modalities: tuple[int, ...]) -> dict:
    gone = {field for modality in modalities for field in FIELDS[modality]}
    return {field: value for field, value in WHOLE.items() if field not in gone}


PRODUCTS = [
    WHOLE, without(TEXT), without(IMAGES), without(CONTEXT), without(IMAGES, CONTEXT), without(TEXT, CONTEXT),
    without(TEXT, IMAGES), {}, {"title": "a wooden table with six chairs and more", "price": "much"},
    {"image_embeddings": [[1.0, 0.0, 0.0]] * 3},
]  # fmt: skip


def make(missing: str = "zeros", image_token: str = "set", pooling: str = "mean", **dropout: float) -> TorchEncoder:
    """An untrained run with two layers, of which the upper fuses; `patches` are read in place of an image token."""
    patches = image_token == "patches"
    channels = PATCHES if patches else CHANNELS
    text = {"layers": 2, "heads": 2, "hidden": 8, "feed_forward": 16, "pooling": pooling}
    recipe = Recipe.model_validate(
        {
            "name": "que2engage",
            "dimension": 12,
            "query_tower": {"channels": ("text", "trigrams"), "text": text, "fusion": "wide_and_deep"},
            "product_tower": {
                "channels": channels, "text": text, "fusion": "transformer", "fusion_layers": 1, "missing": missing,
                "image_token": "set" if patches else image_token, "modality_dropout": dropout,
                "context": {
                    "numbers": ("price", "relative_price", "age"), "categories": ("condition", "category"), "hidden": 8
                },
            },
            "stages": [{"engagement_weight": 0.2, "engagement_bias": True}],
        }
    )  # fmt: skip
    tokenizer = train_tokenizer(["red sofa", "a wooden table with six chairs and more", "three seats, hardly used"], 60)
    spec = FeatureSpec(
        query_channels=("text", "trigrams"), product_channels=channels, pad_id=0, vocabulary=tokenizer.get_vocab_size(),
        buckets=100, query_tokens=12, query_characters=20, title_tokens=8, description_tokens=24, countries=(),
        languages=(), max_images=3, image_dimension=1 if patches else 3, image_patches=3 if patches else 0,
        context=ContextSpec.fit(recipe.product_tower.context, CATALOGUE, NOW),
    )  # fmt: skip
    torch.manual_seed(0)
    towers = build_towers(recipe, spec, text_configs(recipe, spec))
    return TorchEncoder(recipe, Featurizer(spec, tokenizer), None, towers)


KINDS = [(missing, image_token) for missing in ("zeros", "token") for image_token in ("set", "each", "patches")]


@pytest.fixture(scope="module", params=KINDS, ids="+".join)
def model(request) -> TorchEncoder:
    return make(*request.param)


def inputs_of(model: TorchEncoder, products: list[dict]) -> dict[str, torch.Tensor]:
    return tensors(model.featurizer.products(products, model.image_vectors(products), NOW))


def test_every_row_is_a_unit_vector_of_its_own(model):
    vectors = model.encode_products(PRODUCTS, as_of=NOW)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    apart = np.abs(vectors[:, None] - vectors[None]).max(2) + np.eye(len(PRODUCTS))
    assert apart.min() > 1e-4, "each modality says something, also that it is missing"


def test_a_listing_has_the_age_that_it_had_at_the_moment_asked_for(model):
    young, old = (model.encode_products([WHOLE], as_of=NOW + timedelta(days=days)) for days in (0, 20))
    assert np.abs(old - young).max() > 1e-4
    np.testing.assert_array_equal(model.encode_products([WHOLE], as_of=NOW), young)


def test_onnx_says_what_torch_says_of_whatever_is_missing(tmp_path):
    model = make("token", "each")
    model.save(tmp_path)
    assert max(export(model, tmp_path).values()) < 1e-5
    served = OnnxEncoder(tmp_path)
    expected = model.encode_products(PRODUCTS, as_of=NOW)
    np.testing.assert_allclose(served.encode_products(PRODUCTS, as_of=NOW), expected, atol=1e-5)
    for product, vector in zip(PRODUCTS, expected, strict=True):
        np.testing.assert_allclose(served.encode_products([product], as_of=NOW)[0], vector, atol=1e-5)
    np.testing.assert_array_equal(TorchEncoder.load(tmp_path).encode_queries(["sofa"]), model.encode_queries(["sofa"]))


@pytest.mark.parametrize("image_token", ["set", "patches"])
def test_onnx_with_one_token_for_all_images_or_one_a_patch_and_zeros_for_none(image_token):
    model = make("zeros", image_token)
    features = [model.featurizer.products(rows, model.image_vectors(rows), NOW) for rows in (PRODUCTS, [{}])]
    tower = onnxruntime.InferenceSession(onnx_tower(model.towers.product, features[0]))
    for own in features:
        np.testing.assert_allclose(tower.run(None, own)[0], model.product_vectors(own), atol=1e-5)


def test_neither_company_nor_padding_changes_a_row(model):
    together = model.encode_products(PRODUCTS, as_of=NOW)
    for product, vector in zip(PRODUCTS, together, strict=True):
        np.testing.assert_allclose(model.encode_products([product], as_of=NOW)[0], vector, atol=1e-5)
    features = model.featurizer.products(PRODUCTS, model.image_vectors(PRODUCTS), NOW)
    padded = {
        name: np.pad(array, ((0, 0), (0, cap - array.shape[1])))
        if (cap := {"title_tokens": 8, "description_tokens": 24}.get(name))
        else array
        for name, array in features.items()
    }
    assert padded["description_tokens"].shape > features["description_tokens"].shape
    np.testing.assert_allclose(model.product_vectors(padded), together, atol=1e-5)


@pytest.mark.parametrize("image_token", ["each", "patches"])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_the_packed_path_is_the_padded_one(pooling, image_token, monkeypatch):
    model = make("token", image_token, pooling)
    inputs = inputs_of(model, PRODUCTS)

    def found() -> list[torch.Tensor]:
        vectors, _ = model.towers.product(inputs)
        weight = torch.linspace(-1, 1, vectors.numel()).view_as(vectors)
        parameters = [p for p in model.towers.product.parameters() if p.requires_grad]
        return [vectors, *torch.autograd.grad((vectors * weight).sum(), parameters, materialize_grads=True)]

    packed = found()
    with monkeypatch.context() as patch:
        patch.setattr(TextEncoder, "_packs", lambda *_: False)
        padded = found()
    for one, other in zip(packed, padded, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("modality", FIELDS, ids=["text", "images", "context"])
def test_to_drop_a_modality_is_to_lack_it(model, modality):
    tower = model.towers.product
    with torch.inference_mode():
        dropped = tower.fuse(tower.encode(inputs_of(model, [WHOLE])).without(modality))[0]
        lacking = tower(inputs_of(model, [without(modality)]))[0]
    torch.testing.assert_close(dropped, lacking, atol=1e-6, rtol=1e-5)


def test_a_missing_channel_reads_zeros_or_its_own_token():
    for missing in ("zeros", "token"):
        sequence = make(missing).towers.product.fusion
        with torch.no_grad():
            sequence.mark_NH.zero_()
            channels = make(missing).towers.product.encode(inputs_of(make(missing), [without(IMAGES)]))
            states, counts, weights = sequence(channels)
        place = channels.channel_S.tolist().index(2)
        expected = torch.zeros(8) if missing == "zeros" else sequence.missing_NH[2]
        torch.testing.assert_close(states[0, place], expected)
        assert counts[0, place] and weights[0, place] == 0, "attended to, but no part of the mean"
        shares = [weights[0, channels.channel_S == n].sum().item() for n in range(4)]
        assert shares == pytest.approx([1 / 3, 1 / 3, 0, 1 / 3]), "every channel that is there counts alike"


def test_patches_of_one_image_or_of_three_weigh_as_one_channel():
    model = make("zeros", "patches")
    channels = model.towers.product.encode(inputs_of(model, [WHOLE, without(IMAGES)]))
    _, counts, weights = model.towers.product.fusion(channels)
    patches = channels.channel_S == 2
    assert patches.sum() == 3 * 3 and channels.present_BS[:, patches].sum(1).tolist() == [2 * 3, 0]
    assert weights[:, patches].sum(1).tolist() == pytest.approx([1 / 4, 0])
    assert counts[:, patches].sum(1).tolist() == [2 * 3, 1], "one in place of what is missing"


# --- modality dropout


def present(model: TorchEncoder, product: dict, rows: int) -> np.ndarray:
    """Which of text, images and context training leaves of so many equal rows: (rows, 3) bool."""
    torch.manual_seed(0)
    inputs = {name: tensor.expand(rows, *tensor.shape[1:]) for name, tensor in inputs_of(model, [product]).items()}
    model.towers.train()
    with torch.no_grad():
        channels = model.towers.product.encode(inputs)
    model.towers.eval()
    return np.stack([channels.has(modality).numpy() for modality in (TEXT, IMAGES, CONTEXT)], 1)


def test_modalities_are_dropped_apart_at_their_rates():
    left = present(make(text=0.5, context=0.25), WHOLE, 4_000)
    assert left[:, 1].all()
    assert 1 - left.mean(0) == pytest.approx([0.5, 0, 0.25], abs=0.03)
    assert (~left[:, 0] & ~left[:, 2]).mean() == pytest.approx(0.125, abs=0.02)
    assert present(make(), WHOLE, 100).all()


def test_no_row_is_left_empty_and_none_gains_what_it_lacks():
    model = make(text=0.9, images=0.9, context=0.9)
    left = present(model, WHOLE, 500)
    assert left.any(1).all() and left.all(1).mean() == pytest.approx(0.9**3, abs=0.08), "all gone: nothing is"
    assert (present(model, without(TEXT, CONTEXT), 50) == [False, True, False]).all()
    assert not present(model, {}, 20).any()


@pytest.mark.parametrize("missing", ["zeros", "token"])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_row_of_nothing_has_finite_gradients(missing, pooling):
    model = make(missing, "each", pooling, text=0.5, context=0.5)
    for rows in ([{}], [{}, WHOLE, {}, without(TEXT)]):
        model.towers.train().zero_grad()
        torch.manual_seed(0)
        vectors = model.towers.product(inputs_of(model, rows))[0]
        (vectors * torch.linspace(-1, 1, vectors.numel()).view_as(vectors)).sum().backward()
        found = [p.grad for p in model.towers.product.parameters() if p.grad is not None]
        assert vectors.isfinite().all() and found and all(grad.isfinite().all() for grad in found)
