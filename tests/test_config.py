from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mercato.config import Recipe, load_recipe
from mercato.config.pretraining import TASKS
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
    drop_fields=st.lists(st.sampled_from(["title", "description", "images"]), unique=True),
)
def test_a_recipe_survives_its_toml(name, seed, dropout, rate, epochs, pretrained, drop_fields):
    recipe = Recipe.model_validate(
        {
            "name": name,
            "seed": seed,
            "dropout": dropout,
            "text": {"pretrained": pretrained},
            "stages": [{"epochs": n, "learning_rate": rate} for n in epochs],
            "pairs": {"catalogue": [{"query": "{title}", "drop_fields": drop_fields}]},
        }
    )
    assert Recipe.parse(recipe.toml()) == recipe


PATCHES = 'name = "x"\n[product_tower]\nfusion = "transformer"\nchannels = ["title_text", "patches"]'
WRONG = {
    'name = "x"\nseeed = 3': "seeed: Extra inputs",
    'name = "x"\n[query_tower]\nchanels = []': "query_tower.chanels: Extra",
    'name = "x"\n[query_tower]\nchannels = ["ids"]': "query_tower.channels: ids alone",
    'name = "x"\n[product_tower]\nchannels = ["ids"]': "product_tower.channels: ids alone",
    'name = "x"\n[product_tower.ids]\nfields = ["brand", "price"]': "product_tower.ids.fields.1",
    'name = "x"\n[product_tower.ids]\nfields = ["brand", "brand"]': "product_tower.ids: .*fields: one is named twice",
    'name = "x"\nstages = [{ loss = "sampled_softmax", negatives = "some" }]': "stages.0.negatives",
    'name = "x"\nstages = [{ loss = "sampled_softmax", popularity_share = 2 }]': "stages.0.popularity_share",
    'name = "x"\nblending = {}\nstages = [{ loss = "sampled_softmax" }]': "blending: balances the losses of pairs",
    'name = "x"\n[[stages]]\nepochs = "many"': "stages.0.epochs: .*integer",
    'name = "x"\n[[stages]]\nclip = -1': "stages.0.clip",
    'name = "x"\nstages = []': "stages",
    'name = "x"\nseed = -1': "seed",
    'name = "x"\n[product_tower]\nchannels = ["smell"]': "product_tower.channels.0",
    'name = "x"\n[product_tower.text]\nlayers = 1\nhidden = 10\nheads = 3': "hidden: 10 is not a multiple of heads",
    'name = "x"\n[text]\nshared = true\n[query_tower.text]\nlayers = 1': "text.shared",
    'name = "x"\n[[pairs.catalogue]]\nquery = "no field"': "pairs.catalogue.0.*template must name a field",
    'name = "x"\n[[pairs.catalogue]]\nquery = "{broken"': "pairs.catalogue.0",
    'name = "x"\nstages = [{ engagement_weight = 0.2, loss = "cosent" }]': (
        "stages.0.engagement_weight: is a field of in_batch_softmax, .*; this stage's loss is cosent"
    ),
    'name = "x"\nstages = [{ negatives = "mixed", loss = "margin_ranking" }]': (
        "stages.0.negatives: is a field of in_batch_softmax, sampled_softmax; this stage's loss is margin_ranking"
    ),
    'name = "x"\nstages = [{ margin = 0.1 }]': "stages.0.margin: is a field of margin_ranking; .* in_batch_softmax",
    'name = "x"\nstages = [{ margin = 3.0, loss = "margin_ranking" }]': "stages.0.margin: .*less than 2",
    'name = "x"\nstages = [{ loss = "hinge" }]': "stages.0.loss: hinge is none of 'in_batch_softmax'",
    'name = "x"\nstages = [{ relevance_weight = 0 }]': "nothing is left to learn",
    'name = "x"\n[product_tower]\nmissing = "token"': "of the fusion transformer",
    'name = "x"\n[product_tower]\nfusion = "transformer"\nchannels = ["images"]': "name a text channel or patches",
    'name = "x"\n[product_tower]\nfusion = "transformer"\nchannels = ["images", "text"]': "name a text channel first",
    'name = "x"\n[product_tower]\nfusion = "transformer"\nfusion_layers = 7': "text.layers has only 6",
    'name = "x"\n[product_tower]\nfusion = "transformer"\nchannels = ["title_text", "images", "patches"]': (
        "product_tower.channels: images and patches are two ways to read one field"
    ),
    'name = "x"\n[product_tower]\nchannels = ["title_text", "patches"]': "product_tower.fusion: patches are positions",
    'name = "x"\n[pretraining]\n[images]\npatch_size = 9': r"images.size: 48 is not a multiple of images.patch_size",
    'name = "x"\n[pretraining]\nchannels = ["title_text", "text"]': "would tell what is masked",
    'name = "x"\n[pretraining]\nchannels = ["title_text", "title_text"]': "one is named twice",
    'name = "x"\n[pretraining]\nmicro_batch = 64': "pretraining reads a batch whole",
    'name = "x"\ntext = { shared = true }\nproduct_tower = { text = { layers = 2 } }\n'
    "pretraining = { shared = false }": "pretraining.shared: text.shared has one encoder",
    'name = "x"\n[pretraining]\nunpaired = 0\nict = { weight = 1 }': "ict: of products beside the pairs",
    'name = "x"\nproduct_tower = { text = { layers = 2, prefix = "passage: " } }\n'
    "pretraining = { ict = { weight = 1 } }": "cannot be told from product_tower.text.prefix",
    'name = "x"\n[pretraining]\nchannels = ["images"]': "'images' cannot be pretrained; there are title_text,",
    'name = "x"\n[pretraining]\nchannels = ["patches", "title_text"]': "a sequence begins with text",
    'name = "x"\n[pretraining]\n'
    + "\n".join(f"{task} = {{ weight = 0 }}" for task in TASKS): "every task has weight 0",
    f"{PATCHES}\n[images]\npatch_size = 9": r"images.size: 48 is not a multiple of images.patch_size \(9\)",
    f"{PATCHES}\n[images]\nfine_tune = true": "images.fine_tune: an encoder of patches is not trained",
    f'{PATCHES}\n[images]\nencoder = "resnet"': "images.encoder: pixels need no encoder; set images.patches",
    'name = "x"\n[product_tower.context]\nnumbers = []\ncategories = []': "both empty",
    'name = "x"\n[product_tower.context]\nnumbers = ["age", "price", "age"]': "numbers: one is named twice",
    'name = "x"\n[ranking.diversity]\nper_seller = 0': "ranking.diversity.per_seller: .*greater than or equal to 1",
    'name = "x"\n[ranking]\ngains = [0.0, -1.0]': "ranking.gains: .*never falling",
    'name = "x"\n[ranking]\ngains = [0.0, nan]': "ranking.gains: .*never falling",
    'name = "x"\n[ranking]\ngains = [0.0, 0.0]': "ranking.gains: .*the last the most",
    'name = "x"\n[ranking]\ngains = [0.0, 2.0, 1.0, 3.0]': "ranking.gains: .*never falling",
    'name = "x"\n[ranking]\ngains = [-1.0, 1.0]': "ranking.gains: .*from 0 up",
    'name = "x"\n[ranking.exploration]\nfirst = 3': "ranking.exploration.share: Field required",
    "name = ": "not valid TOML",
    "": "name: Field required",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_recipe_names_its_field(text):
    with pytest.raises(MercatoError, match=WRONG[text]):
        Recipe.parse(text)


@pytest.mark.parametrize(
    "images", ["", "patch_size = 48", 'patches = "features"\nsize = 50', 'patches = "features"\nencoder = "resnet"']
)
def test_a_recipe_of_patches(images):
    recipe = Recipe.parse(f"{PATCHES}\n[images]\n{images}")
    assert recipe.uses_images and recipe.uses_patches
    plain = Recipe.parse('name = "x"\nimages = { patch_size = 9 }')
    assert plain.uses_images and not plain.uses_patches


def test_every_wrong_field_is_named_at_once():
    with pytest.raises(MercatoError, match=r"2 wrong field(.|\n)*dimension(.|\n)*sead"):
        Recipe.parse('name = "x"\nsead = 1\ndimension = "wide"')


def test_a_wrong_stage_is_one_wrong_field():
    with pytest.raises(MercatoError, match=r"1 wrong field"):
        Recipe.parse('name = "x"\nstages = [{ epochs = 0 }]')


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


def test_diversity_and_exploration_are_off_until_a_recipe_names_them():
    plain = load_recipe("que2search")
    assert plain.ranking.diversity is None and plain.ranking.exploration is None
    assert "diversity" not in plain.toml() and "exploration" not in plain.toml(), "a study's runs keep their names"
    named = load_recipe("que2search", ["ranking.diversity.per_seller=2", "ranking.exploration.share=0.1"])
    assert (named.ranking.diversity.per_seller, named.ranking.exploration.first) == (2, 5)
    assert Recipe.parse(named.toml()) == named


@pytest.mark.parametrize("change", ["epochs", "stages.7.epochs=1", "name.first=x", "stages.last=1", "stages.0.epocs=3"])
def test_a_change_that_has_no_place(change):
    with pytest.raises(MercatoError):
        load_recipe("que2search", [change])


def test_a_stage_without_a_loss_is_of_the_in_batch_softmax():
    first, second = Recipe.parse(
        'name = "x"\nstages = [{ epochs = 2 }, { loss = "margin_ranking", margin = 0.2 }]'
    ).stages
    assert (first.loss, first.negatives, first.epochs) == ("in_batch_softmax", "batch", 2)
    assert (second.loss, second.margin, second.reduction) == ("margin_ranking", 0.2, "sum")
    changed = load_recipe(
        "que2search", ["stages.0.loss='margin_ranking'", "stages.1.loss='in_batch_softmax'", "stages.1.margin="]
    )
    assert [stage.loss for stage in changed.stages] == ["margin_ranking", "in_batch_softmax"]


OLD = """
name = "x"
misspelled = 0.25
stages = [{ engagement_weight = 0.2, shown = 0.5 }]
[[pairs.catalogue]]
query = "{title}"
withhold = ["title"]
"""
NEW = OLD.replace("misspelled", "typos").replace("shown", "unengaged").replace("withhold", "drop_fields")


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every note."""
    notes: list[str] = []
    monkeypatch.setattr("mercato.config.older.note", notes.append)
    return notes


def test_a_recipe_by_old_names_is_read_with_a_note_for_each(said):
    assert Recipe.parse(OLD, "old.toml") == Recipe.parse(NEW)
    assert [note.split("; ")[0] for note in said] == [
        "[yellow]old.toml: misspelled is now called typos",
        "[yellow]old.toml: stages.0.shown is now called unengaged",
        "[yellow]old.toml: pairs.catalogue.0.withhold is now called drop_fields",
    ]


def test_changes_by_old_names_change_the_same_field(said):
    old = ["misspelled=0.5", "stages.0.shown=2", "pairs.catalogue.0.withhold=[]", "stages.1={shown=3.0}"]
    new = ["typos=0.5", "stages.0.unengaged=2", "pairs.catalogue.0.drop_fields=[]", "stages.1={unengaged=3.0}"]
    assert Recipe.parse(NEW, changes=old) == Recipe.parse(OLD, changes=new) == Recipe.parse(NEW, changes=new)
    assert len(said) == 3 + len(old)


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ('name = "x"\nmisspelled = 0.1\ntypos = 0.1', []),
        ('name = "x"\nstages = [{ shown = 1.0, unengaged = 1.0 }]', []),
        ('name = "x"', ["typos=0.1", "misspelled=0.2"]),
        ('name = "x"\nstages = [{}]', ["stages.0={shown=1.0, unengaged=2.0}"]),
    ],
)
def test_a_field_by_both_its_names_is_refused(text, changes):
    with pytest.raises(MercatoError, match=r"misspelled.*typos|typos.*misspelled|shown is now called unengaged"):
        Recipe.parse(text, changes=changes)


WRITTEN_OUT = """
name = "x"
[[stages]]
loss = "{loss}"
scale = 20.0
margin = 0.1
reduction = "sum"
negatives = "batch"
shown = 1.0
relevance_weight = {weight}
engagement_weight = 0.0
engagement_bias = false
"""


@pytest.mark.parametrize("loss", ["in_batch_softmax", "symmetric_softmax", "margin_ranking", "scaled_bce", "cosent"])
def test_a_recipe_that_the_version_before_wrote_out_is_read(loss):
    text = WRITTEN_OUT.format(loss=loss, weight=1.0)
    assert Recipe.parse(text).stages == Recipe.parse(f'name = "x"\nstages = [{{ loss = "{loss}" }}]').stages


def test_stages_that_are_no_list_are_named():
    for stages in ("3", "'text'", "{ loss = 'cosent' }"):
        with pytest.raises(MercatoError, match="stages"):
            Recipe.parse(f'name = "x"\nstages = {stages}')


@pytest.mark.parametrize("change", ["stages.0.loss=in_batch_softmax", "stages.0.loss="])
def test_a_tuned_stage_takes_another_loss(change):
    text = 'name = "x"\n[[stages]]\nloss = "margin_ranking"\nmargin = 0.15\nreduction = "mean"'
    assert Recipe.parse(text, changes=[change]).stages[0].loss == "in_batch_softmax"


def test_a_weight_that_counted_is_not_dropped_from_it():
    with pytest.raises(MercatoError, match=r"stages\.0\.relevance_weight: is a field of"):
        Recipe.parse(WRITTEN_OUT.format(loss="cosent", weight=0.5))


FULL = "scale=20.0\nmargin=0.1\nreduction='sum'\nshown=1.0\nrelevance_weight=1.0\nengagement_bias=false\n"


@pytest.mark.parametrize(
    ("stage", "field"),
    [
        ("loss='margin_ranking'\nnegatives='batch'\nengagement_weight=0.0\nepoch=3", "epoch"),
        ("loss='cosent'\nnegatives='batch'\nengagement_weight=0.9", "engagement_weight"),
        ("loss='symmetric_softmax'\nnegatives='mixed'\nengagement_weight=0.0", "negatives"),
    ],
)
def test_what_says_something_in_a_stage_written_out_is_never_dropped(stage, field):
    with pytest.raises(MercatoError, match=rf"stages\.0\.{field}: "):
        Recipe.parse(f'name = "x"\n[[stages]]\n{FULL}{stage}')


@pytest.mark.parametrize("text", ['name = "x"\n[[stages]]\n' + FULL + "negatives='batch'", Recipe(name="x").toml()])
def test_a_stage_written_out_takes_another_loss(text):
    changed = Recipe.parse(text, changes=["stages.0.loss=margin_ranking", "stages.0.margin=0.3"]).stages[0]
    assert (changed.loss, changed.margin) == ("margin_ranking", 0.3)
    with pytest.raises(MercatoError, match=r"stages\.0\.negatives: is a field of in_batch_softmax"):
        Recipe.parse(
            text.replace("batch'", "mixed'").replace('"batch"', '"mixed"'), changes=["stages.0.loss=scaled_bce"]
        )


def test_gains_are_read_where_a_run_of_before_has_them():
    """They were of the trees alone."""
    text = load_recipe("que2search").toml()
    own = "gains = [\n    0.0,\n    1.0,\n    2.0,\n    3.0,\n]\n"
    assert own in text
    before = text.replace(own, "", 1).replace("[ranking.trees]\n", "[ranking.trees]\ngains = [0.0, 5.0]\n")
    assert Recipe.parse(before).ranking.gains == (0.0, 5.0)
