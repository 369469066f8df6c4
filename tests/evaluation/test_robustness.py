"""`mercato robustness`: what is withheld, that losses are those of an evaluation without the field, and the page."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from mercato.cli import app
from mercato.config import Context
from mercato.data.market import Market
from mercato.errors import MercatoError
from mercato.evaluation.evaluate import Evaluation
from mercato.evaluation.robustness import page_of, robustness, summary
from mercato.features.context import ContextSpec
from mercato.features.drop import blank, fields_and_groups, fields_read
from mercato.features.featurizer import FeatureSpec
from mercato.models.build import build_towers, text_configs
from mercato.reports.robustness_page import HEADLINES, _verdicts, _worst, rows
from mercato.runs.image_vectors import products_with_vectors
from mercato.runs.torch_encoder import TorchEncoder
from tests.support.html import Balanced

QUE2SEARCH = ("title_text", "title_trigrams", "description_text", "language", "country", "images")
PRODUCT = {
    "product_id": "a",
    "title": "Red sofa",
    "description": "Soft",
    "category": "Home > Sofas",
    "price": 90.0,
    "condition": "used",
    "created_at": datetime(2025, 1, 1, tzinfo=UTC),
    "attributes": [("colour", "red"), ("seats", "2")],
    "image_embeddings": [[1.0, 0.0]],
}


def spec(*channels: str, **context: tuple[str, ...]) -> FeatureSpec:
    """A run that reads these; `numbers` and `categories` are of its context."""
    read = None
    if context:
        declared = Context(**{"numbers": (), "categories": ()} | context)
        read = ContextSpec.fit(declared, [PRODUCT], datetime(2025, 2, 1, tzinfo=UTC))
    return FeatureSpec((), channels, 0, 1, 1, 8, 8, 8, 8, (), (), context=read)


# --- what is withheld


def test_a_run_reads_the_fields_of_its_channels():
    assert fields_read(spec(*QUE2SEARCH)) == ("title", "description", "images", "language", "country")
    assert fields_read(spec("text", "images")) == ("title", "description", "images")
    assert fields_read(spec("description_trigrams")) == ("description",)


def test_a_derived_number_stands_for_what_it_is_computed_from():
    read = spec("title_text", "context", numbers=("relative_price", "age", "image_count"), categories=("condition",))
    assert fields_read(read) == ("title", "images", "price", "category", "created_at", "condition")
    assert fields_read(spec("context", numbers=("attributes.seats", "description_length"))) == (
        "description",
        "attributes.seats",
    )


def test_groups_hold_the_texts_and_the_rest_of_the_context():
    engage = spec("title_text", "images", "context", numbers=("price", "image_count"), categories=("country",))
    fields = fields_and_groups([spec(*QUE2SEARCH), engage])
    assert fields["text"] == ("title", "description")
    assert fields["context"] == ("country", "price")  # not the photos, whose count is read
    assert fields["images"] == ("images",)
    assert "context" not in fields_and_groups([spec(*QUE2SEARCH)])


def test_what_is_withheld_from_the_start_is_no_field():
    assert set(fields_and_groups([spec(*QUE2SEARCH)], ["title"])) == {"description", "images", "language", "country"}
    seats = spec("context", numbers=("attributes.seats", "price"), categories=("condition",))
    assert fields_and_groups([seats], ["attributes"])["context"] == ("price", "condition")


def test_a_blank_field_is_gone_and_the_others_stay():
    left = blank(PRODUCT, ("title", "images", "price", "attributes.colour"))
    changed = {name for name in PRODUCT if left[name] != PRODUCT[name]}
    assert changed == {"title", "image_embeddings", "price", "attributes"}
    assert left["title"] == "" and left["price"] is None and left["image_embeddings"] is None
    assert left["attributes"] == [("seats", "2")]
    assert set(left) == set(PRODUCT)


@given(st.lists(st.sampled_from(["title", "description", "images", "price", "attributes.seats", "attributes.none"])))
def test_to_blank_twice_is_to_blank_once(fields: list[str]):
    once = blank(PRODUCT, fields)
    assert blank(once, fields) == once
    assert blank(once, fields[::-1]) == once == blank(PRODUCT, fields[::-1])


def test_a_price_that_is_withheld_is_unknown_and_so_is_all_that_derives_from_it():
    read = spec("context", numbers=("price", "relative_price", "age"))
    assert read.context is not None
    now = datetime(2025, 2, 1, tzinfo=UTC)
    missing = read.context.features([PRODUCT, blank(PRODUCT, ("price",))], now)["context_numbers"][:, 3:]
    assert missing.tolist() == [[0, 0, 0], [1, 1, 0]]


# --- what is lost


class Without:
    """An encoder that never sees a product's description."""

    def __init__(self, model: TorchEncoder) -> None:
        self.dimension, self.encode_queries = model.dimension, model.encode_queries
        self.model = model

    def encode_products(self, products):
        return self.model.encode_products([blank(row, ("description",)) for row in products.to_pylist()])


@pytest.fixture(scope="module")
def alone(tiny_run: Path, tiny_market: Market, tmp_path_factory) -> tuple[Path, dict]:
    page = tmp_path_factory.mktemp("robust") / "alone.html"
    return page, robustness([tiny_run], tiny_market, page)


def test_a_loss_is_the_paired_difference_to_an_evaluation_without_the_field(alone, tiny_run, tiny_market):
    model = TorchEncoder.load(tiny_run)
    model.market_path = tiny_market.path
    metrics = Evaluation.of(
        model,
        tiny_market,
        others={"without": Without(model)},
        products=products_with_vectors(tiny_market, model, tiny_run),
        baselines=False,
    ).metrics()
    run = alone[1]["runs"][0]
    losses = run["fields"]["description"]["metrics"]
    assert {part: set(figures) for part, figures in losses.items()} == {
        part: set(figures) for part, figures in metrics["baselines"]["without"].items()
    }
    for part, figures in losses.items():
        for metric, loss in figures.items():
            whole, without = metrics[part][metric], metrics["baselines"]["without"][part][metric]
            assert run["whole"][part][metric]["value"] == pytest.approx(whole, abs=1e-3)
            assert loss["value"] == pytest.approx(without, abs=1e-3)
            assert loss["loss"] == pytest.approx(whole - without, abs=2e-3)
            span = metrics["intervals"]["differences"]["without"][part][metric]
            assert loss["interval"] == pytest.approx(span, abs=5e-3)
    assert any(loss["loss"] for figures in losses.values() for loss in figures.values())


def test_every_field_that_the_run_reads_is_withheld(alone, tiny_market):
    result = alone[1]
    assert set(result["fields"]) == {"title", "description", "images", "language", "country", "text"}
    products = tiny_market.frame("products", ["description"])
    have = result["runs"][0]["fields"]["description"]["products"]
    assert have == products["description"].is_not_null().sum() and 0 < have <= result["n"]["products"]
    assert json.loads(alone[0].with_suffix(".json").read_text()) == result
    assert result["comparison"] is None


def test_what_nobody_filled_in_costs_nothing_to_the_last_bit(tiny_run, tiny_market, tmp_path):
    folder = shutil.copytree(tiny_market.path, tmp_path / "market")
    for file in (folder / "products").glob("*.parquet"):
        pq.write_table(pq.read_table(file).drop_columns(["language"]), file)
    run = robustness([tiny_run], Market.open(folder), tmp_path / "page.html")["runs"][0]
    language = run["fields"]["language"]
    assert language["products"] == 0
    for figures in language["metrics"].values():
        assert all(loss["loss"] == 0 and loss["interval"] == [0, 0] for loss in figures.values())


@pytest.fixture(scope="module")
def both(tiny_run: Path, tiny_market: Market, tmp_path_factory) -> tuple[Path, dict]:
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
    page = folder / "both.html"
    return page, robustness([tiny_run, run], tiny_market, page)


def test_a_field_that_a_run_does_not_read_is_no_loss_of_0(both):
    result = both[1]
    tiny, plain = result["runs"]
    assert plain["fields"]["images"] is None and plain["fields"]["country"] is None
    assert tiny["fields"]["condition"] is None and plain["fields"]["condition"]["products"] > 0
    compared = result["comparison"]["fields"]["images"]["relevance"]["roc_auc"]
    assert compared["less_lost"] is None
    ahead = plain["whole"]["relevance"]["roc_auc"]["value"]
    ahead -= tiny["fields"]["images"]["metrics"]["relevance"]["roc_auc"]["value"]
    assert compared["ahead"]["difference"] == pytest.approx(ahead)


def test_who_loses_less_is_the_difference_of_the_losses(both):
    result = both[1]
    tiny, plain = (run["fields"]["title"]["metrics"]["engagement"]["roc_auc"] for run in result["runs"])
    found = result["comparison"]["fields"]["title"]["engagement"]["roc_auc"]
    low, high = found["less_lost"]["interval"]
    assert found["less_lost"]["difference"] == pytest.approx(tiny["loss"] - plain["loss"])
    assert low <= found["less_lost"]["difference"] <= high
    assert found["ahead"]["difference"] == pytest.approx(plain["value"] - tiny["value"])


def test_a_group_that_a_run_reads_in_part_is_withheld_from_it(both):
    text, title = (both[1]["runs"][1]["fields"][field]["metrics"] for field in ("text", "title"))
    assert text == title  # it reads no description


def test_a_run_beside_itself_loses_as_much(tiny_run, tiny_market, tmp_path):
    copy = shutil.copytree(tiny_run, tmp_path / "copy")
    result = robustness([tiny_run, copy], tiny_market, tmp_path / "page.html")
    assert [run["name"] for run in result["runs"]] == [str(tiny_run), str(copy)]
    for parts in result["comparison"]["fields"].values():
        for figures in parts.values():
            for figure in figures.values():
                assert figure["less_lost"] == figure["ahead"] == {"difference": 0, "interval": [0, 0]}


def test_a_catalogue_alone_is_asked_its_own_questions_without_their_answers(tiny_run, tiny_market, tmp_path):
    folder = shutil.copytree(tiny_market.path, tmp_path / "market")
    for table in ("pairs", "judgments"):
        (folder / f"{table}.parquet").unlink()
    run = shutil.copytree(tiny_run, tmp_path / "run")
    catalogue = '[{ query = "{title}", withhold = ["title"] }]'
    recipe = (run / "recipe.toml").read_text().replace("catalogue = []", f"catalogue = {catalogue}")
    (run / "recipe.toml").write_text(recipe)
    result = robustness([run], Market.open(folder), tmp_path / "page.html")
    assert set(result["fields"]) == {"description", "images", "language", "country"}
    metrics = result["runs"][0]["fields"]["description"]["metrics"]
    assert set(metrics) == {"knn", "batch"}
    assert any(loss["loss"] for figures in metrics.values() for loss in figures.values())


# --- what is shown


def made(**less_lost: tuple[float, list[float]]) -> dict:
    """Two runs by hand, of which the second loses less by so much."""
    one = {field: {"metrics": {"relevance": {"roc_auc": {"value": 0.7, "loss": 0.1, "interval": [0.05, 0.15]}}}}
           for field in less_lost}  # fmt: skip
    ahead = {"difference": 0.02, "interval": [-0.01, 0.05]}
    return {
        "fields": {field: [field] for field in less_lost},
        "runs": [{"whole": {"relevance": {"roc_auc": {"value": 0.8}}}, "fields": one}] * 2,
        "comparison": {
            "first": "old",
            "second": "new",
            "whole": {"relevance": {"roc_auc": ahead}},
            "fields": {
                field: {"relevance": {"roc_auc": {"less_lost": {"difference": d, "interval": i}, "ahead": ahead}}}
                for field, (d, i) in less_lost.items()
            },
        },
    }


def test_only_a_sure_difference_is_said_to_be_less():
    result = made(images=(0.05, [0.01, 0.09]), price=(0.05, [-0.01, 0.1]), title=(-0.1, [-0.2, -0.01]))
    (told,) = _verdicts(result, HEADLINES[:1])
    assert "<b>new loses less</b> without photos" in told and "<b>old loses less</b> without title" in told
    assert "the other 1 there is no difference" in told and "new is level, within chance" in told
    assert "price" not in told
    assert "any of the 1 " in _verdicts(made(price=(0.05, [-0.01, 0.1])), HEADLINES[:1])[0]


def test_the_worst_field_is_named_and_chance_is_not():
    result = made(images=(0, [0, 0]), price=(0, [0, 0]))
    assert "most without <b>photos</b>: .700 in place of .800" in _worst(result, HEADLINES[:1])[0]
    for field in ("images", "price"):
        result["runs"][0]["fields"][field]["metrics"]["relevance"]["roc_auc"]["interval"] = [-0.1, 0.2]
    assert "no worse beyond chance" in _worst(result, HEADLINES[:1])[0]


@pytest.mark.parametrize("which", ["alone", "both"])
def test_the_page_is_one_file_and_whole(which, request):
    page, result = request.getfixturevalue(which)
    html = page.read_text()
    parsed = Balanced()
    parsed.feed(html)
    text = " ".join(parsed.text)
    assert parsed.open == [] and not parsed.links
    assert not re.search(r"https?://|@import|<script|nan\b|None", html)
    for expected in ("What is lost without each field", "Every metric", "photos", "all text", "relevance ROC AUC"):
        assert expected in text, expected
    assert ("not read" in text) == ("Who loses less" in text) == (which == "both")
    assert [row.field for row in rows(result, HEADLINES[1])] == [row.field for row in rows(result, HEADLINES[0])]
    assert len(summary(result).renderables) == 3


# --- the verb


def test_the_verb_writes_into_the_only_run_and_prints_one_json_object(alone, tiny_run, tiny_market, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    told = CliRunner().invoke(app, ["robustness", str(run), "--market", str(tiny_market.path), "--json"])
    assert told.exit_code == 0, told.output
    printed = json.loads(told.stdout)
    assert printed == json.loads((run / "robustness.json").read_text())
    assert printed["runs"][0]["fields"] == alone[1]["runs"][0]["fields"]
    assert (run / "robustness.html").is_file()


def test_several_runs_need_a_page():
    runs = [Path("a"), Path("b")]
    with pytest.raises(MercatoError, match="--out"):
        page_of(runs)
    with pytest.raises(MercatoError, match=r"\.html"):
        page_of(runs, Path("page.json"))
    assert page_of(runs, Path("page.html")) == Path("page.html")
    assert page_of(runs[:1]) == Path("a/robustness.html")
