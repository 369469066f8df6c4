"""The compact CNN on catalogues that say little of their photos."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_model
from transformers import ResNetConfig, ResNetModel, ViTConfig, ViTModel

from mercato.config import Images
from mercato.data.images import load_images
from mercato.data.market import Market, MarketConfig, write_market_toml
from mercato.data.schema import PRODUCTS
from mercato.features.images import read_spec
from mercato.models.compact_cnn import CompactCNN
from mercato.models.patches import CompactMap
from mercato.runs.image_vectors import encoded_vectors
from mercato.training.data.image_encoder import WEIGHTS, labels_of, market_image_encoder

EVERY = pl.Series([f"p{row}" for row in range(60)])
COLOURS = {"Red": (200, 20, 20), "Blue": (20, 20, 200)}


def market(folder: Path, labelled: int, count: int = 60) -> Market:
    folder.mkdir()
    write_market_toml(folder, MarketConfig())
    rows = []
    for row in range(count):
        name = list(COLOURS)[row % 2]
        photo = io.BytesIO()
        Image.new("RGB", (24, 24), COLOURS[name]).save(photo, "PNG")
        rows.append(
            {
                "product_id": f"p{row}",
                "title": "thing",
                "category": f"Paint > {name}" if row < labelled else None,
                "images": [{"bytes": photo.getvalue(), "path": None}] if row != 7 else None,
            }
        )
    names = ["product_id", "title", "category", "images"]
    schema = pa.schema([PRODUCTS.field(name) for name in names])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "products.parquet")
    return Market.open(folder)


def test_few_labels_are_enough_and_none_leave_photos_out(tmp_path: Path) -> None:
    settings = Images(epochs=8, size=16)
    folder = market_image_encoder(few := market(tmp_path / "few", labelled=30), settings, 0, EVERY)
    assert folder is not None
    vectors = encoded_vectors(few, folder, 5)
    assert vectors[7] is None
    red, other_red, blue = (vectors[row] for row in (40, 42, 41))
    assert red is not None and other_red is not None and blue is not None
    np.testing.assert_allclose(red, other_red, atol=1e-5)
    assert float(red[0] @ blue[0]) < 0.9  # it learned to tell what sellers name
    assert market_image_encoder(market(tmp_path / "none", labelled=0), settings, 0, EVERY) is None


def test_it_learns_from_what_it_may_and_is_shared_by_those_who_may_learn_the_same(tmp_path: Path) -> None:
    settings, few = Images(epochs=1, size=16), market(tmp_path / "few", labelled=60)
    folder = market_image_encoder(few, settings, 0, EVERY)
    assert folder == market_image_encoder(few, settings, 0, EVERY)
    other = market_image_encoder(few, settings, 0, EVERY.head(40))
    assert folder is not None and other is not None and folder != other
    assert (folder / WEIGHTS).read_bytes() != (other / WEIGHTS).read_bytes()
    assert market_image_encoder(few, settings, 0, EVERY[::2]) is None  # red ones alone: nothing to tell apart
    assert encoded_vectors(few, other, 5)[59] is not None  # those that teach nothing have vectors all the same


def test_labels_are_what_enough_products_share() -> None:
    products = [
        {
            "category": "A > B" if row % 2 else "A > C",
            "attributes": [("size", "XL" if row < 30 else "s"), ("id", str(row))],
        }
        for row in range(60)
    ]
    targets, classes = labels_of(products)
    assert classes == {"category": 2, "attribute size": 2}  # one department; no id is shared
    assert set(targets["attribute size"].tolist()) == {0, 1}


# --- patches


def test_patches_of_pixels_need_nothing_to_learn_from(tmp_path: Path) -> None:
    unlabelled = market(tmp_path / "none", labelled=0)
    folder = market_image_encoder(unlabelled, Images(size=16, patch_size=8), 0, EVERY, patches=True)
    assert folder is not None and read_spec(folder).shape == (4, 192)
    assert folder == market_image_encoder(unlabelled, Images(size=16, patch_size=8), 1, EVERY.head(3), patches=True)
    assert folder != market_image_encoder(unlabelled, Images(size=16, patch_size=16), 0, EVERY, patches=True)
    vectors = encoded_vectors(unlabelled, folder, 5)
    assert vectors[7] is None
    assert [own.shape for own in vectors if own is not None] == [(1, 4, 192)] * 59
    spec = read_spec(folder)
    for place, colour in ((40, "Red"), (41, "Blue")):
        own = vectors[place]
        assert own is not None
        normal = (np.array(COLOURS[colour]) / 255 - np.array(spec.mean)) / np.array(spec.std)
        np.testing.assert_allclose(own.reshape(-1, 3), np.tile(normal, (256, 1)), atol=2e-3)


def test_the_compact_cnn_is_trained_once_for_vectors_and_for_patches(tmp_path: Path) -> None:
    few, settings = market(tmp_path / "few", labelled=60), Images(epochs=1, size=32, patches="features")
    patches = market_image_encoder(few, settings, 0, EVERY, patches=True)
    trained = {folder: (folder / WEIGHTS).is_file() for folder in (few.path / ".cache").glob("image-encoder-*")}
    assert patches is not None and not trained.pop(patches) and [*trained.values()] == [True]
    (whole,) = trained
    assert market_image_encoder(few, settings, 0, EVERY) == whole
    assert read_spec(patches).shape == (4, 288) and read_spec(whole).shape == (128,)
    found = encoded_vectors(few, patches, 5)[40]
    compact = CompactCNN()
    load_model(compact, whole / WEIGHTS)
    (photo,) = load_images(few.path, few.arrow("products", ["images"])["images"][40].as_py())
    with torch.inference_mode():
        expected = CompactMap(compact.eval())(torch.from_numpy(read_spec(whole).pixels(photo))[None])
    assert found is not None
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)
    vectors = encoded_vectors(few, whole, 5)[40]
    assert vectors is not None and vectors.shape == (1, 128), "of the same images, but not the same file"
    assert len([*(few.path / ".cache").glob("image-vectors-*.npz")]) == 2


VIT = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
PRETRAINED = {
    "resnet": lambda: ResNetModel(
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic")
    ),
    "vit": lambda: ViTModel(ViTConfig(image_size=32, patch_size=16, **VIT)),
}


@pytest.mark.parametrize(("name", "shape"), [("resnet", (4 * 4, 12)), ("vit", (2 * 2, 8))])
def test_patches_of_a_transformers_model(tmp_path: Path, name: str, shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = PRETRAINED[name]().eval()
    model.save_pretrained(tmp_path / name)
    (tmp_path / name / "preprocessor_config.json").write_text('{"size": {"height": 32}}')
    few, settings = market(tmp_path / "few", labelled=0), Images(encoder=str(tmp_path / name), patches="features")
    folder = market_image_encoder(few, settings, 0, EVERY, patches=True)
    assert folder is not None and folder != market_image_encoder(few, settings, 0, EVERY)
    spec = read_spec(folder)
    assert spec.shape == shape
    found = encoded_vectors(few, folder, 5)[40]
    (photo,) = load_images(few.path, few.arrow("products", ["images"])["images"][40].as_py())
    with torch.inference_mode():
        state = model(pixel_values=torch.from_numpy(spec.pixels(photo))[None]).last_hidden_state
    expected = state.flatten(2).transpose(1, 2) if name == "resnet" else state[:, 1:]
    assert found is not None
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)
