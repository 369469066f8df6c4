from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mercato.benchmarks.withheld import derive, named_in_text, without_words, words_of
from mercato.config import load_recipe
from mercato.data.market import Market, MarketConfig, write_market_toml
from mercato.data.schema import PRODUCTS
from mercato.errors import MercatoError
from mercato.training.data.learnable import learnable_products
from tests.support.scripts import script


@pytest.fixture(scope="module")
def myntra():
    with script("myntra") as module:
        yield module


def table(*rows):
    return pa.Table.from_pylist([{"attributes": None, **row} for row in rows], schema=PRODUCTS)


def product(number, title, category="Apparel > Shirts", description=None, **attributes):
    return {
        "product_id": f"p{number}",
        "title": title,
        "description": description,
        "category": category,
        "attributes": list(attributes.items()),
    }


@pytest.mark.parametrize(
    ("value", "text", "left"),
    [
        ("Navy Blue", "Nike Men NAVY Blue Shoes", "Nike Men Shoes"),
        ("Navy Blue", "A navy-blue belt", "A - belt"),
        ("Red", "Reddish tones, reds, a red. Reduced, tired", "tones, , a . Reduced, tired"),
        ("Striped", "stripes, a stripe, striping", ", a ,"),
        ("Checked", "check shirt in checkered cotton", "shirt in cotton"),
        ("Printed", "Print on the front, prints", "on the front,"),
        ("Off White", "Offers an off-white hood", "Offers an - hood"),
        ("Grey", "gray or greyish", "or"),
        ("Self Design", "She has designed it herself", "She has it herself"),
    ],
)
def test_words_go_whole_with_their_inflections_and_in_any_case(value, text, left):
    assert without_words(text, words_of([value])) == left


def test_lines_and_absent_texts_stay():
    words = words_of(["Red"])
    assert without_words("Red shirt\nMade of red cotton", words) == "shirt\nMade of cotton"
    assert without_words(None, words) is None


def test_no_text_names_any_colour(myntra):
    products = table(
        product(0, "Red Shirt", description="Not blue at all", base_colour="Red", season="Fall"),
        product(1, "Shirt", description="Stripes", base_colour="Blue", Pattern="Striped", season="Fall"),
        product(2, "Blue", base_colour="Blue"),
        product(3, "Plain", description="An indigo tartan", base_colour="Red"),
    )
    derived, counts = derive(products, myntra.ASKED)
    assert derived["title"].to_pylist() == ["Shirt", "Shirt", "Shirts", "Plain"]  # never empty: the category then
    assert derived["description"].to_pylist() == ["Not at all", "", None, "An"]
    assert derived["attributes"] == products["attributes"]
    assert derived.schema == PRODUCTS
    assert counts.pop("words") > 100  # of all values, and of what else names a colour or pattern
    assert counts == {
        "products": 4,
        "title": 2,
        "description": 3,
        "either": 4,
        "with colour": 4,
        "with colour, named in the text": 2,
        "with pattern": 1,
        "with pattern, named in the text": 1,
    }
    assert named_in_text(products, myntra.ASKED) == {"colour": {"p0", "p2"}, "pattern": {"p1"}}


def test_bm25_reads_of_the_attributes_what_the_context_reads(myntra):
    said = {"base_colour": "Red", "season": "Fall", "Print or Pattern Type": "Striped", "gender": "Men"}
    recipe = load_recipe("myntra-engage")
    rows = myntra.without_unread(table(product(0, "Shirt", **said), product(1, "Hat")), recipe)["attributes"]
    assert rows.to_pylist() == [[("season", "Fall"), ("gender", "Men")], []]


def test_nobody_who_is_asked_for_teaches(myntra, tmp_path):
    write_market_toml(tmp_path, MarketConfig(name="made up"))
    rows = [product(n, "A", base_colour="Red", Pattern="Solid") for n in range(200)]
    pq.write_table(table(*rows), tmp_path / "products.parquet")
    market, recipe = Market.open(tmp_path), load_recipe("myntra-engage")
    learned, asked = set(learnable_products(market, recipe.pairs)), set(myntra.held_out(market, recipe)["product_id"])
    assert asked and not asked & learned
    assert len(asked) < 200 - len(learned)  # those that early stopping goes by teach nothing either


def test_every_held_out_product_with_the_values_answers(myntra):
    attributes = [
        {"base_colour": "Red"},
        {"base_colour": "Red", "Pattern": "Solid"},
        {"base_colour": "Red"},
        {"base_colour": "Blue"},
        {"base_colour": "Red"},  # learned from
    ]
    held = pl.DataFrame(
        [
            ("colour", "Red Shirts", "p0"),
            ("colour", "Red Shirts", "p1"),
            ("colour", "Red Shoes", "p2"),
            ("colour", "Blue Shirts", "p3"),
            ("pattern", "Solid Shirts", "p1"),
        ],
        schema=["kind", "query", "product_id"],
        orient="row",
    )
    named = {"colour": {"p0", "p3"}, "pattern": set()}
    questions = myntra.Questions.ask(held, [f"p{n}" for n in range(5)], attributes, named)
    assert questions.queries["query"].to_list() == ["Red Shirts", "Red Shoes", "Blue Shirts", "Solid Shirts"]
    assert questions.queries["value"].to_list() == ["Red", "Red", "Blue", "Solid"]
    assert questions.queries["crowd"].to_list() == [3, 1, 3, 1]  # held-out products of the category
    assert questions.groups.tolist() == [0, 0, 1, 2, 3]
    assert questions.products.tolist() == [0, 1, 2, 3, 1]
    assert {kind: rows.tolist() for kind, rows in questions.among.items()} == {"colour": [0, 1, 2, 3], "pattern": [1]}

    class Finds:
        def top(self, queries, k, among):
            found = np.full((len(queries), k), -1)
            found[:, 0] = among[0]
            return found

    recalls = questions.recall(Finds())
    assert recalls["recall@10 all"].tolist() == recalls["recall@100 all"].tolist() == [0.5, 0, 0, 1]
    np.testing.assert_array_equal(recalls["recall@10 named"], [1, np.nan, 0, np.nan])
    np.testing.assert_array_equal(recalls["recall@10 silent"], [0, 0, np.nan, 1])
    assert questions.best()["recall@10 all"].tolist() == [1, 1, 1, 1]
    np.testing.assert_array_equal(questions.best()["recall@100 named"], [1, np.nan, 1, np.nan])


def test_more_answers_than_ranks_cap_the_best_recall(myntra):
    held = pl.DataFrame({"kind": "colour", "query": "Red Shirts", "product_id": [f"p{n}" for n in range(40)]})
    named = {"colour": {"p0"}}
    questions = myntra.Questions.ask(held, [f"p{n}" for n in range(40)], [{"base_colour": "Red"}] * 40, named)
    for expected in (questions.best(), questions.of_category()):
        assert {name: recall_Q.tolist() for name, recall_Q in expected.items()} == {
            **{f"recall@10 {text}": [0.25] for text in ("all", "named", "silent")},
            **{f"recall@100 {text}": [1.0] for text in ("all", "named", "silent")},
        }


def test_the_test_is_the_recipes_own_split(myntra, tmp_path):
    rows = [
        product(n, "A", base_colour="Red" if n % 2 else "NA", **({"Pattern": "Solid"} if n % 3 else {}))
        for n in range(200)
    ]
    recipe = load_recipe("myntra-engage")
    write_market_toml(tmp_path, MarketConfig(name="made up"))
    pq.write_table(myntra.without_nothing(table(*rows)), tmp_path / "products.parquet")
    held = myntra.held_out(Market.open(tmp_path), recipe)
    assert set(held["query"]) == {"Red Shirts", "Solid Shirts"}
    colours = held.filter(pl.col("kind") == "colour")
    assert 5 <= len(colours) <= 30  # of 100
    assert set(colours["product_id"]) <= {f"p{n}" for n in range(1, 200, 2)}


def test_what_photos_add_is_paired_and_of_the_seeds_mean(myntra):
    held = pl.DataFrame(
        [("colour", "Red Shirts", "p0"), ("colour", "Blue Shirts", "p1"), ("pattern", "Solid Shirts", "p0")],
        schema=["kind", "query", "product_id"],
        orient="row",
    )
    values = [{"base_colour": "Red", "Pattern": "Solid"}, {"base_colour": "Blue"}]
    questions = myntra.Questions.ask(held, ["p0", "p1"], values, {"colour": {"p0"}, "pattern": set()})

    def recalls(*all_Q):
        """Of queries with one product each, of which the first one's text had named it."""
        found = {}
        for k in (10, 100):
            found |= {f"recall@{k} all": np.array(all_Q)}
            found |= {f"recall@{k} named": np.array([all_Q[0], np.nan, np.nan])}
            found |= {f"recall@{k} silent": np.array([np.nan, *all_Q[1:]])}
        return found

    with_photos = [recalls(1.0, 1.0, 0.0), recalls(1.0, 0.0, 0.0)]
    without = [recalls(0.5, 0.0, 0.0), recalls(0.5, 0.0, 0.0)]
    result = myntra.compare(questions, {"with": with_photos, "without": without})
    assert result["n"] == {
        "all": {"queries": 3, "pairs": 3},
        "colour": {"queries": 2, "pairs": 2, "products": 2},
        "pattern": {"queries": 1, "pairs": 1, "products": 1},
    }
    assert result["systems"]["with"]["colour"]["value"] == pytest.approx(0.75)
    assert result["systems"]["with"]["colour"]["seeds"] == [1.0, 0.5]
    assert result["photos_add"]["colour"]["value"] == pytest.approx(0.5)
    assert result["photos_add"]["colour"]["interval"] == pytest.approx((0.5, 0.5))  # both queries gain as much
    assert result["photos_add"]["pattern"]["value"] == 0
    assert [row["value"] for row in result["by_value"]] == ["Blue", "Red", "Solid"]
    assert [(row["kind"], row["crowd"], row["queries"]) for row in result["by_crowd"]] == [
        ("colour", 1, 2),
        ("pattern", 1, 1),
    ]
    texts = result["by_text"]
    assert {text: (own["queries"], own["pairs"]) for text, own in texts.items()} == {
        "all": (3, 3),
        "named": (1, 1),
        "silent": (2, 2),
    }
    assert texts["named"]["recall@100"]["with"]["value"] == 1
    assert texts["silent"]["recall@10"]["photos add"]["value"] == pytest.approx(0.25)
    assert "pretraining_adds" not in result
    scratch = [recalls(0.0, 1.0, 0.0), recalls(0.0, 0.0, 0.0)]
    pretrained = myntra.compare(questions, {"with": with_photos, "without": without, "scratch": scratch})
    assert pretrained["pretraining_adds"]["colour"]["value"] == pytest.approx(0.5)
    assert pretrained["by_text"]["silent"]["recall@10"]["pretraining adds"]["value"] == 0
    table = myntra.markdown({**pretrained, "recipe": {"name": "ours"}})
    assert "| what pretraining adds | +0.333" in table and "| `ours`, not pretrained |" in table
    rendered = myntra.markdown({**result, "recipe": {"name": "ours"}})
    assert "pretrain" not in rendered and "| what photos add | +0.333" in rendered
    assert "| `ours` without photos |" in rendered
    assert "recall@100, never named, n = 2" in rendered


def test_a_derived_market_of_other_products_is_refused(myntra, tmp_path):
    rows = [product(n, "A", base_colour="Red", Pattern="Solid") for n in range(100)]
    whole = tmp_path / "whole"
    whole.mkdir()
    write_market_toml(whole, MarketConfig(name="made up"))
    market, out = Market.open(whole), tmp_path / "derived"
    for _ in range(2):
        assert myntra._derived(market, table(*rows[:60]), out)[1]["products"] == 60
    with pytest.raises(MercatoError, match="60 products, not of 100"):
        myntra._derived(market, table(*rows), out)
    (out / "removal.json").write_text('{"products": 60}')
    with pytest.raises(MercatoError, match="withheld fewer words"):
        myntra._derived(market, table(*rows[:60]), out)


def test_without_photos_nothing_reads_them_before_the_stages_either(myntra):
    recipe = load_recipe("myntra-taobao")
    plain = myntra._without_photos(recipe)
    assert plain.product_tower.channels == ("title_text",) and plain.pretraining.channels == ("title_text",)
    assert plain.pretraining.qic == recipe.pretraining.qic and plain.stages == recipe.stages
