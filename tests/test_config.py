from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mercato.config import Recipe, load_recipe
from mercato.errors import MercatoError

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.toml"))


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_every_shipped_recipe_parses_by_path_and_by_name(file):
    assert load_recipe(file) == load_recipe(file.stem)
    assert Recipe.parse(load_recipe(file).toml()) == load_recipe(file)


@given(
    name=st.text(),
    seed=st.integers(0, 2**32 - 1),
    dropout=st.floats(0, 0.99),
    rate=st.floats(1e-12, 1e3),
    epochs=st.lists(st.integers(1, 99), min_size=1, max_size=3),
    pretrained=st.none() | st.text(st.characters(codec="utf-8")),
    withhold=st.lists(st.sampled_from(["title", "description", "images"]), unique=True),
)
def test_a_recipe_survives_its_toml(name, seed, dropout, rate, epochs, pretrained, withhold):
    recipe = Recipe.model_validate(
        {
            "name": name,
            "seed": seed,
            "dropout": dropout,
            "text": {"pretrained": pretrained},
            "stages": [{"epochs": n, "learning_rate": rate} for n in epochs],
            "pairs": {"catalogue": [{"query": "{title}", "withhold": withhold}]},
        }
    )
    assert Recipe.parse(recipe.toml()) == recipe


WRONG = {
    'name = "x"\nseeed = 3': "seeed: Extra inputs",
    'name = "x"\n[query_tower]\nchanels = []': "query_tower.chanels: Extra",
    'name = "x"\n[[stages]]\nepochs = "many"': "stages.0.epochs: .*integer",
    'name = "x"\n[[stages]]\nclip = -1': "stages.0.clip",
    'name = "x"\nstages = []': "stages",
    'name = "x"\nseed = -1': "seed",
    'name = "x"\n[product_tower]\nchannels = ["smell"]': "product_tower.channels.0",
    'name = "x"\n[product_tower.text]\nlayers = 1\nhidden = 10\nheads = 3': "hidden: 10 is not a multiple of heads",
    'name = "x"\n[text]\nshared = true\n[query_tower.text]\nlayers = 1': "text.shared",
    'name = "x"\n[[pairs.catalogue]]\nquery = "no field"': "pairs.catalogue.0.*template must name a field",
    'name = "x"\n[[pairs.catalogue]]\nquery = "{broken"': "pairs.catalogue.0",
    'name = "x"\nstages = [{ engagement_weight = 0.2, loss = "cosent" }]': "a graded loss already reads every pair",
    'name = "x"\nstages = [{ negatives = "mixed", loss = "margin_ranking" }]': "negatives: mixed",
    'name = "x"\nstages = [{ relevance_weight = 0 }]': "nothing is left to learn",
    'name = "x"\n[product_tower]\nmissing = "token"': "of the fusion transformer",
    'name = "x"\n[product_tower]\nfusion = "transformer"\nchannels = ["images"]': "name a text channel",
    'name = "x"\n[product_tower]\nfusion = "transformer"\nchannels = ["images", "text"]': "name a text channel first",
    'name = "x"\n[product_tower]\nfusion = "transformer"\nfusion_layers = 7': "text.layers has only 6",
    'name = "x"\n[product_tower.context]\nnumbers = []\ncategories = []': "both empty",
    'name = "x"\n[product_tower.context]\nnumbers = ["age", "price", "age"]': "numbers: one is named twice",
    "name = ": "not valid TOML",
    "": "name: Field required",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_recipe_names_its_field(text):
    with pytest.raises(MercatoError, match=WRONG[text]):
        Recipe.parse(text)


def test_every_wrong_field_is_named_at_once():
    with pytest.raises(MercatoError, match=r"2 wrong field(.|\n)*dimension(.|\n)*sead"):
        Recipe.parse('name = "x"\nsead = 1\ndimension = "wide"')


def test_what_is_no_recipe(tmp_path):
    with pytest.raises(MercatoError, match=r"neither a file nor one of .*que2search"):
        load_recipe("nonesuch")
    (tmp_path / "latin.toml").write_bytes(b'name = "caf\xe9"')
    with pytest.raises(MercatoError, match=r"latin\.toml"):
        load_recipe(tmp_path / "latin.toml")


CHANGES = ["stages.0.epochs=3", "text.pretrained=some/folder", "images.size=32", "name=mine"]


def test_changes():
    changed = load_recipe(
        "que2search", ["stages.0.epochs=3", "text.pretrained=some/folder", "images.size=32", "name=mine"]
    )
    assert (changed.stages[0].epochs, changed.text.pretrained, changed.images.size) == (3, "some/folder", 32)
    assert changed.name == "mine"


@pytest.mark.parametrize("change", ["epochs", "stages.7.epochs=1", "name.first=x", "stages.last=1", "stages.0.epocs=3"])
def test_a_change_that_has_no_place(change):
    with pytest.raises(MercatoError):
        load_recipe("que2search", [change])
