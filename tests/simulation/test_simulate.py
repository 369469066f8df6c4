"""Each mechanism of docs/simulation.md is present in the data: these fail where one is taken out."""

from __future__ import annotations

import io
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from mercato.data.market import Market
from mercato.errors import MercatoError
from mercato.simulation import simulate as simulation
from mercato.simulation.engine import tokens
from mercato.simulation.language import _ADJECTIVES as ADJECTIVES
from mercato.simulation.ontology import TYPES
from mercato.simulation.simulate import Size, simulate

NEAR = {(kind.key, other) for kind in TYPES for other in kind.near}


@pytest.fixture(scope="module")
def products(simulated: Market) -> pl.DataFrame:
    columns = ["product_id", "title", "description", "category", "price", "condition", "created_at", "country"]
    columns += ["language", "latitude", "longitude", "seller_rating", "images"]
    truth = pl.read_parquet(simulated.path / "truth" / "products.parquet").rename({"condition": "true_condition"})
    said = [[value for _, value in some or []] for some in simulated.arrow("products")["attributes"].to_pylist()]
    frame = simulated.frame("products", columns).with_columns(said=pl.Series(said, dtype=pl.List(pl.String)))
    return frame.join(truth, on="product_id", maintain_order="left")


@pytest.fixture(scope="module")
def wishes(simulated: Market) -> pl.DataFrame:
    return pl.read_parquet(simulated.path / "truth" / "queries.parquet")


@pytest.fixture(scope="module")
def shown(simulated: Market, products: pl.DataFrame, wishes: pl.DataFrame) -> pl.DataFrame:
    """Every impression with its product, its wish and what came of it."""
    events = simulated.frame("events")
    key = ["query_id", "product_id"]

    def did(action: str) -> pl.DataFrame:
        return events.filter(pl.col("action_name") == action).select(*key, pl.col("timestamp").alias(action))

    shown = events.filter(pl.col("action_name") == "impression")
    for action in ("click", "message", "seller_reply"):
        shown = shown.join(did(action), on=key, how="left")
    shown = shown.join(products.drop("country", "images"), on="product_id", suffix="_product")
    shown = shown.join(
        wishes.select(pl.col("query").alias("user_query"), "country", "kind", "lexical_matches", wanted="type"),
        on=["user_query", "country"],
    )
    return shown.with_columns(
        right=pl.col("types").list.contains(pl.col("wanted")),
        km=111.2
        * (
            (pl.col("latitude") - pl.col("latitude_product")) ** 2
            + (pl.col("longitude") - pl.col("longitude_product")) ** 2
        ).sqrt(),
    )


def rate(frame: pl.DataFrame, of: str) -> float:
    return frame[of].is_not_null().mean()


# --- the catalogue


def test_texts_leave_out_what_the_image_shows(products: pl.DataFrame) -> None:
    one = products.filter(pl.col("types").list.len() == 1)
    assert 0.35 < one["text_says_colour"].mean() < 0.65
    columns = {"en": 0, "es": 1, "fr": 2, "de": 3}
    for row in one.iter_rows(named=True):
        words = ADJECTIVES[row["colour"]][columns[row["language"]]].lower().replace("/", "|").split("|")
        text = f"{row['title']} {row['description'] or ''}".lower()
        if not row["text_says_colour"]:
            assert row["colour"] not in row["said"]
            assert not set(words) & set(tokens(text)) or row["colour"] in ("orange", "pink", "brown"), text


def test_listings_miss_fields_as_sellers_do(products: pl.DataFrame) -> None:
    assert 0.15 < products["description"].is_null().mean() < 0.35
    assert 0.08 < products["condition"].is_null().mean() < 0.30
    assert 0.03 < products["category"].is_null().mean() < 0.20
    no_image = (products["images"].list.len() == 0).mean()
    assert 0.01 < no_image < 0.12
    assert products["images"].list.len().max() == 5


def test_sellers_write_in_their_own_language_and_sometimes_another(products: pl.DataFrame) -> None:
    home = {"us": "en", "gb": "en", "es": "es", "mx": "es", "fr": "fr", "de": "de"}
    assert set(products["country"]) == set(home)
    other = (products["language"] != products["country"].replace_strict(home)).mean()
    assert 0.01 < other < 0.15


def test_synonyms_make_words_miss(products: pl.DataFrame) -> None:
    """Many listings of a type do not carry the commonest word for it."""
    english = products.filter((pl.col("language") == "en") & (pl.col("types").list.len() == 1))
    names = {kind.key: kind.names["en"][0].lower() for kind in TYPES}
    lacking = [names[row["type"]] not in row["title"].lower() for row in english.iter_rows(named=True)]
    assert 0.25 < np.mean(lacking) < 0.75


def test_garage_sales_hold_several_things(products: pl.DataFrame) -> None:
    several = products.filter(pl.col("types").list.len() > 1)
    assert 0.01 < len(several) / len(products) < 0.10
    assert (several["images"].list.len() == several["types"].list.len()).all()
    assert all(kind.names["en"][0] not in title for title in several["title"] for kind in TYPES)


def test_images_open(products: pl.DataFrame) -> None:
    for images in products["images"].head(20):
        for image in images:
            assert Image.open(io.BytesIO(image["bytes"])).size == (160, 160)


def test_prices_follow_condition_and_fairness(products: pl.DataFrame) -> None:
    base = {kind.key: kind.price for kind in TYPES}
    one = products.filter(
        (pl.col("types").list.len() == 1) & (pl.col("country") == "us") & pl.col("price").is_not_null()
    )
    ratio = one.with_columns(log=(pl.col("price") / pl.col("type").replace_strict(base)).log())
    new, worn = (
        ratio.filter(pl.col("true_condition").is_in(c))["log"].mean() for c in (["new", "like_new"], ["fair", "worn"])
    )
    assert new > worn + 0.5
    assert ratio.select(pl.corr("log", "unfairness")).item() > 0.25
    assert 0.04 < (products["unfairness"] > 0.55).mean() < 0.20


def test_ids_and_order_tell_nothing(products: pl.DataFrame) -> None:
    kinds = products["type"].to_list()
    chance = sum((np.array(kinds) == kind).mean() ** 2 for kind in set(kinds))
    neighbours = np.mean([a == b for a, b in pairwise(kinds)])
    by_id = products.sort("product_id")["type"].to_list()
    neighbours_by_id = np.mean([a == b for a, b in pairwise(by_id)])
    assert max(neighbours, neighbours_by_id) < chance + 0.035


# --- demand and display


def test_queries_are_head_heavy_with_a_long_tail(simulated: Market) -> None:
    searches = simulated.frame("events").filter(pl.col("action_name") == "search")
    counts = searches.group_by("user_query", "country").len()["len"].sort(descending=True).to_numpy()
    assert counts[: len(counts) // 10].sum() > 0.3 * counts.sum()
    assert (counts < 3).mean() > 0.3


def test_some_queries_are_misspelled_or_foreign_or_share_no_word(wishes: pl.DataFrame) -> None:
    def share(frame: pl.Expr) -> float:
        return wishes.filter(frame)["weight"].sum()

    home = {"us": "en", "gb": "en", "es": "es", "mx": "es", "fr": "fr", "de": "de"}
    assert 0.03 < share(pl.col("misspelled")) < 0.2
    assert 0.02 < share(pl.col("language") != pl.col("country").replace_strict(home)) < 0.15
    assert 0.02 < share(pl.col("lexical_matches") == 0) < 0.35
    assert 0.2 < share(pl.col("kind") != "type") < 0.7


def test_every_query_has_its_intent_which_is_the_wish_behind_it(simulated: Market, wishes: pl.DataFrame) -> None:
    intents = simulated.frame("intents")
    assert intents.select("query", "country").is_unique().all()
    asked = simulated.frame("events").select("user_query", "country").unique()
    judged = simulated.frame("judgments").select(pl.col("query").alias("user_query"), "country").unique()
    for queries in (asked, judged):
        assert queries.join(
            intents, left_on=["user_query", "country"], right_on=["query", "country"], how="anti"
        ).is_empty()
    hidden = ["type", "colour", "pattern", "material", "brand", "size"]
    both = wishes.join(intents, on=["query", "country"], validate="1:1").select("intent", *hidden)
    wish = pl.concat_str(*(pl.col(name).fill_null("") for name in hidden), separator="|")
    same = both.select("intent", wish=wish).unique()
    assert same["intent"].is_unique().all() and same["wish"].is_unique().all()
    assert len(same) < len(intents) / 3  # spellings and countries share one
    lamp = both.filter((pl.col("colour").is_not_null()) & (pl.col("material").is_null())).row(0, named=True)
    assert lamp["intent"].startswith(f"{lamp['type']} colour={lamp['colour']}")


def test_the_engine_matches_words_but_not_only(shown: pl.DataFrame) -> None:
    few = shown.filter(pl.col("lexical_matches") > 8).head(6_000)
    words = [
        bool(set(tokens(row["user_query"])) & set(tokens(f"{row['title']} {row['description'] or ''}")))
        for row in few.select("user_query", "title", "description").iter_rows(named=True)
    ]
    assert 0.45 < np.mean(words) < 0.9


def test_a_query_that_matches_no_word_still_shows_things(shown: pl.DataFrame) -> None:
    lost = shown.filter(pl.col("lexical_matches") == 0)
    assert len(lost) > 100
    assert 0.1 < lost["right"].mean() < 0.9


def test_freshness_and_nearness_move_the_display(shown: pl.DataFrame, products: pl.DataFrame) -> None:
    top, low = shown.filter(pl.col("position") <= 3), shown.filter(pl.col("position") >= 8)
    assert top["km"].median() < low["km"].median()
    age = (shown["timestamp"] - shown["created_at"]).dt.total_hours()
    assert (age >= 0).all()


# --- behaviour


def test_position_bias(shown: pl.DataFrame) -> None:
    right = shown.filter(pl.col("right") & (pl.col("kind") == "type"))
    first, later = (rate(right.filter(which), "click") for which in (pl.col("position") <= 2, pl.col("position") >= 9))
    assert first > 1.25 * later


def test_clicks_need_relevance(shown: pl.DataFrame) -> None:
    right = rate(shown.filter(pl.col("right") & (pl.col("kind") == "type")), "click")
    wrong = rate(shown.filter(~pl.col("right")), "click")
    assert right > 4 * wrong > 0


def test_clicks_need_the_colour_even_where_only_the_image_shows_it(shown: pl.DataFrame, wishes: pl.DataFrame) -> None:
    coloured = wishes.filter(pl.col("kind") == "colour").select(
        pl.col("query").alias("user_query"), "country", asked="colour"
    )
    some = shown.join(coloured, on=["user_query", "country"]).filter(pl.col("right") & ~pl.col("text_says_colour"))
    some = some.filter(pl.col("types").list.len() == 1)
    match, other = (
        rate(some.filter(which), "click")
        for which in (pl.col("asked") == pl.col("colour"), pl.col("asked") != pl.col("colour"))
    )
    assert match > 1.7 * other


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (pl.col("unfairness") < -0.1, pl.col("unfairness") > 0.2),
        (pl.col("true_condition").is_in(["new", "like_new"]), pl.col("true_condition").is_in(["fair", "worn"])),
        (pl.col("km") < 25, pl.col("km") > 300),
        (pl.col("seller_rating") >= 4.7, pl.col("seller_rating") <= 4.1),
    ],
    ids=["price", "condition", "distance", "seller"],
)
def test_messages_depend_on_more_than_relevance(shown: pl.DataFrame, better: pl.Expr, worse: pl.Expr) -> None:
    clicked = shown.filter(pl.col("click").is_not_null() & pl.col("right"))
    assert len(clicked.filter(better)) > 100 and len(clicked.filter(worse)) > 100
    assert rate(clicked.filter(better), "message") > rate(clicked.filter(worse), "message") + 0.04


def test_the_chain_is_in_order_and_some_replies_are_late(shown: pl.DataFrame) -> None:
    answered = shown.filter(pl.col("seller_reply").is_not_null())
    assert (answered["timestamp"] < answered["click"]).all()
    assert (answered["click"] < answered["message"]).all()
    assert (answered["message"] < answered["seller_reply"]).all()
    late = ((answered["seller_reply"] - answered["timestamp"]).dt.total_hours() >= 24).mean()
    assert 0.01 < late < 0.15
    assert 0.5 < len(answered) / shown["message"].is_not_null().sum() < 0.95


def test_weeks_have_a_rhythm(simulated: Market) -> None:
    searches = simulated.frame("events").filter(pl.col("action_name") == "search")["timestamp"]
    assert searches.max() - searches.min() > pl.Series([30 * 86_400_000_000], dtype=pl.Duration("us"))[0]
    day = searches.dt.weekday()
    weekend = (day >= 6).sum() / 2
    weekdays = (day <= 4).sum() / 4
    assert weekend > 1.15 * weekdays
    hours = searches.dt.hour()
    assert ((hours >= 18) & (hours < 22)).sum() > 3 * (hours < 4).sum()


# --- raters


@pytest.fixture(scope="module")
def judged(simulated: Market, products: pl.DataFrame, wishes: pl.DataFrame) -> pl.DataFrame:
    judged = simulated.frame("judgments").join(products.drop("country", "images"), on="product_id")
    return judged.join(
        wishes.rename({"type": "wanted", "colour": "asked"}).select("query", "country", "kind", "wanted", "asked"),
        on=["query", "country"],
    )


def test_judgments_come_in_two_splits_that_share_no_query(judged: pl.DataFrame) -> None:
    by_split = {split[0]: set(frame["query"]) for split, frame in judged.group_by("split")}
    assert set(by_split) == {"validation", "test"}
    assert not by_split["validation"] & by_split["test"]
    assert len(by_split["test"]) > 2 * len(by_split["validation"])
    assert set(judged["grade"]) == {0.0, 0.5, 1.0}
    assert not judged.select("query", "country", "product_id").is_duplicated().any()


def test_raters_follow_the_guideline_and_err_a_little(judged: pl.DataFrame) -> None:
    one = judged.filter(pl.col("types").list.len() == 1)
    relation = [
        "right" if wanted == kind else "near" if {(wanted, kind), (kind, wanted)} & NEAR else "far"
        for wanted, kind in one.select("wanted", "type").iter_rows()
    ]
    one = one.with_columns(relation=pl.Series(relation))
    plain = one.filter(pl.col("kind") == "type")
    expected = {"right": 1.0, "near": 0.5, "far": 0.0}
    for relation, grade in expected.items():
        assert (plain.filter(pl.col("relation") == relation)["grade"] == grade).mean() > 0.85
    errors = pl.concat([plain, one.filter((pl.col("relation") == "far") & (pl.col("kind") != "type"))])
    wrong = (errors["grade"] != errors["relation"].replace_strict(expected)).mean()
    assert 0.01 < wrong < 0.08


def test_raters_look_at_the_image(judged: pl.DataFrame) -> None:
    coloured = judged.filter(
        (pl.col("kind") == "colour") & (pl.col("type") == pl.col("wanted")) & ~pl.col("text_says_colour")
    )
    match = coloured.filter(pl.col("asked") == pl.col("colour"))["grade"].mean()
    other = coloured.filter(pl.col("asked") != pl.col("colour"))["grade"].mean()
    assert match > 0.8 and other < 0.6


def test_raters_ignore_the_price(judged: pl.DataFrame) -> None:
    right = judged.filter(pl.col("types").list.contains(pl.col("wanted")) & (pl.col("kind") == "type"))
    fair, unfair = (
        right.filter(which)["grade"].mean() for which in (pl.col("unfairness") < 0, pl.col("unfairness") > 0)
    )
    assert abs(fair - unfair) < 0.06


# --- the whole


def test_the_market_is_whole(simulated: Market) -> None:
    assert simulated.config.relevant_grade == 1.0
    assert simulated.config.engagement.chain == ("search", "click", "message", "seller_reply")
    ids = set(simulated.frame("products", ["product_id"])["product_id"])
    assert len(ids) == 300
    assert set(simulated.frame("judgments")["product_id"]) <= ids
    assert set(simulated.frame("events", ["product_id"])["product_id"].drop_nulls()) <= ids


def test_the_same_seed_gives_the_same_market(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(simulation.SIZES, "tiny", Size(products=50, types=6, intents=8, sessions=60, judged_queries=4))
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        simulate(tmp_path / name, "tiny", seed)
    one, same, other = (Market.open(tmp_path / name) for name in "abc")
    for table in ("products", "events", "judgments"):
        assert one.arrow(table).equals(same.arrow(table))
        assert not one.arrow(table).equals(other.arrow(table))


def test_workers_draw_what_this_process_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(simulation.SIZES, "tiny", Size(products=40, types=6, intents=8, sessions=60, judged_queries=4))
    simulate(tmp_path / "alone", "tiny", 1)
    monkeypatch.setattr(simulation, "_PART", 25)
    simulate(tmp_path / "pool", "tiny", 1)
    alone, pool = Market.open(tmp_path / "alone"), Market.open(tmp_path / "pool")
    assert len(pool.files("products")) == 2
    assert alone.arrow("products").equals(pool.arrow("products"))


def test_an_unknown_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MercatoError, match="tiny, demo, study"):
        simulate(tmp_path / "market", "huge", 0)
    assert not (tmp_path / "market").exists()


def test_a_script_from_stdin_simulates_without_workers(tmp_path: Path) -> None:
    """Worker processes cannot import a main module that has no file; the images are then drawn in the one that can."""
    script = (
        "import sys, pathlib, mercato.simulation.simulate as s; s._PART = 20;"
        "s.SIZES['tiny'] = s.Size(products=30, types=6, intents=8, sessions=60, judged_queries=4);"
        "s.simulate(pathlib.Path(sys.argv[1]), 'tiny', 1)"
    )
    subprocess.run([sys.executable, "-", str(tmp_path / "market")], input=script, text=True, check=True)
    assert len(Market.open(tmp_path / "market").files("products")) == 2


def test_a_folder_of_other_things_and_a_file_are_never_replaced(tmp_path: Path) -> None:
    precious = tmp_path / "precious" / "thesis.txt"
    precious.parent.mkdir()
    precious.write_text("years of work")
    for target in (precious, precious.parent):
        with pytest.raises(MercatoError, match=r"(?i)give a new"):
            simulate(target, "tiny", 0)
    assert precious.read_text() == "years of work"
