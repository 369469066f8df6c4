"""Encoders that somebody else trained: a tiny BERT and a tiny ViT in folders, as transformers writes them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, ViTConfig, ViTModel

from mercato.errors import MercatoError
from mercato.evaluation.baselines.zero_shot import ZeroShot
from mercato.models.build import build_towers, text_configs
from mercato.models.tower import tensors
from mercato.runs.onnx_encoder import OnnxEncoder
from mercato.runs.torch_encoder import TorchEncoder, load
from mercato.training.data.prepare import prepare
from mercato.training.train import train
from tests.support.toys import make_market, products, toy_recipe, with_photos


@pytest.fixture(scope="module")
def vit(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "vit"
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=16
    )
    ViTModel(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": {"height": 32, "width": 32}}))
    return folder


def recipe(bert: Path, layers: int, *changes: str):
    text = (f"layers={layers}", "pooling=mean")
    towers = [f"{tower}_tower.text.{change}" for tower in ("query", "product") for change in text]
    return toy_recipe(f"text.pretrained={bert}", "stages.0.epochs=1", *towers, *changes)


def test_a_run_of_pretrained_encoders_needs_nothing_but_its_folder(bert, vit, tmp_path):
    market = make_market(tmp_path / "market", with_photos(products()))
    copies = [shutil.copytree(source, tmp_path / source.name) for source in (bert, vit)]
    model = train(recipe(copies[0], 2, f"images.encoder={copies[1]}"), market, tmp_path / "run")
    for copy in copies:
        shutil.rmtree(copy)
    again, predictor = load(tmp_path / "run"), OnnxEncoder(tmp_path / "run")
    assert again.featurizer.spec.image_dimension == 24 and len(again.towers.query.text.backbone.encoder.layer) == 2
    rows = market.arrow("products").slice(0, 7)
    queries = ["mesa", "silla number 9", "unheard of", ""]
    assert np.array_equal(again.encode_queries(queries, "us"), model.encode_queries(queries, "us"))
    np.testing.assert_allclose(predictor.encode_queries(queries, "us"), again.encode_queries(queries, "us"), atol=1e-4)
    np.testing.assert_allclose(predictor.encode_products(rows), again.encode_products(rows), atol=1e-4)


def untrained(bert: Path, tmp_path: Path, layers: int) -> TorchEncoder:
    wanted = recipe(bert, layers)
    market = make_market(tmp_path / "market", with_photos(products()))
    featurizer = prepare(market, wanted, tmp_path).featurizer
    return TorchEncoder(
        wanted, featurizer, None, build_towers(wanted, featurizer.spec, text_configs(wanted, featurizer.spec))
    )


def test_the_first_layers_are_taken(bert, tmp_path):
    got = untrained(bert, tmp_path, 2).towers.product.text.backbone.state_dict()
    whole = AutoModel.from_pretrained(bert).state_dict()
    assert {name for name in got if "layer.1." in name} and not {name for name in got if "layer.2." in name}
    assert all(torch.equal(value, whole[name]) for name, value in got.items())


def test_training_starts_from_what_the_encoder_knows(bert, tmp_path):
    model, zero = untrained(bert, tmp_path, 3), ZeroShot(str(bert))
    titles = [{"title": row["title"], "country": "us", "language": "en"} for row in products()]
    cosines = model.encode_queries(["mesa", "reloj"], "us") @ model.encode_products(titles).T
    expected = zero.encode_queries(["mesa", "reloj"]) @ zero.encode_products(titles).T
    np.testing.assert_allclose(cosines, expected, atol=1e-5)


def test_what_is_fused_beside_a_pretrained_encoder_comes_in_slowly(bert, tmp_path):
    """A bag of zeros behind a LayerNorm would be a full-size token after the first step."""
    wanted = recipe(bert, 2, "product_tower.fusion=transformer", "trigrams.buckets=200")
    featurizer = prepare(make_market(tmp_path / "market"), wanted, tmp_path).featurizer
    towers = build_towers(wanted, featurizer.spec, text_configs(wanted, featurizer.spec)).eval()
    inputs = tensors(featurizer.products(products()[:4]))
    others = [n for n, channel in enumerate(towers.product.channels) if not channel.endswith("text")]

    def loudest() -> float:
        channels = towers.product.encode(inputs)
        theirs = torch.isin(channels.channel_S, torch.tensor(others))
        return float(channels.vectors_BSE.detach()[:, theirs].norm(dim=-1).max())

    assert loudest() == 0
    towers.product(inputs)[0][:, 0].sum().backward()
    torch.optim.Adam(towers.parameters(), 1e-3).step()
    assert 0 < loudest() < 0.1


def test_the_cache_keeps_apart_what_a_pretrained_tokenizer_does(bert, tmp_path):
    """It reads the raw text: a cache by normal form would answer one query with the vector of another."""
    tokenizer = json.loads((bert / "tokenizer.json").read_text()) | {"normalizer": None}
    cased = shutil.copytree(bert, tmp_path / "cased")
    (cased / "tokenizer.json").write_text(json.dumps(tokenizer))
    train(recipe(cased, 1), make_market(tmp_path / "market"), tmp_path / "run")
    model, predictor = load(tmp_path / "run"), OnnxEncoder(tmp_path / "run")
    for query in ("mesa", "MESA"):
        np.testing.assert_allclose(predictor.encode_queries([query]), model.encode_queries([query]), atol=1e-4)
    assert not np.allclose(*model.encode_queries(["mesa", "MESA"]), atol=1e-3)


def test_wrong_encoders_are_named(bert, tmp_path):
    market = make_market(tmp_path / "market", with_photos(products()))
    with pytest.raises(MercatoError, match="has 3 layers, not 4"):
        train(recipe(bert, 4), market, tmp_path / "run")
    with pytest.raises(MercatoError, match=r"text\.pretrained: cannot load .*nowhere"):
        train(recipe(tmp_path / "nowhere", 2), market, tmp_path / "run")
    with pytest.raises(MercatoError, match=r"images\.encoder: cannot load .*nowhere"):
        train(toy_recipe(f"images.encoder={tmp_path / 'nowhere'}"), market, tmp_path / "run")
