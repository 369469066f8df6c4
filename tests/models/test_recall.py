"""ID embeddings, and their join with the content vector of a tower."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F

from mercato.config import Recipe
from mercato.features.featurizer import FeatureSpec, Featurizer
from mercato.features.ids import QUERY, fit_ids
from mercato.features.tokenizer import train_tokenizer
from mercato.models.build import build_towers, text_configs
from mercato.models.ids import IdEmbeddings
from mercato.models.recall import as_positions
from mercato.models.tower import Tower, tensors
from mercato.runs.export import onnx_tower
from mercato.runs.torch_encoder import TorchEncoder

FIELDS = ("product_id", "seller_id", "category", "brand")
KNOWN = [
    {
        "product_id": f"p{i}",
        "seller_id": f"s{i % 2}",
        "category": "Sofas",
        "brand": "Acme",
        "title": f"sofa {i}",
        "country": "us",
    }
    for i in range(4)
]
NEW = [{"product_id": "new", "seller_id": "none", "title": f"sofa {i}", "country": "us"} for i in range(4)]
RECALL = [{}, {"loss": "sampled_softmax"}]
HIDDEN = 16


def make(
    fusion: str = "transformer",
    dimension: int = 12,
    channels: tuple[str, ...] = ("title_text", "ids", "country"),
    queries: tuple[str, ...] = ("ids", "text"),
    stages: list[dict] | None = None,
    filled: bool = True,
    dropout: float = 0.0,
) -> TorchEncoder:
    """An untrained run, but for ID embeddings that hold something (`filled`)."""
    text = {"layers": 1, "heads": 2, "hidden": HIDDEN, "feed_forward": 16, "pooling": "mean"}
    recipe = Recipe.model_validate(
        {
            "name": "recall",
            "dimension": dimension,
            "query_tower": {"channels": queries, "text": text, "id_dropout": dropout},
            "product_tower": {
                "channels": channels, "text": text, "fusion": fusion, "modality_dropout": {"ids": dropout}
            },
            "stages": stages or [{}],
        }
    )  # fmt: skip
    tokenizer = train_tokenizer([f"sofa {i}" for i in range(4)], 40)
    spec = FeatureSpec(
        query_channels=queries, product_channels=channels, pad_id=0, vocabulary=tokenizer.get_vocab_size(), buckets=100,
        query_tokens=8, query_characters=20, title_tokens=8, description_tokens=8, countries=("us",), languages=(),
        product_ids=tuple((field, 50) for field in FIELDS), query_ids=50,
    )  # fmt: skip
    known = {field: fit_ids(field, [product[field] for product in KNOWN], 1) for field in FIELDS}
    torch.manual_seed(0)
    towers = build_towers(recipe, spec, text_configs(recipe, spec))
    for part in towers.modules():
        if filled and isinstance(part, IdEmbeddings):
            for table in part.tables:
                with torch.no_grad():
                    table.weight[1:].normal_()
    featurizer = Featurizer(spec, tokenizer, known | {QUERY: fit_ids(QUERY, ["sofa 0"], 1)})
    return TorchEncoder(recipe, featurizer, None, towers)


def rows(model: TorchEncoder, products: list[dict]) -> dict[str, torch.Tensor]:
    return tensors(model.featurizer.products(products))


def queries(model: TorchEncoder, *texts: str) -> dict[str, torch.Tensor]:
    return tensors(model.featurizer.queries(texts, [None] * len(texts)))


MADE = [
    {},
    {"dimension": 16},
    {"dimension": 40},
    {"fusion": "attention", "dimension": 16, "stages": RECALL},
    {"fusion": "concat", "dimension": 16, "stages": RECALL, "queries": ("text", "ids", "trigrams")},
]


@pytest.mark.parametrize("how", MADE, ids=str)
def test_unknown_ids_fall_back_to_content_exactly(how):
    model = make(**how)
    for tower, inputs in [(model.towers.product, rows(model, NEW)), (model.towers.query, queries(model, "sofa 3"))]:
        found = tower(inputs)[0]
        assert torch.equal(found, tower.joined(tower.content(inputs), None))
        torch.testing.assert_close(found, tower.content(inputs), msg="the layer begins as the identity")


@pytest.mark.parametrize("how", MADE, ids=str)
def test_known_ids_are_added(how):
    model = make(**how)
    tower, inputs = model.towers.product, rows(model, KNOWN)
    ids_BD = sum(table.weight[inputs["ids"][:, k]] for k, table in enumerate(tower.ids.tables))
    expected = F.normalize(tower.content(inputs) + ids_BD, dim=-1)
    torch.testing.assert_close(tower(inputs)[0], expected)
    torch.testing.assert_close(tower.joined(tower.content(inputs), inputs["ids"]), expected)
    asked = queries(model, "sofa 0", "sofa 3")
    moved = (model.towers.query(asked)[0] - model.towers.query.content(asked)).abs().amax(1) > 1e-3
    assert moved.tolist() == [True, False]


@pytest.mark.parametrize("how", MADE, ids=str)
def test_untrained_ids_change_nothing(how):
    model = make(filled=False, **how)
    tower, inputs = model.towers.product, rows(model, KNOWN)
    torch.testing.assert_close(tower(inputs)[0], tower.content(inputs))


def test_content_is_the_tower_without_its_ids():
    model, plain = make(), make(channels=("title_text", "country"), queries=("text",))
    assert plain.towers.product.join is None and plain.towers.query.join is None
    own = model.towers.product.state_dict()
    plain.towers.product.load_state_dict({name: own[name] for name in plain.towers.product.state_dict()})
    torch.testing.assert_close(
        model.towers.product.content(rows(model, KNOWN)), plain.towers.product(rows(plain, KNOWN))[0]
    )


def test_without_the_ids_channel_a_row_is_one_of_unknown_ids():
    model = make()
    tower, inputs = model.towers.product, rows(model, KNOWN)
    torch.testing.assert_close(
        tower.fuse(tower.encode(inputs), only=("title_text", "country"))[0], tower.content(inputs)
    )


def test_in_a_late_fusion_ids_are_a_channel_like_any_other():
    model = make(fusion="attention", dimension=8)
    tower, inputs = model.towers.product, rows(model, [*KNOWN, *NEW])
    assert tower.join is None
    _, weights_BC = tower(inputs)
    assert tower.channels == ("title_text", "ids", "country")
    assert (weights_BC[:, 1] > 0).tolist() == [True] * 4 + [False] * 4


@pytest.mark.parametrize("stages", [None, RECALL])
def test_a_recall_stage_gives_both_towers_a_layer_with_or_without_ids(stages):
    model = make(channels=("title_text", "country"), queries=("text",), stages=stages)
    assert (model.towers.product.join is not None) == (model.towers.query.join is not None) == (stages is not None)
    assert np.isfinite(model.encode_products(KNOWN)).all() and np.isfinite(model.encode_queries(["sofa"])).all()


def hidden(tower: Tower, inputs: dict[str, torch.Tensor]) -> float:
    """How many of a known row's encodings lack their ids."""
    return float((~tower.encode(inputs).has([tower.channels.index("ids")])).float().mean())


def test_id_dropout_hides_ids_in_training_alone():
    model = make(dropout=0.3)
    towers = ((model.towers.product, rows(model, KNOWN * 250)), (model.towers.query, queries(model, *["sofa 0"] * 999)))
    for tower, inputs in towers:
        assert hidden(tower, inputs) == 0
        tower.train()
        assert hidden(tower, inputs) == pytest.approx(0.3, abs=0.06)


def test_where_a_stage_of_their_own_learns_ids_the_others_never_see_them():
    model = make(stages=RECALL, dropout=0.3)
    for tower, inputs in ((model.towers.product, rows(model, KNOWN)), (model.towers.query, queries(model, "sofa 0"))):
        assert hidden(tower, inputs) == 0, "once trained they are read"
        tower.train()
        assert hidden(tower, inputs) == 1
        if tower is model.towers.product:  # nor where all else is dropped, and the row is read whole again
            everything = [n for n, name in enumerate(tower.channels) if name != "ids"]
            tower.modality_dropout = [*tower.modality_dropout, (1.0, everything)]
            assert hidden(tower, inputs) == 1


@pytest.mark.parametrize(("length", "width", "count"), [(8, 8, 1), (5, 8, 1), (12, 8, 2), (17, 8, 3)])
def test_a_vector_at_positions_of_another_width(length, width, count):
    vectors = torch.randn(3, length)
    found, present = as_positions(vectors, torch.tensor([True, False, True]), width)
    assert found.shape == (3, count, width) and torch.equal(found.flatten(1)[:, :length], vectors)
    assert present.tolist() == [[True] * count, [False] * count, [True] * count]


def test_gradients_are_sparse_and_row_0_has_none():
    ids = IdEmbeddings([6, 3], 4)
    assert not any(table.weight.any() for table in ids.tables)
    read = torch.tensor([[2, 1], [2, 0], [0, 3], [5, 1]])
    ids(read).sum().backward()
    gradients = [table.weight.grad.coalesce() for table in ids.tables]
    assert [gradient.indices()[0].tolist() for gradient in gradients] == [[2, 5], [1, 3]]
    assert [gradient.values()[:, 0].tolist() for gradient in gradients] == [[2, 1], [2, 1]]
    assert (
        ids.present(read).tolist() == [True] * 4
        and ids.present(torch.zeros(2, 2, dtype=torch.int64)).tolist() == [False] * 2
    )


def test_onnx_says_what_torch_says():
    model = make()
    for tower, first, more in [
        (model.towers.query, queries(model, "sofa 0", "x"), queries(model, "sofa 0", "sofa 1 2 3", "sofa")),
        (model.towers.product, rows(model, KNOWN[:2]), rows(model, [*KNOWN, *NEW])),
    ]:
        session = onnxruntime.InferenceSession(onnx_tower(tower, {k: v.numpy() for k, v in first.items()}))
        found = session.run(None, {name: value.numpy() for name, value in more.items()})[0]
        np.testing.assert_allclose(found, tower(more)[0].detach().numpy(), atol=1e-5)
