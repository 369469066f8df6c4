"""That losses are those of an evaluation without the field."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mercato.config import Context
from mercato.data.market import Market
from mercato.data.pairs import split_cutoff
from mercato.evaluation.evaluate import Evaluation
from mercato.evaluation.robustness import Robustness, robustness
from mercato.features.context import ContextSpec
from mercato.features.drop import drop_fields
from mercato.models.build import build_towers, text_configs
from mercato.runs.image_vectors import products_with_vectors
from mercato.runs.torch_encoder import TorchEncoder


class Without:
    """An encoder that never sees a product's description."""

    def __init__(self, model: TorchEncoder) -> None:
        self.dimension, self.encode_queries = model.dimension, model.encode_queries
        self.model = model

    def encode_products(self, products, *, as_of=None):
        rows = [drop_fields(row, ("description",)) for row in products.to_pylist()]
        return self.model.encode_products(rows, as_of=as_of)


@pytest.fixture(scope="module")
def alone(tiny_run: Path, tiny_market: Market) -> dict:
    result = robustness([tiny_run], tiny_market)
    tree = json.loads(json.dumps(result.as_dict()))
    parts = {part: tree["n"].pop(part) for part in result.n.parts}  # they stand beside the other counts
    assert Robustness.from_dict(tree | {"n": tree["n"] | {"parts": parts}}) == result
    return result.as_dict()


def test_a_loss_is_the_paired_difference_to_an_evaluation_without_the_field(alone, tiny_run, tiny_market):
    model = TorchEncoder.load(tiny_run)
    model.market_path = tiny_market.path
    metrics = (
        Evaluation.of(
            model,
            tiny_market,
            others={"without": Without(model)},
            products=products_with_vectors(tiny_market, model, tiny_run),
            baselines=False,
        )
        .metrics()
        .as_dict()
    )
    run = alone["runs"][0]
    losses = run["fields"]["description"]["metrics"]
    counted = {"unjudged@10"}  # no more of which is better, so that nothing is lost
    assert {part: set(figures) for part, figures in losses.items()} == {
        part: set(figures) - counted for part, figures in metrics["baselines"]["without"].items()
    }
    for part, figures in losses.items():
        for metric, loss in figures.items():
            whole, without = metrics[part][metric], metrics["baselines"]["without"][part][metric]
            assert run["whole"][part][metric]["value"] == pytest.approx(whole, abs=1e-3)
            assert loss["value"] == pytest.approx(without, abs=1e-3)
            assert loss["loss"] == pytest.approx(whole - without, abs=2e-3)
            span = metrics["intervals"]["differences"]["without"][part][metric]
            assert loss["interval"] == pytest.approx(span, abs=5e-3)
            (low, high), (widest_low, widest_high) = loss["interval"], loss["simultaneous"]
            assert widest_high - widest_low >= high - low - 5e-3
    assert any(loss["loss"] for figures in losses.values() for loss in figures.values())


def test_listings_without_a_field_are_as_old_as_whole_ones(tiny_run, tiny_market, moments):
    robustness([tiny_run], tiny_market)
    assert moments == {split_cutoff(tiny_market, ("train", "validation"))}


def test_every_field_that_the_run_reads_is_dropped(alone, tiny_market):
    result = alone
    assert set(result["fields"]) == {"title", "description", "images", "language", "country", "text"}
    products = tiny_market.frame("products", ["description"])
    have = result["runs"][0]["fields"]["description"]["products"]
    assert have == products["description"].is_not_null().sum() and 0 < have <= result["n"]["products"]
    assert result["comparison"] is None


def test_what_nobody_filled_in_costs_nothing_to_the_last_bit(tiny_run, tiny_market, tmp_path):
    folder = shutil.copytree(tiny_market.path, tmp_path / "market")
    for file in (folder / "products").glob("*.parquet"):
        pq.write_table(pq.read_table(file).drop_columns(["language"]), file)
    run = robustness([tiny_run], Market.open(folder)).as_dict()["runs"][0]
    language = run["fields"]["language"]
    assert language["products"] == 0
    for figures in language["metrics"].values():
        assert all(
            loss["loss"] == 0 and loss["interval"] == loss["simultaneous"] == [0, 0] for loss in figures.values()
        )


@pytest.fixture(scope="module")
def both(tiny_run: Path, tiny_market: Market, tmp_path_factory) -> dict:
    """The tiny run beside one of untrained towers that reads the title and the condition only."""
    folder = tmp_path_factory.mktemp("both")
    run = shutil.copytree(tiny_run, folder / "plain")
    trained = TorchEncoder.load(run)
    tower = trained.recipe.product_tower.model_copy(
        update={"channels": ("title_text", "context"), "context": Context(numbers=(), categories=("condition",))}
    )
    recipe = trained.recipe.model_copy(update={"name": "plain", "product_tower": tower})
    rows_of = tiny_market.arrow("products").to_pylist()
    context = ContextSpec.fit(tower.context, rows_of, datetime(2025, 1, 1, tzinfo=UTC))
    featurizer = trained.featurizer
    featurizer.spec = replace(featurizer.spec, product_channels=tower.channels, context=context)
    towers = build_towers(recipe, featurizer.spec, text_configs(recipe, featurizer.spec))
    TorchEncoder(recipe, featurizer, None, towers).save(run)
    for file in run.glob("image_encoder*"):
        file.unlink()
    (run / "queries.json").unlink(missing_ok=True)
    return robustness([tiny_run, run], tiny_market).as_dict()


def test_a_field_that_a_run_does_not_read_is_no_loss_of_0(both):
    result = both
    tiny, plain = result["runs"]
    assert plain["fields"]["images"] is None and plain["fields"]["country"] is None
    assert tiny["fields"]["condition"] is None and plain["fields"]["condition"]["products"] > 0
    compared = result["comparison"]["fields"]["images"]["relevance"]["roc_auc"]
    assert compared["less_lost"] is None
    ahead = plain["whole"]["relevance"]["roc_auc"]["value"]
    ahead -= tiny["fields"]["images"]["metrics"]["relevance"]["roc_auc"]["value"]
    assert compared["ahead"]["difference"] == pytest.approx(ahead)


def test_who_loses_less_is_the_difference_of_the_losses(both):
    result = both
    tiny, plain = (run["fields"]["title"]["metrics"]["engagement"]["roc_auc"] for run in result["runs"])
    found = result["comparison"]["fields"]["title"]["engagement"]["roc_auc"]
    low, high = found["less_lost"]["interval"]
    assert found["less_lost"]["difference"] == pytest.approx(tiny["loss"] - plain["loss"])
    assert low <= found["less_lost"]["difference"] <= high
    assert found["ahead"]["difference"] == pytest.approx(plain["value"] - tiny["value"])


def test_a_group_that_a_run_reads_in_part_is_dropped_from_it(both):
    text, title = (both["runs"][1]["fields"][field]["metrics"] for field in ("text", "title"))
    assert text == title  # it reads no description


NOTHING = {"difference": 0, "interval": [0, 0], "simultaneous": [0, 0]}


def test_a_run_beside_itself_loses_as_much(tiny_run, tiny_market, tmp_path):
    copy = shutil.copytree(tiny_run, tmp_path / "copy")
    result = robustness([tiny_run, copy], tiny_market).as_dict()
    assert [run["name"] for run in result["runs"]] == [str(tiny_run), str(copy)]
    for parts in result["comparison"]["fields"].values():
        for figures in parts.values():
            for figure in figures.values():
                assert figure["less_lost"] == figure["ahead"] == NOTHING


def test_a_catalogue_alone_is_asked_its_own_questions_without_their_answers(tiny_run, tiny_market, tmp_path):
    folder = shutil.copytree(tiny_market.path, tmp_path / "market")
    for table in ("pairs", "judgments"):
        (folder / f"{table}.parquet").unlink()
    run = shutil.copytree(tiny_run, tmp_path / "run")
    catalogue = '[{ query = "{title}", drop_fields = ["title"] }]'
    recipe = (run / "recipe.toml").read_text().replace("catalogue = []", f"catalogue = {catalogue}")
    (run / "recipe.toml").write_text(recipe)
    result = robustness([run], Market.open(folder)).as_dict()
    assert set(result["fields"]) == {"description", "images", "language", "country"}
    metrics = result["runs"][0]["fields"]["description"]["metrics"]
    assert set(metrics) == {"knn", "batch"}
    assert any(loss["loss"] for figures in metrics.values() for loss in figures.values())
