"""Which pairs a recipe trains on."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from mercato.config import CataloguePairs, Pairs
from mercato.data.importing import import_market
from mercato.data.market import Market, MarketConfig, write_market_toml
from mercato.data.pairs import catalogue_split, held_out_pairs, recipe_pairs, split_cutoff
from mercato.data.schema import JUDGMENTS, PAIRS, PRODUCTS
from mercato.errors import MercatoError


@pytest.fixture
def catalogue(tmp_path: Path) -> Market:
    rows = [
        f'{{"product_id": "p{i}", "title": "Thing {i}", "category": "Home > Lamps", "country": "gb",'
        f' "attributes": {{"colour": "{"red" if i % 2 else ""}"}}}}'
        for i in range(400)
    ]
    file = tmp_path / "products.jsonl"
    file.write_text("\n".join(rows))
    import_market(tmp_path / "market", [file])
    return Market.open(tmp_path / "market")


def from_catalogue(**source: object) -> Pairs:
    return Pairs(market=False, catalogue=(CataloguePairs.model_validate(source),))


def market_of(folder: Path, pairs: list[dict[str, Any]], products: list[dict[str, Any]]) -> Market:
    write_market_toml(folder, MarketConfig())
    pq.write_table(pa.Table.from_pylist(pairs, schema=PAIRS), folder / "pairs.parquet")
    pq.write_table(pa.Table.from_pylist(products, schema=PRODUCTS), folder / "products.parquet")
    return Market.open(folder)


def test_a_template_is_filled_where_a_product_has_all_its_fields(catalogue: Market) -> None:
    pairs = recipe_pairs(catalogue, from_catalogue(query="{colour} {category}", drop_fields=["title"]))
    assert set(pairs["query"]) == {"red Lamps"}  # of a category path the last step
    assert len(pairs) == 200  # the other half has no colour
    assert set(pairs["drop_fields"]) == {"title"}
    assert set(pairs["label"]) == {1}


def test_a_product_is_on_one_side_of_the_split_whatever_else_is_there(catalogue: Market) -> None:
    pairs = recipe_pairs(catalogue, from_catalogue(query="{title}"))
    side = dict(zip(pairs["product_id"], pairs["split"], strict=True))
    others = recipe_pairs(catalogue, from_catalogue(query="{colour} {title}"))
    assert all(side[product] == split for product, split in zip(others["product_id"], others["split"], strict=True))
    share = pairs["split"].value_counts().sort("split")
    assert share["split"].to_list() == ["future", "train", "validation"]
    assert share.filter(pl.col("split") == "train")["count"].item() == pytest.approx(320, abs=30)


def test_what_is_wrong_is_named(catalogue: Market) -> None:
    with pytest.raises(MercatoError, match="hold no engaged pair"):
        recipe_pairs(catalogue, from_catalogue(query="{size}"))
    with pytest.raises(MercatoError, match="has no pairs: run `mercato mine`"):
        recipe_pairs(catalogue, Pairs())
    with pytest.raises(ValidationError, match="must name a field"):
        CataloguePairs(query="sofa")
    with pytest.raises(ValidationError, match="the fewest come first"):
        CataloguePairs(query="{title}", words=(3, 2))


def test_a_field_that_no_product_has_leaves_out_that_template_alone(
    catalogue: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("mercato.data.pairs.note", said.append)
    sources = tuple(CataloguePairs(query=query) for query in ("{size}", "{category}"))
    assert set(recipe_pairs(catalogue, Pairs(market=False, catalogue=sources))["query"]) == {"Lamps"}
    assert len(said) == 1 and "no product has all the fields of {size}" in said[0]


def test_a_query_is_as_short_as_people_type(catalogue: Market) -> None:
    source = {"query": "{colour} lamp {title} for the {category}", "words": [2, 4]}
    pairs = recipe_pairs(catalogue, from_catalogue(**source))
    whole = recipe_pairs(catalogue, from_catalogue(query=source["query"]))
    for short, long in zip(pairs["query"], whole["query"], strict=True):
        assert f" {short} " in f" {long} "  # words in a row
    lengths = pairs["query"].str.split(" ").list.len()
    assert set(lengths) == {2, 3, 4}
    assert pairs.equals(recipe_pairs(catalogue, from_catalogue(**source)))  # the same tomorrow
    few = recipe_pairs(catalogue, from_catalogue(query="{category}", words=[2, 5]))
    assert few["query"].to_list() == ["Lamps"] * 400  # what has fewer is taken whole


def test_words_are_drawn_from_the_whole_text_and_for_each_product_anew(catalogue: Market) -> None:
    """And for each text."""
    pairs = recipe_pairs(catalogue, from_catalogue(query="one two three {category}", words=[1, 2]))
    drawn = Counter(pairs["query"])
    assert set(drawn) == {"one", "two", "three", "Lamps", "one two", "two three", "three Lamps"}
    assert min(drawn[one] for one in ("one", "Lamps")) == pytest.approx(400 / 8, rel=0.4)
    other = recipe_pairs(catalogue, from_catalogue(query="one two three {country}", words=[1, 2]))
    assert pairs["query"].str.replace("Lamps", "gb").to_list() != other["query"].to_list()


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_that_is_none_is_named_where_it_counts(catalogue: Market, weight: float) -> None:
    pairs = {"query": [*"abc"], "product_id": ["p1", "p2", "p3"], "label": [1] * 3, "weight": [None, weight, weight]}
    pl.DataFrame(pairs).write_parquet(catalogue.path / "pairs.parquet")
    assert len(recipe_pairs(catalogue, Pairs())) == 3
    with pytest.raises(MercatoError, match="row 1, column weight"):
        recipe_pairs(catalogue, Pairs(weight_power=0.5))


def test_pairs_of_before_there_were_counts_are_still_read(tmp_path: Path) -> None:
    (tmp_path / "market.toml").write_text("")
    old = {"query": ["lamp"], "product_id": ["p"], "label": [1], "weight": [2.0], "split": ["train"]}
    pq.write_table(pa.table(old), tmp_path / "pairs.parquet")
    (row,) = recipe_pairs(Market.open(tmp_path), Pairs()).to_dicts()
    assert (row["query"], row["weight"], row["depth"], row["position"], row["grade"]) == ("lamp", 2.0, None, None, None)


def test_the_market_s_pairs_come_before_those_of_every_template(tmp_path: Path) -> None:
    """What neither says is unknown, and a product without an id has none."""
    own = {"query": "lamp", "country": "gb", "product_id": "p1", "label": 1, "split": None, "weight": 3.0, "depth": 2}
    goods = [
        {"product_id": "p1", "title": "red lamp", "brand": "Lux", "country": "es"},
        {"product_id": "p2", "title": None, "brand": "Lux"},
        {"product_id": None, "title": "lamp", "brand": "Lux"},
    ]
    sources = (
        CataloguePairs(query="{title}", drop_fields=("title", "brand")),
        CataloguePairs(query="by {brand}, {brand}"),
    )
    pairs = recipe_pairs(market_of(tmp_path, [own], goods), Pairs(catalogue=sources, held_out=1e-9))
    said = ["query", "country", "product_id", "source", "drop_fields"]
    assert pairs.select(said).rows() == [
        ("lamp", "gb", "p1", "market", ""),
        ("red lamp", "es", "p1", "catalogue", "title brand"),
        ("by Lux, Lux", "es", "p1", "catalogue", ""),
        ("by Lux, Lux", None, "p2", "catalogue", ""),
    ]
    assert set(pairs["split"]) == {"train"} and set(pairs["label"]) == {1}
    unknown = pairs.select("grade", "weight", "last_seen", "depth", "position")
    assert unknown.rows() == [(None, 3.0, None, 2, None), *[(None,) * 5] * 3]


def test_a_category_is_its_last_step_and_other_fields_are_whole(tmp_path: Path) -> None:
    """A field of the product comes before an attribute of that name."""
    good = {"product_id": "p1", "title": "A > B", "category": "Home > Lamps", "attributes": [("title", "other")]}
    bare = {"product_id": "p2", "title": "C", "category": "Lamps", "attributes": None}
    blank = {"product_id": "p3", "title": "", "category": "Lamps"}  # as one that lacks it
    wanted = from_catalogue(query="{{new}} {title}: {category}!")
    assert recipe_pairs(market_of(tmp_path, [], [good, bare, blank]), wanted)["query"].to_list() == [
        "{new} A > B: Lamps!",
        "{new} C: Lamps!",
    ]


def test_only_engaged_pairs_of_the_train_split_are_something_to_learn_from(tmp_path: Path) -> None:
    left, later = ({"query": "lamp", "product_id": "p1", "label": label} for label in (0, 1))
    for rows in ([], [left], [later | {"split": "future"}, left]):
        with pytest.raises(MercatoError, match="hold no engaged pair"):
            recipe_pairs(market_of(tmp_path, rows, []), Pairs())
    with pytest.raises(MercatoError, match="hold no engaged pair"):
        recipe_pairs(market_of(tmp_path, [later], []), Pairs(market=False))
    nameless = [later, later | {"query": None}, later | {"query": None}]
    with pytest.raises(MercatoError, match="row 1, column query"):
        recipe_pairs(market_of(tmp_path, nameless, []), Pairs())


def test_the_shares_that_validate_and_test_are_those_that_were_asked_for() -> None:
    """And what is held out of few is held out of more."""
    for held_out in (0.05, 0.2):
        sides = Counter(catalogue_split(f"p{number}", held_out) for number in range(20_000))
        assert [sides["future"], sides["validation"]] == pytest.approx([20_000 * held_out] * 2, rel=0.1)
    assert all(
        catalogue_split(f"p{n}", 0.2) == "future" for n in range(999) if catalogue_split(f"p{n}", 0.1) == "future"
    )
    sides = [catalogue_split(product_id, 0.2) for product_id in ("p11", "p2", "p0")]
    assert sides == ["future", "validation", "train"], "on every machine"


def test_a_recipe_says_how_much_is_held_out(catalogue: Market) -> None:
    wanted = Pairs(market=False, catalogue=(CataloguePairs(query="{title}"),), held_out=0.3)
    pairs = recipe_pairs(catalogue, wanted)
    assert pairs["split"].to_list() == [catalogue_split(product_id, 0.3) for product_id in pairs["product_id"]]


def test_where_the_market_cannot_ask_the_first_template_does(catalogue: Market) -> None:
    sources = (CataloguePairs(query="{title}", drop_fields=("title",)), CataloguePairs(query="{category}"))
    pairs, dropped = held_out_pairs(catalogue, Pairs(catalogue=sources))
    assert pairs is not None and dropped == ("title",)
    assert set(pairs["query"]) == {f"Thing {number}" for number in range(400)}
    assert held_out_pairs(catalogue, Pairs()) == (None, ())
    for name, schema in (("pairs", PAIRS), ("judgments", JUDGMENTS)):
        file = catalogue.path / f"{name}.parquet"
        pq.write_table(pa.Table.from_pylist([], schema=schema), file)
        assert held_out_pairs(catalogue, Pairs(catalogue=sources)) == (None, ())
        file.unlink()


def test_a_split_ends_when_its_last_day_is_over(tmp_path: Path) -> None:
    """Pairs tell days; a moment that an older table tells stays."""
    day = datetime(2026, 3, 1, tzinfo=UTC)
    write_market_toml(tmp_path, MarketConfig())
    pq.write_table(pa.Table.from_pylist([], schema=PRODUCTS), tmp_path / "products.parquet")
    for seen, still in ((day, timedelta(days=1, microseconds=-1)), (day + timedelta(hours=9), timedelta(0))):
        rows = [{"query": "lamp", "product_id": "p", "label": 1, "split": "train", "last_seen": seen}]
        pq.write_table(pa.Table.from_pylist(rows, schema=PAIRS), tmp_path / "pairs.parquet")
        assert split_cutoff(Market.open(tmp_path), ["train"]) == seen + still


def test_a_split_without_days_ends_when_the_newest_listing_was_made(tmp_path: Path) -> None:
    """Pairs without a split are of the training days, and other splits' say nothing."""
    day, other = datetime(2026, 3, 1, 9, tzinfo=UTC), datetime(2026, 4, 1, 9, tzinfo=UTC)
    goods = [{"product_id": "p1", "created_at": day}, {"product_id": "p2", "created_at": day - timedelta(days=3)}]
    seen = [(None, day), ("train", day - timedelta(days=1)), ("future", other)]
    pairs = [{"query": "lamp", "product_id": "p1", "split": split, "last_seen": moment} for split, moment in seen]
    goods[0]["created_at"] = day + timedelta(hours=1)
    assert split_cutoff(market_of(tmp_path, pairs, goods), ["train"]) == day
    assert split_cutoff(market_of(tmp_path, pairs, goods), ["train", "future"]) == other
    assert split_cutoff(market_of(tmp_path, pairs, goods), ["validation"]) == day + timedelta(hours=1)
    market = market_of(tmp_path, [], goods)
    (market.path / "pairs.parquet").unlink()
    assert split_cutoff(market, ["train"]) == day + timedelta(hours=1)
    before = datetime.now(UTC)
    assert before <= split_cutoff(market_of(tmp_path, [], []), ["train"]) <= datetime.now(UTC)


def test_a_fraction_of_the_training_pairs_is_part_of_a_larger_one(tmp_path: Path) -> None:
    links = [
        {"query": f"q{i % 40}", "country": None, "product_id": f"p{i % 48}", "label": 1, "split": split}
        for split in ("train", "validation", "future")
        for i in range(400)
    ]
    market = market_of(tmp_path, links, [{"product_id": f"p{i}", "title": "Thing"} for i in range(48)])

    def kept(fraction: float) -> dict[str, set[tuple[str, str]]]:
        rows = recipe_pairs(market, Pairs(fraction=fraction)).select("split", "query", "product_id").rows()
        return {split: {(query, product) for own, query, product in rows if own == split} for split, _, _ in rows}

    whole, tenth, half = kept(1.0), kept(0.1), kept(0.5)
    assert tenth["train"] < half["train"] < whole["train"]
    assert len(half["train"]) / len(whole["train"]) == pytest.approx(0.5, abs=0.15)
    assert tenth["future"] == whole["future"] and tenth["validation"] == whole["validation"]
