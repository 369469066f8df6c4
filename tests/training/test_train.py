from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import mercato
from mercato.data.market import Market
from mercato.errors import MercatoError
from mercato.runs.torch_encoder import TorchEncoder, load
from mercato.training.train import partial_folder, train
from tests.support.toys import KINDS, make_market, pairs, products, toy_recipe, with_photos


def history(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]


def learned(run: Path) -> list[dict]:
    """The history without what time it took."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history(run)]


def weights(model: TorchEncoder) -> dict[str, torch.Tensor]:
    return model.towers.state_dict()


def same(one: TorchEncoder, other: TorchEncoder) -> bool:
    return all(torch.equal(value, weights(other)[name]) for name, value in weights(one).items())


@pytest.fixture(scope="module")
def unbroken(toys: Market, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("unbroken") / "run"
    train(toy_recipe(), toys, run, onnx=False)
    return run


class PowerCutError(Exception):
    """What interrupts a training."""


def cut_at(epoch: int) -> Callable[[dict], None]:
    """The power goes once an epoch is logged, and not yet in its checkpoint."""

    def on_epoch(row: dict) -> None:
        if row["epoch"] == epoch:
            raise PowerCutError

    return on_epoch


def test_it_learns_a_language(unbroken):
    before, *epochs = history(unbroken)
    assert epochs[-1]["loss"] < 0.8 * epochs[0]["loss"]
    assert before["validation/roc_auc"] < 0.75
    assert max(row["validation/roc_auc"] for row in epochs) > 0.9
    model = load(unbroken)
    goods = model.encode_products([{"title": f"{kind} number 100"} for kind in KINDS.values()])
    cosines = model.encode_queries(list(KINDS), "us") @ goods.T
    others = cosines[~np.eye(len(KINDS), dtype=bool)]
    assert np.diagonal(cosines).mean() > others.mean() + 0.3


def test_the_best_epoch_is_kept(toys, unbroken):
    rows = history(unbroken)
    best = max(rows, key=lambda row: row["validation/roc_auc"])
    assert [row["best"] for row in rows] == [
        all(row["validation/roc_auc"] > earlier["validation/roc_auc"] for earlier in rows[:i])
        for i, row in enumerate(rows)
    ]
    held = [row for row in pairs(products()) if row["split"] == "validation"]
    model = load(unbroken)
    goods = {row["product_id"]: row for row in products()}
    queries = model.encode_queries([row["query"] for row in held], "us")
    cosines = (queries * model.encode_products([goods[row["product_id"]] for row in held])).sum(1)
    label = np.array([row["label"] for row in held])
    above = cosines[label == 1][:, None] - cosines[label == 0][None]
    assert ((above > 1e-6) + 0.5 * (abs(above) <= 1e-6)).mean() == pytest.approx(best["validation/roc_auc"], abs=0.005)


def test_divergence_is_said(toys, tmp_path):
    with pytest.raises(MercatoError, match=r"the loss of .* in batch \d of epoch 1: lower the stage's learning rates"):
        train(toy_recipe("stages.0.learning_rate=1e30", "stages.0.clip=1e30"), toys, tmp_path / "run", onnx=False)


def test_the_same_recipe_gives_the_same_run(toys, unbroken, tmp_path):
    assert same(train(toy_recipe(), toys, tmp_path / "again", onnx=False), load(unbroken))
    assert learned(tmp_path / "again") == learned(unbroken)
    assert not same(
        train(toy_recipe("seed=2", "stages.0.epochs=1"), toys, tmp_path / "seed", onnx=False), load(unbroken)
    )


def test_early_stopping(toys, tmp_path):
    still = ("stages.0.learning_rate=1e-12", "stages.0.text_learning_rate=1e-12")
    train(toy_recipe(*still, "stages.0.patience=2"), toys, tmp_path / "run", onnx=False)
    assert len(history(tmp_path / "run")) < 1 + toy_recipe().stages[0].epochs


@pytest.mark.parametrize("after", [1, 3])
def test_an_interrupted_run_resumes_to_the_same_weights(toys, unbroken, tmp_path, after):
    run = tmp_path / "run"
    with pytest.raises(PowerCutError):
        train(toy_recipe(), toys, run, onnx=False, on_epoch=cut_at(after + 1))
    assert not run.exists()
    resumed = train(toy_recipe(), toys, run, onnx=False)
    assert learned(run) == learned(unbroken)
    assert same(resumed, load(unbroken))
    assert not list(tmp_path.glob(".*"))


class Planted:
    """A pickle that writes a file when it is read."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


@pytest.mark.parametrize("name", ["last.ckpt", "best.pt"])
def test_a_checkpoint_runs_no_code(toys, tmp_path, name):
    run, executed = tmp_path / "run", tmp_path / "executed"
    with pytest.raises(PowerCutError):
        train(toy_recipe(), toys, run, onnx=False, on_epoch=cut_at(2))
    stage = next(partial_folder(run).rglob(name)).parent
    torch.save({"state_dict": {}, "planted": Planted(executed)}, stage / name)
    if name == "best.pt":
        (stage / "done").touch()
    with pytest.raises(MercatoError, match=rf"{name} holds more than weights, or is broken.*delete .*stage-1 to go on"):
        train(toy_recipe(), toys, run, onnx=False)
    assert not executed.exists()
    shutil.rmtree(stage)
    train(toy_recipe(), toys, run, onnx=False)


def test_ctrl_c_says_how_to_go_on(toys, unbroken, tmp_path):
    def press(row: dict) -> None:
        if row["epoch"] == 2:
            os.kill(os.getpid(), signal.SIGINT)

    run = tmp_path / "run"
    with pytest.raises(MercatoError, match="interrupted: the same command"):
        train(toy_recipe(), toys, run, onnx=False, on_epoch=press)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, "a second Ctrl-C must work too"
    assert not run.exists()
    assert same(train(toy_recipe(), toys, run, onnx=False), load(unbroken))


def test_kill_9(toys, unbroken, tmp_path):
    script = textwrap.dedent(
        """
        import os, signal, sys
        from pathlib import Path
        import torch
        from tests.support.toys import toy_recipe
        from mercato.data.market import Market
        from mercato.training.train import train

        def die(row):
            if row["epoch"] == 3:
                os.kill(os.getpid(), signal.SIGKILL)

        torch.set_num_threads(1)
        train(toy_recipe(), Market.open(sys.argv[1]), Path(sys.argv[2]), onnx=False, on_epoch=die)
        """
    )
    run = tmp_path / "run"
    here = [str(Path(mercato.__file__).parents[1]), str(Path(__file__).parents[2])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(here)}
    killed = subprocess.run(
        [sys.executable, "-c", script, str(toys.path), str(run)], env=environment, capture_output=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert not run.exists()
    assert same(train(toy_recipe(), toys, run, onnx=False), load(unbroken))
    assert learned(run) == learned(unbroken)


def test_work_of_another_recipe_or_of_nobody_is_not_taken_up(toys, unbroken, tmp_path):
    run, partial = tmp_path / "run", partial_folder(tmp_path / "run")
    with pytest.raises(PowerCutError):
        train(toy_recipe("stages.0.epochs=1"), toys, run, on_epoch=cut_at(1), onnx=False)
    assert partial.is_dir()
    assert same(train(toy_recipe(), toys, run, onnx=False), load(unbroken))
    (partial / "work").mkdir(parents=True)  # killed before it could say what it was
    assert same(train(toy_recipe(), toys, run, onnx=False), load(unbroken))


def test_a_failure_leaves_the_old_run(toys, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "old").touch()
    with pytest.raises(MercatoError, match=r"recipe\.toml"):  # it may be anybody's
        train(toy_recipe(), toys, run, onnx=False)
    for marker in ("recipe.toml", "features.json"):
        (run / marker).touch()
    with pytest.raises(PowerCutError):
        train(toy_recipe("stages.0.epochs=1"), toys, run, on_epoch=cut_at(1), onnx=False)
    assert {file.name for file in run.iterdir()} == {"old", "recipe.toml", "features.json"}
    train(toy_recipe("stages.0.epochs=1"), toys, run, onnx=False)
    assert not (run / "old").exists()
    assert (run / "model.safetensors").stat().st_mode & 0o044, "others may serve it"


def test_two_stages_go_on_from_each_other(toys, tmp_path):
    recipe = toy_recipe()
    recipe = recipe.model_copy(update={"stages": (recipe.stages[0].model_copy(update={"epochs": 1}),) * 2})
    train(recipe, toys, tmp_path / "run", onnx=False)
    first, second = ([row for row in history(tmp_path / "run") if row["stage"] == n] for n in (1, 2))
    assert second[0]["validation/roc_auc"] == max(row["validation/roc_auc"] for row in first)


def only(rows: list[dict], *fields: str) -> list[dict]:
    return [{field: row[field] for field in fields} for row in rows]


NOTHING = {"bytes": b"not a photo", "path": None}
MARKETS = {
    "photos": (with_photos(products()), True),
    "broken photos": ([row | {"images": [NOTHING]} for row in products()], False),
    "no photos": (products(), False),
    "a bare catalogue": (only(products(), "product_id", "title"), False),
    "null descriptions and countries": ([row | {"description": None, "country": None} for row in products()], False),
    "null titles": ([row | {"title": None if i % 5 == 0 else row["title"]} for i, row in enumerate(products())], False),
    "duplicate ids": (with_photos(products()) + with_photos(products())[::-1], True),
    "own vectors": (
        [row | {"image_embeddings": [[1.0, i % 6, 0.5]] * (i % 3)} for i, row in enumerate(products())],
        True,
    ),
    "empty vectors": ([row | {"image_embeddings": []} for row in products()], False),
}


@pytest.mark.parametrize("name", MARKETS)
def test_every_catalogue_trains(name, tmp_path):
    goods, images = MARKETS[name]
    market = make_market(tmp_path / "market", goods, pairs(products()))
    model = train(toy_recipe("stages.0.epochs=1"), market, tmp_path / "run", onnx=False)
    assert ("images" in model.recipe.product_tower.channels) == images
    assert np.isfinite(model.encode_products(market.arrow("products"))).all()
    again = load(tmp_path / "run")
    assert again.recipe == model.recipe
    assert np.array_equal(again.encode_queries(["mesa", ""], "us"), model.encode_queries(["mesa", ""], "us"))


def test_without_validation_the_last_epoch_is_the_best(tmp_path):
    links = [row for row in pairs(products()) if row["split"] == "train"]
    train(toy_recipe("stages.0.epochs=2"), make_market(tmp_path / "market", links=links), tmp_path / "run", onnx=False)
    rows = history(tmp_path / "run")
    assert [row["best"] for row in rows] == [True, True] and "validation/roc_auc" not in rows[0]
    assert "none: the market has no labelled validation pairs" in (tmp_path / "run" / "README.md").read_text()


ONE, GOODS = products(1), products()
WRONG = {
    "one product": (ONE, pairs(products()), "products has 1 row"),
    "no pair of the catalogue": (GOODS, [row | {"product_id": "gone"} for row in pairs(GOODS)], "not there"),
    "only unengaged": (GOODS, [row | {"label": 0} for row in pairs(GOODS)], "no engaged pair"),
    "a missing query": (GOODS, [{**pairs(GOODS)[0], "query": None}], "table pairs, row 0, column query"),
    "vectors of two lengths": (
        [row | {"image_embeddings": [[1.0] * (2 + i // 47)]} for i, row in enumerate(GOODS)],
        pairs(GOODS),
        "product p47, field image_embeddings",
    ),
    "a vector with NaN": (
        [row | {"image_embeddings": [[1.0, float("nan") if i == 3 else 0.0]]} for i, row in enumerate(GOODS)],
        pairs(GOODS),
        "product p3, field image_embeddings",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_train_says_why(name, tmp_path):
    goods, links, message = WRONG[name]
    with pytest.raises(MercatoError, match=message):
        train(toy_recipe(), make_market(tmp_path / "market", goods, links), tmp_path / "run", onnx=False)
    assert not (tmp_path / "run").exists()


def test_images_alone_need_images(toys, tmp_path):
    recipe = toy_recipe()
    tower = recipe.product_tower.model_copy(update={"channels": ("images",)})
    with pytest.raises(MercatoError, match="no images"):
        train(recipe.model_copy(update={"product_tower": tower}), toys, tmp_path / "run", onnx=False)


def test_a_vocabulary_too_small_for_the_letters(tmp_path):
    letters = ["".join(chr(start + i) for start in (0x4E00, 0x5E00, 0x6E00)) for i in range(len(GOODS))]
    goods = [row | {"title": f"{row['title']} {more}"} for row, more in zip(GOODS, letters, strict=True)]
    with pytest.raises(MercatoError, match=r"text\.vocabulary"):
        train(toy_recipe("text.vocabulary=100"), make_market(tmp_path / "market", goods), tmp_path / "run", onnx=False)
