"""Features logged with answers, from the search to what a ranker learns from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from mercato.config.ranking import Ranking
from mercato.data.checking import check
from mercato.data.market import Engagement, MarketConfig
from mercato.data.mining import mine
from mercato.ranking.dataset import displayed
from mercato.ranking.features import NAMES, UNLOGGED
from mercato.ranking.ranker import Ranker
from mercato.retrieval.open import open_index
from tests.support.ranked_catalogue import counts_of
from tests.support.served import WRITE, event, search, server, wait_until
from tests.support.small_market import TrigramEncoder

VERSION = "3 a run"
PRICES = [NAMES.index(name) for name in NAMES if name.startswith("price_of")]


class ByCosine:
    def run(self, _, inputs):
        return (inputs["features"][:, :1],)


@pytest.fixture
def statistics(market):
    with open_index(market.path / "index", read_only=True) as index:
        return counts_of(index)


@pytest.fixture
def ranker(statistics):
    return Ranker(statistics, ByCosine(), None, np.ones(1), Ranking(), features_version=VERSION)


def learned(market, statistics, version=None):
    """What a ranker would learn from, had all been clicked, list by list and by product."""
    lists = market.frame("lists").with_columns(depth=pl.lit(1, pl.Int64))
    with open_index(market.path / "index", read_only=True) as index:
        rows = displayed(lists, TrigramEncoder(), index, statistics, None, version)
    return rows.features_PF[np.lexsort([rows.ids_PT[:, 0], rows.lists_P])]


def test_what_was_logged_is_what_is_computed_until_something_changes(market, ranker, statistics):
    """A price, here. The list leads to no search, no place and no moment."""
    with server(market, ranker=ranker, logged=1.0) as client:
        page = search(client, query="red chair", page_size=8, location={"latitude": 51.5, "longitude": -0.1})
        shown = [hit["product"] for hit in page["hits"]]
        seen = [
            event("impression", query_id=page["query_id"], session_id="visit")
            | {"event_attributes": {"object": {"object_id": product["product_id"]}, "position": {"ordinal": at}}}
            for at, product in enumerate(shown, 1)
        ]
        assert client.post("/v1/events", json={"events": seen}).is_success
    features = market.frame("features")
    assert {*features["query_id"]} == {page["query_id"]} and {*features["ranked_by"]} == {"trees"}
    assert features["product_id"].to_list() == [product["product_id"] for product in shown]
    assert features["rank_score"].to_list() == [hit["rank_score"] for hit in page["hits"]]
    assert [str(problem) for problem in check(market.path) if problem.table == "features"] == []
    mine(replace(market, config=MarketConfig(engagement=Engagement(min_sessions=1))))
    lists = market.frame("lists")
    assert {*lists["features_version"]} == {VERSION} and len(lists) == 8
    assert page["query_id"] not in str(lists.to_dicts())
    told = np.array(lists["features"].to_list(), np.float32)
    assert np.isnan(told[:, [NAMES.index(name) for name in UNLOGGED]]).all()
    np.testing.assert_allclose(learned(market, statistics, VERSION), learned(market, statistics), rtol=1e-4)
    with server(market) as client:
        dearer = {name: shown[0][name] for name in ("product_id", "title", "category", "currency", "created_at")}
        body = {"products": [dearer | {"price": 10 * shown[0]["price"]}]}
        assert client.post("/v1/products", json=body, headers=WRITE).is_success
        wait_until(lambda: "mercato_outbox_depth 0.0" in client.get("/metrics").text)
    logged, computed = learned(market, statistics, VERSION), learned(market, statistics)
    (changed,) = np.flatnonzero((np.abs(logged - computed)[:, PRICES] > 0.1).any(axis=1))
    known = [place for place in PRICES if not np.isnan(logged[changed, place])]
    np.testing.assert_allclose((computed - logged)[changed, known], np.log(10), rtol=1e-4)


def test_a_search_is_answered_where_nothing_can_be_logged(market, ranker, monkeypatch):
    """A full disk, and no place among the writes."""

    def full(*_):
        raise OSError

    with server(market, ranker=ranker, logged=1.0) as client:
        with monkeypatch.context() as broken:
            broken.setattr("mercato.catalogue.row_log.RowLog.append", full)
            assert search(client, query="red chair")["ranked_by"] == "trees"
        assert search(client, query="red chair")["ranked_by"] == "trees"
        wait_until(lambda: market.has("features"))
    assert market.frame("features")["query_id"].n_unique() == 1


def test_nothing_is_logged_of_what_is_not_asked_for(market, ranker):
    with server(market, ranker=ranker, logged=0.0) as client:
        assert search(client, query="red chair")["ranked_by"] == "trees"
    assert not market.has("features")
