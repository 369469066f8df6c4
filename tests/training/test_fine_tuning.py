"""The image encoder inside the product tower: it learns with the towers, and leaves a run like any other."""

from __future__ import annotations

import io
import json
import threading
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ResNetConfig, ResNetModel

from mercato.config import Recipe
from mercato.config.stages import InBatchSoftmax
from mercato.data.market import Market
from mercato.errors import MercatoError
from mercato.features.images import ImageSpec
from mercato.models.build import build_towers, text_configs
from mercato.models.tower import TwoTower
from mercato.models.vision import PIXELS, Vision, rows_of
from mercato.runs.folder import read_history
from mercato.runs.image_encoder import ImageEncoder
from mercato.runs.onnx_encoder import OnnxEncoder
from mercato.runs.torch_encoder import load
from mercato.training.data.batches import Examples, PairBatches
from mercato.training.data.image_encoder import starting_vision
from mercato.training.data.prepare import Prepared, prepare
from mercato.training.optimizer import adam
from mercato.training.task import total
from mercato.training.train import train, train_towers
from tests.support.tasks import losses_of
from tests.support.toys import make_market, pairs, products, toy_recipe

COLOURS = ["red", "green", "blue", "black", "white", "yellow"]  # of the six kinds
FINE_TUNED = toy_recipe("images.fine_tune=true", "stages.0.image_learning_rate=2e-3", "stages.0.epochs=3")
TOLERANCE = 1e-4


def photo(colour: str) -> dict:
    content = io.BytesIO()
    Image.new("RGB", (20, 30), colour).save(content, "PNG")
    return {"bytes": content.getvalue(), "path": None}


BROKEN = {"bytes": b"GIF89a nonsense", "path": None}
GOODS = [
    row | {"images": [*[BROKEN] * (i % 5 == 0), *[photo(COLOURS[i % 6])] * (i % 3)]} for i, row in enumerate(products())
]


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Market:
    return make_market(tmp_path_factory.mktemp("photos") / "market", GOODS)


@pytest.fixture(scope="module")
def prepared(market: Market, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(market, FINE_TUNED, tmp_path_factory.mktemp("prepared"))


@pytest.fixture
def towers(prepared: Prepared) -> TwoTower:
    return fresh(prepared)


def fresh(prepared: Prepared) -> TwoTower:
    torch.manual_seed(0)
    spec = prepared.featurizer.spec
    towers = build_towers(FINE_TUNED, spec, text_configs(FINE_TUNED, spec))
    assert prepared.image_folder is not None
    towers.vision = starting_vision(FINE_TUNED.images, prepared.image_folder)
    return towers


def learned(run: Path) -> list[dict]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in read_history(run)]


def image_vectors(encoder: Path) -> np.ndarray:
    photos = [row["images"] for row in GOODS[:6]]
    return np.concatenate(list(ImageEncoder(encoder).encode(photos, Path(), 5)))


@pytest.fixture(scope="module")
def unbroken(market, tmp_path_factory) -> tuple[Path, dict[str, bytes]]:
    """A finished run, ONNX and all; and the market's cache as it was before."""
    run = tmp_path_factory.mktemp("unbroken") / "run"
    prepare(market, toy_recipe(), run.parent)  # what a run on precomputed vectors leaves there
    cached = {str(file): file.read_bytes() for file in (market.path / ".cache").rglob("*.onnx")}
    train(FINE_TUNED, market, run)
    return run, cached


def test_it_starts_from_the_precomputed_vectors(prepared, towers):
    count = prepared.tables.images.counts
    pixels = torch.from_numpy(prepared.tables.images.pixels(np.arange(6), count[:6]))
    with torch.inference_mode():
        np.testing.assert_allclose(towers.eval().vision(pixels), image_vectors(prepared.image_folder), atol=1e-5)


def test_gradients_reach_the_backbone_and_it_learns_at_its_own_rate(prepared, towers):
    batch = prepared.examples.batch(prepared.examples.engaged[:16])
    assert batch.product[PIXELS].shape[0] == batch.product["image_mask"].sum() > 0
    before = {name: value.clone() for name, value in towers.vision.named_parameters()}
    stage = FINE_TUNED.stages[0]
    optimizer = adam(towers, stage)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert {rates[id(p)] for p in towers.vision.parameters()} == {stage.image_learning_rate}
    assert len(rates) == len(list(towers.parameters()))
    total(losses_of(towers.train(), batch, stage)).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in towers.vision.parameters())
    optimizer.step()
    assert not any(torch.equal(value, before[name]) for name, value in towers.vision.named_parameters())


@pytest.mark.parametrize("rows", [1, 5])
def test_a_batch_in_pieces_has_the_gradients_of_the_whole(prepared, towers, rows):
    batch = prepared.examples.batch(prepared.examples.engaged[:16])
    found = []
    for stage in (InBatchSoftmax(), InBatchSoftmax(micro_batch=rows)):
        towers.eval().zero_grad()
        total(losses_of(towers, batch, stage)).backward()
        found.append([p.grad.clone() for p in towers.vision.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-6)


def test_rows_take_their_own_images(towers):
    mask = torch.tensor([[True, True], [False, False], [True, False], [True, True]])
    inputs = {"image_mask": mask, PIXELS: torch.arange(5).view(5, 1, 1, 1).expand(5, 16, 16, 3).to(torch.uint8) * 50}
    whole = towers.vision.eval().look(inputs)
    assert PIXELS not in whole and PIXELS in inputs
    assert torch.equal(whole["images"].norm(dim=-1) > 0.5, mask)
    for start in range(4):
        part = towers.vision.look(rows_of(inputs, start, start + 1))
        torch.testing.assert_close(part["images"], whole["images"][start : start + 1])


def test_batch_norm_keeps_its_statistics():
    vision = Vision(
        torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten()),
        ImageSpec(4, 3, 3, (0.5,) * 3, (0.5,) * 3),
    )
    pixels = torch.randint(0, 256, (8, 3, 3, 3), dtype=torch.uint8)
    for _ in range(2):
        torch.testing.assert_close(vision(pixels)[:2], vision(pixels[:2]))
        vision.eval().train()


def test_batches_of_images_are_made_off_the_training_thread_and_always_alike(prepared):
    made = set()

    class Watched(Examples):
        def batch(self, *args):
            made.add(threading.get_ident())
            return super().batch(*args)

    examples = Watched(**{field.name: getattr(prepared.examples, field.name) for field in fields(Examples)})
    batches = PairBatches(examples, examples.engaged, InBatchSoftmax(batch_size=8), seed=3)
    first = [batch.product for batch in batches]
    assert len(first) == len(batches) > 2
    assert made and threading.get_ident() not in made
    again = [batch.product for batch in batches]
    assert all(torch.equal(one[name], other[name]) for one, other in zip(first, again, strict=True) for name in one)
    batches.epoch = 1
    assert not all(torch.equal(b.product[PIXELS], one[PIXELS]) for b, one in zip(batches, first, strict=True))


def test_a_finished_run_is_like_any_other(market, unbroken):
    run, cached = unbroken
    assert not any(name.startswith("vision") for name in load(run).towers.state_dict())
    assert {str(file): file.read_bytes() for file in (market.path / ".cache").rglob("*.onnx")} == cached
    start = prepare(market, FINE_TUNED, run.parent).image_folder
    assert np.abs(image_vectors(run) - image_vectors(start)).max() > 1e-3, "it learned"
    table = market.arrow("products")
    served = OnnxEncoder(run).encode_products(table)
    np.testing.assert_allclose(served, load(run).encode_products(table), atol=TOLERANCE)


def test_a_run_serves_what_its_towers_learned_with_the_image_encoder_among_them(prepared, market, unbroken, tmp_path):
    towers = train_towers(FINE_TUNED, prepared, tmp_path).eval()
    inputs = prepared.tables.product_inputs(np.arange(len(GOODS)))
    with torch.inference_mode():
        expected = towers.product(towers.vision.look(inputs))[0].numpy()
    served = OnnxEncoder(unbroken[0]).encode_products(market.arrow("products"))
    np.testing.assert_allclose(served, expected, atol=TOLERANCE)


def test_the_same_recipe_gives_the_same_run_also_after_an_interruption(market, unbroken, tmp_path):
    def cut(row: dict) -> None:
        if row["epoch"] == 2:
            raise RuntimeError("the power went")

    run = tmp_path / "run"
    with pytest.raises(RuntimeError, match="power"):
        train(FINE_TUNED, market, run, onnx=False, on_epoch=cut)
    train(FINE_TUNED, market, run, onnx=False)
    assert learned(run) == learned(unbroken[0])
    assert np.array_equal(image_vectors(run), image_vectors(unbroken[0]))
    one, other = (load(folder).towers.state_dict() for folder in (run, unbroken[0]))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "resnet"
    torch.manual_seed(0)
    ResNetModel(
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic")
    ).save_pretrained(folder)
    settings = {"size": {"shortest_edge": 32}, "crop_pct": 0.875, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


def test_a_transformers_model_is_fine_tuned_and_served(resnet, tmp_path):
    links = [row for row in pairs(GOODS) if row["split"] == "train"]  # nothing validates: the last epoch is kept
    market = make_market(tmp_path / "market", GOODS, links)
    recipe = Recipe.parse(FINE_TUNED.toml(), changes=[f"images.encoder={resnet}", "stages.0.epochs=1"])
    model = train(recipe, market, tmp_path / "run")
    assert model.featurizer.spec.image_dimension == 12
    start = prepare(market, recipe, tmp_path).image_folder
    assert np.abs(image_vectors(tmp_path / "run") - image_vectors(start)).max() > 1e-3
    table = market.arrow("products")
    np.testing.assert_allclose(
        OnnxEncoder(tmp_path / "run").encode_products(table), model.encode_products(table), atol=TOLERANCE
    )


def test_given_vectors_cannot_be_fine_tuned(tmp_path):
    market = make_market(tmp_path / "market", [row | {"image_embeddings": [[1.0, 2.0]]} for row in products()])
    with pytest.raises(MercatoError, match=r"image_embeddings.*images\.fine_tune=false"):
        train(FINE_TUNED, market, tmp_path / "run")


def test_without_images_the_channel_is_left_out(toys, tmp_path):
    model = train(Recipe.parse(FINE_TUNED.toml(), changes=["stages.0.epochs=1"]), toys, tmp_path / "run", onnx=False)
    assert "images" not in model.recipe.product_tower.channels
