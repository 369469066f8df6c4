"""The golden set: of the validation split alone, drawn by strata, bounded, and the same for the same seed."""

from __future__ import annotations

import shutil
from collections import Counter

import polars as pl
import pytest

from mercato.data.market import Market
from mercato.data.normalize import normalize
from mercato.errors import MercatoError
from mercato.experiments.tuning import golden
from mercato.experiments.tuning.golden import LOGGED, GoldenSet


@pytest.fixture
def market(tiny_market, tmp_path):
    """A copy whose tables may be changed."""
    return Market.open(shutil.copytree(tiny_market.path, tmp_path / "market", ignore=shutil.ignore_patterns("truth")))


def rewrite(market, table, change):
    frame = change(pl.read_parquet(market.files(table)[0]))
    frame.write_parquet(market.files(table)[0])


def without(market, *tables):
    for table in tables:
        for file in market.files(table):
            file.unlink()
    return market


def test_it_holds_nothing_of_the_test_split(market):
    """Neither a judged query nor a grade of it, and of the log only what happened before its days."""
    found = GoldenSet.read(market)
    judgments, pairs = market.frame("judgments"), market.frame("pairs")
    tested = {normalize(query) for query in judgments.filter(pl.col("split") == "test")["query"]}
    assert tested and not tested & {normalize(each.query) for each in found.queries}
    graded = {
        (query, country, product)
        for query, country, product in judgments.filter(pl.col("split") == "validation")
        .select("query", "country", "product_id")
        .rows()
    }
    engaged = {
        (query, country, product)
        for query, country, product in pairs.filter((pl.col("split") == "validation") & (pl.col("label") == 1))
        .select("query", "country", "product_id")
        .rows()
    }
    assert {(each.query, each.country, p) for each in found.queries for p in each.grades} <= graded
    known = {(each.query, each.country, p) for each in found.queries for p in each.engaged}
    assert known and known <= engaged


def test_a_query_that_the_test_split_judges_too_is_left_out(market):
    """As the log asks for it on validation days."""
    (commonest,) = golden._searches(market).sort("searches", "query", descending=True)["query"].head(1)
    assert commonest in {each.query for each in GoldenSet.read(market).queries}
    rewrite(
        market,
        "judgments",
        lambda frame: pl.concat(
            [
                frame.filter(pl.col("query") != commonest),
                frame.head(1).with_columns(query=pl.lit(commonest.upper()), split=pl.lit("test")),
            ]
        ),
    )
    assert commonest not in {each.query for each in GoldenSet.read(market).queries}


def test_each_third_of_the_searches_gives_as_many_queries_as_it_can(market, monkeypatch):
    monkeypatch.setattr(golden, "LOG_QUERIES", 30)
    monkeypatch.setattr(golden, "JUDGED_QUERIES", 5)
    found = GoldenSet.read(market)
    counts = found.counts()
    assert sum(counts[stratum] for stratum in LOGGED) == 30 and counts["judged"] <= 5
    assert counts["tail"] >= 10 and counts["head"] <= 10
    searches = {(query, country): times for query, country, times in golden._searches(market).rows()}
    often = {
        stratum: [searches[each.query, each.country] for each in found.queries if each.stratum == stratum]
        for stratum in LOGGED
    }
    assert min(often["head"]) >= max(often["torso"]) >= min(often["torso"]) >= max(often["tail"])


def test_the_thirds_are_of_searches_not_of_queries():
    """Of one common query and many rare ones the common one alone is the head."""
    strata = Counter(golden._strata(pl.Series([50, 20, 20, 10] + [5] * 10)).tolist())
    assert strata == {0: 1, 1: 3, 2: 10}


def test_the_same_seed_draws_the_same(market):
    one, same, other = (GoldenSet.read(market, seed).queries for seed in (1, 1, 2))
    assert one == same and one != other


def test_a_search_stays_in_the_country_where_people_engaged(market):
    found = GoldenSet.read(market)
    countries = dict(market.frame("products", ["product_id", "country"]).rows())
    for each in found.queries:
        assert each.within == each.country == each.request.filters.country
        assert {countries[product] for product in found.products[each.within]} == {each.within}


def test_judgments_alone_and_a_log_alone_will_do(market):
    judged = GoldenSet.read(Market.open(without(market, "events", "pairs", "lists").path))
    assert judged.counts()["judged"] == len(judged.queries) > 0 and not any(each.engaged for each in judged.queries)
    assert {*judged.products} == {None} and len(judged.products[None]) == 300


def test_a_log_alone_will_do(market):
    logged = GoldenSet.read(Market.open(without(market, "judgments").path))
    assert logged.counts()["judged"] == 0 < len(logged.queries) and not any(each.grades for each in logged.queries)


def test_nothing_to_tune_by_is_refused(market):
    with pytest.raises(MercatoError, match="nothing to tune by"):
        GoldenSet.read(Market.open(without(market, "judgments", "events", "pairs", "lists").path))
