"""Each technique of Que2Search does on a tiny market what the paper says it is for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mercato.data.market import Market
from mercato.errors import MercatoError
from mercato.runs.torch_encoder import TorchEncoder, load
from mercato.training.train import partial_folder, train
from tests.support.toys import KINDS, make_market, pairs, products, toy_recipe

SECOND = "{loss='margin_ranking', margin=0.2, batch_size=16, epochs=3, learning_rate=2e-3, text_learning_rate=5e-4}"


def two_stages(*changes: str):
    first = "{batch_size=16, epochs=4, learning_rate=1e-2, text_learning_rate=2e-3}"
    return toy_recipe(f"stages=[{first}, {SECOND}]", *changes)


def history(run: Path, stage: int) -> list[dict]:
    rows = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    return [row for row in rows if row["stage"] == stage]


@pytest.fixture(scope="module")
def curriculum(toys: Market, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("curriculum") / "run"
    recipe = two_stages(
        "stages.0.epochs=10",
        "stages.0.patience=10",
        "head={queries=6, weight=1.0}",
        "blending={weights={'product.title'=0.5}}",
    )
    train(recipe, toys, run, onnx=False)
    return run


def test_the_second_stage_starts_from_the_best_of_the_first(curriculum):
    first, second = history(curriculum, 1), history(curriculum, 2)
    assert second[0]["epoch"] == 0 and len(second) > 1
    assert second[0]["validation/roc_auc"] == max(row["validation/roc_auc"] for row in first)


def test_the_second_stage_never_ends_worse(toys, tmp_path):
    spoilt = two_stages(
        "stages.1.loss=in_batch_softmax", "stages.1.margin=", "stages.1.learning_rate=5.0", "stages.1.clip=100.0"
    )
    train(spoilt, toys, tmp_path / "run", onnx=False)
    before, *after = history(tmp_path / "run", 2)
    assert after and all(row["validation/roc_auc"] < before["validation/roc_auc"] for row in after), "not spoilt"
    alone = train(toy_recipe("stages.0.epochs=4"), toys, tmp_path / "alone", onnx=False)
    kept = load(tmp_path / "run").towers.state_dict()
    assert all(torch.equal(kept[name], value) for name, value in alone.towers.state_dict().items())


def test_the_second_stage_widens_the_lead_over_the_hardest(toys, tmp_path):
    """More than as many further epochs of the first stage's loss would."""

    def lead(second: str) -> float:
        margin = "" if second == "in_batch_softmax" else "0.2"
        changes = [f"stages.1.loss={second}", f"stages.1.margin={margin}"]
        recipe = two_stages(*changes, "stages.0.epochs=1", "stages.1.epochs=6", "stages.1.patience=6")
        model = train(recipe, toys, tmp_path / second, onnx=False)
        goods = model.encode_products([{"title": f"{kind} number 7"} for kind in KINDS.values()])
        cosines = model.encode_queries(list(KINDS), "us") @ goods.T
        hardest = np.where(np.eye(len(KINDS), dtype=bool), -1, cosines).max(1)
        return float((np.diagonal(cosines) - hardest).mean())

    assert lead("margin_ranking") > lead("in_batch_softmax")


def test_every_loss_is_logged_by_name(curriculum):
    assert set(history(curriculum, 1)[1]["losses"]) == {"multimodal", "product.title", "head"}
    weights = json.loads((curriculum / "blending.json").read_text())
    assert weights == {"multimodal": 1.0, "product.title": 0.5}


def test_the_head_knows_what_a_product_is_searched_for(curriculum):
    model = load(curriculum)
    assert set(json.loads((curriculum / "queries.json").read_text())) == set(KINDS)
    goods = [{"title": f"{kind} number 200", "description": f"a good {kind}"} for kind in KINDS.values()]
    found = model.predict_queries(goods, k=2)
    right = [likely[0][0] == query for likely, query in zip(found, KINDS, strict=True)]
    assert sum(right) >= 4  # of 6: the best epoch for relevance came before the head had finished
    assert all(first[1] > second[1] > 0 for first, second in found)


def test_only_the_commonest_queries_are_told_apart(toys, tmp_path):
    goods = products()
    links = [row for row in pairs(goods) if row["split"] != "train" or row["label"]]
    seldom = [row for row in links if not (row["query"] == "mesa" and row["split"] == "train")]
    once = next(row for row in links if row["query"] == "mesa" and row["split"] == "train")
    market = make_market(tmp_path / "market", goods, [*seldom, once])
    train(toy_recipe("head.queries=5", "stages.0.epochs=1"), market, tmp_path / "run", onnx=False)
    assert set(json.loads((tmp_path / "run" / "queries.json").read_text())) == set(KINDS) - {"mesa"}


def test_blending_teaches_a_modality_that_another_hides(tmp_path):
    """What it is for (§3.6): the model learns even when a modality is not present."""
    goods = products()
    for i, product in enumerate(goods):  # the same kind, in words that say it less plainly than the title
        product["description"] = f"{hash_word(i % len(KINDS))} {i} {hash_word(100 + i)}"
    market = make_market(tmp_path / "market", goods)

    def lead_without_title(model: TorchEncoder) -> float:
        bare = model.encode_products([{"description": product["description"]} for product in goods])
        cosines = model.encode_queries(list(KINDS), "us") @ bare.T
        own = np.arange(len(KINDS))[:, None] == np.arange(len(goods)) % len(KINDS)
        return float(cosines[own].mean() - cosines[~own].mean())

    plain = train(toy_recipe(), market, tmp_path / "plain", onnx=False)
    weights = "blending.weights={'product.title'=0.5, 'product.description'=1.0}"
    blended = train(toy_recipe(weights), market, tmp_path / "blended", onnx=False)
    assert lead_without_title(blended) > lead_without_title(plain) + 0.05


def hash_word(number: int) -> str:
    return "".join(chr(97 + number * prime % 26) for prime in (7, 11, 3, 19, 5))


def test_estimated_weights_are_kept_and_not_estimated_again(toys, tmp_path):
    recipe, run = toy_recipe("blending={}", "stages.0.epochs=1"), tmp_path / "run"

    def cut(row: dict) -> None:
        raise RuntimeError("the power went")

    with pytest.raises(RuntimeError, match="power"):
        train(recipe, toys, run, onnx=False, on_epoch=cut)
    kept = partial_folder(run) / "blending.json"
    weights = json.loads(kept.read_text())
    assert sum(weights.values()) == pytest.approx(1) and "query.country" in weights
    given = {"multimodal": 0.75, "product.title": 0.25}  # what no estimate would say
    kept.write_text(json.dumps(given))
    train(recipe, toys, run, onnx=False)
    assert json.loads((run / "blending.json").read_text()) == given
    assert set(history(run, 1)[1]["losses"]) == set(given)


def test_graded_pairs_teach_near_misses(tmp_path):
    """Positives alone cannot tell a chair from a stool that nobody wants; judged near misses can."""
    goods = products(48)
    for i, product in enumerate(goods):
        product["title"] += " broken" if i % 2 else " whole"
        product["country"] = "us"
    links = []
    for i, product in enumerate(goods):
        word = list(KINDS)[i % len(KINDS)]
        link = {"query": word, "country": "us", "product_id": product["product_id"]}
        near_miss = i % 2 == 1
        split = "validation" if i % 8 > 5 else "train"
        links.append(link | {"label": int(not near_miss), "grade": 0.2 if near_miss else 1.0, "split": split})
    market = make_market(tmp_path / "market", goods, links)
    model = train(toy_recipe("stages.0.loss=cosent", "stages.0.epochs=8"), market, tmp_path / "run", onnx=False)
    whole, broken = (
        model.encode_products([{"title": f"{kind} number 300 {state}", "country": "us"} for kind in KINDS.values()])
        for state in ("whole", "broken")
    )
    queries = model.encode_queries(list(KINDS), "us")
    assert ((queries * whole).sum(1) > (queries * broken).sum(1)).all()


def test_weights_for_images_do_not_hinder_a_market_without(toys, tmp_path):
    weights = "blending={weights={'product.images'=0.5, 'product.title'=0.5}}"
    train(toy_recipe(weights, "stages.0.epochs=1"), toys, tmp_path / "run", onnx=False)
    assert json.loads((tmp_path / "run" / "blending.json").read_text()) == {"multimodal": 1.0, "product.title": 0.5}


def test_bfloat16(toys, tmp_path):
    recipe = toy_recipe(
        "precision=bfloat16", "head.queries=4", "blending={weights={'product.title'=0.5}}", "stages.0.micro_batch=4",
        "stages.0.epochs=3",
    )  # fmt: skip
    model = train(recipe, toys, tmp_path / "run", onnx=False)
    assert max(row["validation/roc_auc"] for row in history(tmp_path / "run", 1)) > 0.8
    assert all(parameter.dtype == torch.float32 for parameter in model.towers.parameters())


@pytest.mark.parametrize("channels", [["title_text", "description_text"], ["title_trigrams", "images"]])
def test_bfloat16_blending_of_any_channels(toys, tmp_path, channels):
    recipe = toy_recipe(
        f"product_tower.channels={channels}", "precision=bfloat16", "stages.0.epochs=1",
        "blending={weights={'query.text'=0.5}}",
    )  # fmt: skip
    train(recipe, toys, tmp_path / "run", onnx=False)


def test_the_head_needs_queries_that_people_asked(toys, tmp_path):
    catalogue = "pairs={market=false, catalogue=[{query='{title}'}]}"
    with pytest.raises(MercatoError, match=r"head\.queries: .*no market pairs"):
        train(toy_recipe("head.queries=4", catalogue), toys, tmp_path / "run", onnx=False)


def test_a_wrong_blend_is_refused_before_training(toys, tmp_path):
    with pytest.raises(MercatoError, match=r"blending\.weights: 'product\.smell' is none of multimodal, query\.text"):
        train(toy_recipe("blending={weights={'product.smell'=1.0}}"), toys, tmp_path / "run", onnx=False)
