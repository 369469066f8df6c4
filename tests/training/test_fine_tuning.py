"""The image encoder inside the product tower: it learns with the towers, and leaves a run like any other."""

from __future__ import annotations

import copy
import io
import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ResNetConfig, ResNetModel

from mercato.config import Recipe, Stage
from mercato.data.images import load_images
from mercato.data.market import Market
from mercato.errors import MercatoError
from mercato.features.images import ImageSpec
from mercato.models.build import build_towers, text_configs
from mercato.models.que2search import TwoTower
from mercato.models.vision import PIXELS, Vision, rows_of
from mercato.runs.folder import read_history
from mercato.runs.image_encoder import ImageEncoder
from mercato.runs.onnx_encoder import OnnxEncoder
from mercato.runs.torch_encoder import load
from mercato.training import train as training
from mercato.training.data import images as photos_module
from mercato.training.data.batches import Batches
from mercato.training.data.image_encoder import starting_vision
from mercato.training.data.prepare import Prepared, prepare
from mercato.training.optimizer import adam
from mercato.training.tasks.objective import Objective, total
from mercato.training.train import train
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


class Watched:
    """The towers of a run at the end of its training, when the image encoder is still among them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.towers: TwoTower | None = None
        min_cosine = training._min_cosine

        def watch(towers, validation):
            self.towers, self.validation = copy.deepcopy(towers), validation
            return min_cosine(towers, validation)

        monkeypatch.setattr(training, "_min_cosine", watch)


@pytest.fixture(scope="module")
def unbroken(market, tmp_path_factory) -> tuple[Path, Watched, dict[str, bytes]]:
    """A finished run, ONNX and all; its towers as trained; and the market's cache as it was before."""
    run = tmp_path_factory.mktemp("unbroken") / "run"
    prepare(market, toy_recipe(), run.parent)  # what a run on precomputed vectors leaves there
    cached = {str(file): file.read_bytes() for file in (market.path / ".cache").rglob("*.onnx")}
    with pytest.MonkeyPatch.context() as patch:
        watched = Watched(patch)
        train(FINE_TUNED, market, run)
    return run, watched, cached


def test_it_starts_from_the_precomputed_vectors(prepared, towers):
    count = prepared.examples.photos.counts
    pixels = torch.from_numpy(prepared.examples.photos.pixels(np.arange(6), count[:6]))
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
    total(Objective(stage).losses(towers.train(), batch)).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in towers.vision.parameters())
    optimizer.step()
    assert not any(torch.equal(value, before[name]) for name, value in towers.vision.named_parameters())


@pytest.mark.parametrize("rows", [1, 5])
def test_a_batch_in_pieces_has_the_gradients_of_the_whole(prepared, towers, rows):
    batch = prepared.examples.batch(prepared.examples.engaged[:16])
    found = []
    for stage in (Stage(), Stage(micro_batch=rows)):
        towers.eval().zero_grad()
        total(Objective(stage).losses(towers, batch)).backward()
        found.append([p.grad.clone() for p in towers.vision.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-6)


def test_rows_take_their_own_photos(towers):
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


def test_photos_are_decoded_off_the_training_thread_and_always_alike(prepared, monkeypatch):
    seen = set()

    def load_and_tell(*args):
        seen.add(threading.get_ident())
        return load_images(*args)

    monkeypatch.setattr(photos_module, "load_images", load_and_tell)
    prepared.examples.photos._kept.clear()
    batches = Batches(prepared.examples, prepared.examples.engaged, Stage(batch_size=8), seed=3)
    first = [batch.product for batch in batches]
    assert len(first) == len(batches) > 2
    assert seen and threading.get_ident() not in seen
    again = [batch.product for batch in batches]
    assert all(torch.equal(one[name], other[name]) for one, other in zip(first, again, strict=True) for name in one)
    batches.epoch = 1
    assert not all(torch.equal(b.product[PIXELS], one[PIXELS]) for b, one in zip(batches, first, strict=True))


def test_a_finished_run_is_like_any_other(market, unbroken):
    run, watched, cached = unbroken
    assert not any(name.startswith("vision") for name in load(run).towers.state_dict())
    assert {str(file): file.read_bytes() for file in (market.path / ".cache").rglob("*.onnx")} == cached
    start = prepare(market, FINE_TUNED, run.parent).image_folder
    assert np.abs(image_vectors(run) - image_vectors(start)).max() > 1e-3, "it learned"

    table = market.arrow("products")
    served = OnnxEncoder(run)
    np.testing.assert_allclose(served.encode_products(table), load(run).encode_products(table), atol=TOLERANCE)
    towers, validation = watched.towers.eval(), watched.validation
    with torch.inference_mode():
        rows = np.arange(len(GOODS))
        expected = validation._encode(towers.product, validation.products, rows, "cpu", 64, towers.vision)
    np.testing.assert_allclose(served.encode_products(table), expected, atol=TOLERANCE)


@pytest.mark.usefixtures("unexported")
def test_the_same_recipe_gives_the_same_run_also_after_an_interruption(market, unbroken, tmp_path, monkeypatch):
    log = training._log

    def fail(run: Path, row: dict) -> None:
        log(run, row)
        if row["epoch"] == 2:
            raise RuntimeError("the power went")

    run = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="power"):
        patch.setattr(training, "_log", fail)
        train(FINE_TUNED, market, run)
    train(FINE_TUNED, market, run)
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


@pytest.mark.usefixtures("unexported")
def test_without_photos_the_channel_is_left_out(toys, tmp_path):
    model = train(Recipe.parse(FINE_TUNED.toml(), changes=["stages.0.epochs=1"]), toys, tmp_path / "run")
    assert "images" not in model.recipe.product_tower.channels
