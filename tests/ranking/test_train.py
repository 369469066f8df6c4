"""`mercato rank` on the tiny market: what it leaves in the run, what it refuses, and what serves it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from mercato.catalogue.indexing import index_market
from mercato.data.market import Market
from mercato.data.pairs import split_cutoff
from mercato.errors import MercatoError
from mercato.evaluation.dataset import EARLIER
from mercato.ranking import train as training
from mercato.ranking.features import NAMES, Asked, features
from mercato.ranking.ranker import CARD, DLRM, FOLDER, STATISTICS, TREES, Ranker, predicted
from mercato.ranking.train import Lessons, rank
from mercato.reports.ranking import summary
from mercato.retrieval.expression import Expression
from mercato.retrieval.open import build_index, open_index
from mercato.runs.folder import RECIPE, load_recipe_and_featurizer
from mercato.runs.onnx_encoder import OnnxEncoder
from tests.support.heads import add_head


@pytest.fixture(scope="module")
def run(tiny_run, tiny_market, tmp_path_factory):
    """A run of this module's own, to write to, whose recipe suits so small a log, with a head that nobody trained."""
    run = shutil.copytree(tiny_run, tmp_path_factory.mktemp("ranked") / "run")
    add_head(run, ["red dress", *tiny_market.frame("lists")["query"].unique().sort().to_list()])
    recipe = load_recipe_and_featurizer(run)[0]
    trees, dlrm = recipe.ranking.trees, recipe.ranking.dlrm
    ranking = recipe.ranking.model_copy(
        update={
            "trees": trees.model_copy(update={"least_rows": 5}),
            "dlrm": dlrm.model_copy(update={"epochs": 3, "best": 20}),
            "relevance_bound": 1.0,
        }
    )
    (run / RECIPE).write_text(recipe.model_copy(update={"ranking": ranking}).toml())
    return run


@pytest.fixture(scope="module")
def index(run, tiny_market, tmp_path_factory):
    url = str(tmp_path_factory.mktemp("ranked") / "index")
    index_market(run, tiny_market, url, as_of=split_cutoff(tiny_market, EARLIER["test"]))
    return url


@pytest.fixture(scope="module")
def ranked(run, tiny_market, index):
    return rank(run, tiny_market, index)


def test_the_run_holds_a_ranker_that_orders_hits(ranked, run, tiny_market, index):
    ranker = Ranker.of_run(run)
    expression = Expression(vector=OnnxEncoder(run).encode_queries(["red dress"], "us")[0], text="red dress")
    with open_index(index, read_only=True) as opened:
        hits = opened.search(expression, 50)
        ranked = ranker.rank(Asked("red dress", split_cutoff(tiny_market, EARLIER["test"])), hits).stages
        assert [*ranked] == ["trees", "dlrm"]
        for scores in ranked.values():
            assert scores.shape == (len(hits),) and np.isfinite(scores).all() and len(np.unique(scores)) > len(hits) / 4


def test_it_says_how_it_orders_beside_the_cosine(ranked, run):
    """The same candidates in both orders; engaged pairs and lists of the future, judgments of the test split."""
    told = ranked.as_dict()
    for part in ("engagement", "lists", "relevance", "knn"):
        assert told[part].keys() == told["baselines"]["cosine"][part].keys()
        assert told["n"][part]["split"] in ("future", "test")
    assert told["intervals"]["differences"]["cosine"]["lists"]["ndcg_ips"]
    for goes_by, names in (("gains", {*NAMES}), ("shap", {*NAMES}), ("network", {*NAMES, "trees", "id of product"})):
        assert names <= told[goes_by].keys() and sum(told[goes_by].values()) == pytest.approx(1)
        assert [*told[goes_by].values()] == sorted(told[goes_by].values(), reverse=True)
    assert [step["step"] for step in told["calibration"]] == ["click", "message", "seller_reply"]
    for step in told["calibration"]:
        assert step["first"]["rows"] > 100 and 0 <= step["first"]["ece"] <= 1
    told_of_first = [step["first"]["told"] for step in told["calibration"]]
    assert told_of_first == sorted(told_of_first, reverse=True), "no later step is likelier"
    left = told.keys() - {"gains", "shap", "network"}
    assert json.loads((run / FOLDER / "metrics.json").read_text()) == {name: told[name] for name in left}
    assert len(summary(ranked).renderables) == 4


def test_the_same_log_makes_the_same_ranker(ranked, run, tiny_market, index):
    files = {name: (run / FOLDER / name).read_bytes() for name in (CARD, "trees.onnx", "metrics.json")}
    assert rank(run, tiny_market, index).as_dict() == ranked.as_dict()
    assert files == {name: (run / FOLDER / name).read_bytes() for name in files}
    assert sorted(file.name for file in run.glob(".*")) == [], "nothing half done is left"


def test_what_the_future_holds_teaches_nothing(ranked, run, tiny_market, index, tmp_path):
    """With every later click turned over both models and all counts are the same, and only the figures differ."""
    market = Market.open(shutil.copytree(tiny_market.path, tmp_path / "market"))
    lists = market.frame("lists")
    later = pl.col("split") == "future"
    turned = pl.when(later).then(3 - pl.col("depth")).otherwise(pl.col("depth"))
    lists.with_columns(depth=turned.cast(pl.Int64)).write_parquet(market.path / "lists.parquet")
    before = left(run)
    again = rank(run, market, index)
    assert left(run) == before and all(before["statistics.npz"].values())
    assert again.as_dict()["lists"] != ranked.as_dict()["lists"]


def left(run):
    """What a ranking left in a run, the counts table by table."""
    with np.load(run / FOLDER / STATISTICS) as counted:
        statistics = {name: counted[name].tobytes() for name in counted.files}
    return {name: (run / FOLDER / name).read_bytes() for name in (TREES, DLRM, CARD)} | {STATISTICS: statistics}


def test_what_teaches_is_neither_counted_nor_known_to_the_towers(run, tiny_market, index, tmp_path, monkeypatch):
    """Lists of the validation split, by the counts of what came before it, whatever became of them."""

    def told(turn):
        market = Market.open(shutil.copytree(tiny_market.path, tmp_path / turn))
        lists = market.frame("lists")
        turned = pl.when(pl.col("split") == turn).then(3 - pl.col("depth")).otherwise(pl.col("depth"))
        lists.with_columns(depth=turned.cast(pl.Int64)).write_parquet(market.path / "lists.parquet")
        seen = {}

        def displayed(lists, _encoder, _index, statistics, *_):
            seen.update(splits={*lists["split"]}, rows=lists.sort(lists.columns), statistics=statistics)
            raise StopIteration

        monkeypatch.setattr(training, "displayed", displayed)
        with pytest.raises(StopIteration):
            rank(run, market, index)
        return seen

    plain, validation, train = (told(turn) for turn in ("nothing", "validation", "train"))
    assert {*plain["splits"]} == {"validation"}
    assert train["rows"].equals(plain["rows"]) and not validation["rows"].equals(plain["rows"])
    for name in ("products", "query_categories", "queries"):
        tables = [getattr(seen["statistics"], name).values_nV for seen in (plain, validation, train)]
        np.testing.assert_array_equal(tables[0], tables[1])
        assert name == "queries" or (tables[0] != tables[2]).any()


def test_what_a_rule_pinned_neither_teaches_nor_is_counted(run, tiny_market, index, tmp_path, monkeypatch):
    """As if it had not been shown; what exploration placed does both."""

    def told(name, lists):
        market = Market.open(shutil.copytree(tiny_market.path, tmp_path / name))
        lists.write_parquet(market.path / "lists.parquet")
        seen = {}

        def displayed(lists, _encoder, _index, statistics, *_):
            seen.update(rows=lists.drop("placed_by"), statistics=statistics)
            raise StopIteration

        monkeypatch.setattr(training, "displayed", displayed)
        with pytest.raises(StopIteration):
            rank(run, market, index)
        return seen

    third = pl.col("product_id").hash(0) % 3
    placed_by = pl.when(third == 0).then(pl.lit("pin")).when(third == 1).then(pl.lit("exploration")).alias("placed_by")
    lists = tiny_market.frame("lists")
    pinned, without = told("pinned", lists.with_columns(placed_by)), told("without", lists.filter(third > 0))
    assert len(pinned["rows"]) and pinned["rows"].equals(without["rows"])
    for name in ("products", "query_categories", "queries"):
        tables = [getattr(seen["statistics"], name).values_nV for seen in (pinned, without)]
        np.testing.assert_array_equal(*tables)


def test_the_head_is_read_as_the_ranker_learns_is_measured_and_serves(ranked, run, tiny_market, index, monkeypatch):
    seen = {}

    def measured(ranker, *_):
        seen["measured"] = ranker
        raise StopIteration

    def fit(learned, *rest):
        seen.setdefault("learned", learned)
        return gbdt_fit(learned, *rest)

    gbdt_fit = training.gbdt.fit
    monkeypatch.setattr(training.gbdt, "fit", fit)
    monkeypatch.setattr(training, "_measured", measured)
    with pytest.raises(StopIteration):
        rank(run, tiny_market, index)
    assert np.isfinite(seen["learned"].features_PF[:, NAMES.index("head")]).all()
    encoder = OnnxEncoder(run)
    with open_index(index, read_only=True) as opened:
        hits = opened.search(Expression(vector=encoder.encode_queries(["red dress"], "us")[0], text="red dress"), 50)
        asked = Asked("red dress", split_cutoff(tiny_market, EARLIER["test"]))
        rows = features(asked, hits, seen["measured"].statistics, encoder.query_head)
        served = Ranker.of_run(run)
        for ranker in (seen["measured"], served):
            np.testing.assert_array_equal(ranker.rank(asked, hits).stages["trees"], predicted(served.first, rows))
    blind = rows.copy()
    blind[:, NAMES.index("head")] = np.nan
    assert (predicted(served.first, rows) != predicted(served.first, blind)).any()


def test_relevance_is_held_by_what_was_known_before_the_lists_that_teach(run, tiny_market, index, monkeypatch):
    """As those were counted when it learned: validation judgments were made beside them."""
    seen = {}

    def displayed(lists, encoder, index, statistics, *rest):
        seen["before"] = statistics
        return learned(lists, encoder, index, statistics, *rest)

    def check(ranker, *_):
        seen["held by"] = ranker.statistics
        raise StopIteration

    learned = training.displayed
    monkeypatch.setattr(training, "displayed", displayed)
    monkeypatch.setattr(training, "_check_relevance", check)
    with pytest.raises(StopIteration):
        rank(run, tiny_market, index)
    assert seen["held by"] is seen["before"]


def test_what_was_logged_teaches_in_place_of_what_is_computed(ranked, run, tiny_market, index, tmp_path):
    """Of features of this version and run, and no others."""
    market = Market.open(shutil.copytree(tiny_market.path, tmp_path / "market"))
    lists = market.frame("lists")
    random = np.random.default_rng(0).random((len(lists), len(NAMES))).astype(np.float32)
    (own,) = {Ranker.of_run(run).features_version}
    gains = []
    for version in (own, "2" + own[1:], own + "0"):
        told = lists.with_columns(features=pl.Series([*random]), features_version=pl.lit(version))
        told.cast({"features": pl.List(pl.Float32)}).write_parquet(market.path / "lists.parquet")
        gains.append(rank(shutil.copytree(run, tmp_path / version), market, index).gains)
    assert gains[0] != ranked.gains and gains[1:] == [ranked.gains] * 2


def test_an_order_that_loses_relevance_is_not_written(ranked, run, tiny_market, index, tmp_path, monkeypatch):
    """More than the recipe allows, on validation judgments."""
    before = left(run)
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / RECIPE).write_text((copy / RECIPE).read_text().replace("relevance_bound = 1.0", "relevance_bound = 0.04"))
    monkeypatch.setattr(training, "per_query_roc_auc", lambda *_: np.array([scores.pop()]))
    scores = [0.80, 0.85]  # the ranked order's, after the cosine's
    with pytest.raises(MercatoError, match=r"loses 0\.050 of the relevance .* ranking\.relevance_bound is 0\.04"):
        rank(copy, tiny_market, index)
    assert left(copy) == before


def test_without_the_cosine_no_cosine_changes_the_order(run, tiny_market, index, tmp_path):
    """In either stage, and the ranker is the same whatever the cosines were that it might have learned from."""
    copy = shutil.copytree(run, tmp_path / "run")
    recipe = load_recipe_and_featurizer(copy)[0]
    ranking = recipe.ranking.model_copy(update={"without": ("cosine",)})
    (copy / RECIPE).write_text(recipe.model_copy(update={"ranking": ranking}).toml())
    told = rank(copy, tiny_market, index).as_dict()
    assert told["gains"]["cosine"] == told["shap"]["cosine"] == told["network"]["cosine"] == 0
    ranker, encoder = Ranker.of_run(copy), OnnxEncoder(copy)
    asked = Asked("red dress", split_cutoff(tiny_market, EARLIER["test"]))
    expression = Expression(vector=encoder.encode_queries(["red dress"], "us")[0], text="red dress")
    with open_index(index, read_only=True) as opened:
        hits = opened.search(expression, 50)
        before = ranker.rank(asked, hits).stages
        hits.cosine_H = -hits.cosine_H
        after = ranker.rank(asked, hits).stages
        assert [*before] == [*after] == ["trees", "dlrm"]
        assert all((before[stage] == after[stage]).all() for stage in before)
        lessons = Lessons.of(tiny_market, encoder, opened, ranking.gains)
    features_PF = lessons.rows.features_PF.copy()
    features_PF[:, NAMES.index("cosine")] *= -1
    others = replace(lessons, rows=replace(lessons.rows, features_PF=features_PF)).learned(ranking, 0).models
    assert others == {name: (copy / FOLDER / name).read_bytes() for name in others}


def test_a_feature_that_there_is_not_is_named(run, tiny_market, index, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    recipe = load_recipe_and_featurizer(copy)[0]
    ranking = recipe.ranking.model_copy(update={"without": ("cosin",)})
    (copy / RECIPE).write_text(recipe.model_copy(update={"ranking": ranking}).toml())
    with pytest.raises(MercatoError, match=r"ranking\.without: there is no feature 'cosin'; there are cosine, bm25, "):
        rank(copy, tiny_market, index)


def test_a_ranker_of_other_weights_or_features_is_refused(ranked, run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    card = json.loads((copy / FOLDER / CARD).read_text())
    for change, why in (
        ({"run": "0"}, "other weights"),
        ({"features": ["cosine"]}, "other features"),
        ({"version": 1}, "other features"),
    ):
        (copy / FOLDER / CARD).write_text(json.dumps(card | change))
        with pytest.raises(MercatoError, match=why):
            Ranker.of_run(copy)
    shutil.rmtree(copy / FOLDER)
    assert Ranker.of_run(copy) is None


@pytest.mark.parametrize(
    ("file", "content"),
    [
        (CARD, b"{"),
        (CARD, b"{}"),
        (CARD, "per_seller = 0"),
        (TREES, None),
        (TREES, b"no model"),
        (STATISTICS, b""),
        (STATISTICS, None),
    ],
)
def test_a_ranker_that_is_broken_is_named(ranked, run, tmp_path, file, content):
    """People edit its settings."""
    copy = shutil.copytree(run, tmp_path / "run")
    broken = copy / FOLDER / file
    if content is None:
        broken.unlink()
    elif isinstance(content, str):
        card = json.loads(broken.read_text())
        broken.write_text(json.dumps(card | {"settings": card["settings"] | {"diversity": {"per_seller": 0}}}))
    else:
        broken.write_bytes(content)
    with pytest.raises(MercatoError, match=r"(cannot be read|is damaged|is missing).*: mend it, or `mercato rank"):
        Ranker.of_run(copy)


def remove(market, table):
    for path in market.glob(f"{table}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def without_a_log(market, folder, *more):
    """A copy of the market, without these tables too."""
    copy = shutil.copytree(market.path, folder)
    for table in ("events", "lists", *more):
        remove(copy, table)
    return Market.open(copy)


def rewrite(market, table, change):
    rows = change(market.frame(table))
    remove(market.path, table)
    rows.write_parquet(market.path / f"{table}.parquet")


def test_where_there_is_no_log_judgments_teach(run, tiny_market, index, tmp_path):
    """Those of the validation split teach one linear stage; those of the test split measure."""
    market = without_a_log(tiny_market, tmp_path / "market", "pairs")
    copy = shutil.copytree(run, tmp_path / "run")
    told = rank(copy, market, index).as_dict()
    assert told["n"]["relevance"]["split"] == "test" and told["relevance"]["ndcg@10"] > 0
    assert "lists" not in told and "engagement" not in told
    assert [*told["baselines"]] == ["cosine"] and told["network"] == {}
    for goes_by in ("gains", "shap"):
        assert told[goes_by].keys() == {*NAMES} and sum(told[goes_by].values()) == pytest.approx(1)
    assert not (copy / FOLDER / TREES).exists() and not (copy / FOLDER / DLRM).exists()
    vector = OnnxEncoder(copy).encode_queries(["red dress"], "us")[0]
    with open_index(index, read_only=True) as opened:
        hits = opened.search(Expression(vector=vector, text="red dress"), 50)
        ranked = Ranker.of_run(copy).rank(Asked("red dress", split_cutoff(tiny_market, EARLIER["test"])), hits).stages
    assert [*ranked] == ["linear"] and len(np.unique(ranked["linear"])) > len(hits) / 4
    rewrite(market, "judgments", lambda rows: rows.with_columns(split=pl.lit("test")))
    with pytest.raises(MercatoError, match="no judgments of the split `validation`"):
        rank(run, market, index)


def test_a_log_without_positions_leaves_it_to_the_judgments(run, tiny_market, index, tmp_path):
    """Mining it gives pairs and no lists."""
    market = Market.open(shutil.copytree(tiny_market.path, tmp_path / "market"))
    remove(market.path, "lists")
    pairs_of_others = pl.col("query") + " of others"  # the judged are not among those that taught the towers
    rewrite(market, "pairs", lambda rows: rows.with_columns(query=pairs_of_others))
    copy = shutil.copytree(run, tmp_path / "run")
    told = rank(copy, Market.open(market.path), index).as_dict()
    assert [*told["baselines"]] == ["cosine"] and (copy / FOLDER / "linear.onnx").exists()
    remove(market.path, "judgments")
    with pytest.raises(MercatoError, match="a log without positions gives none"):
        rank(copy, Market.open(market.path), index)


def test_single_judged_products_teach_too(run, tiny_market, index, tmp_path):
    """Of which no list says that one is better; all alike they say nothing."""
    market = without_a_log(tiny_market, tmp_path / "market", "pairs")
    single = (pl.col("split") != "validation") | (pl.int_range(pl.len()).over("split", "query", "country") == 0)
    rewrite(market, "judgments", lambda rows: rows.filter(single))
    told = rank(shutil.copytree(run, tmp_path / "run"), market, index).as_dict()
    assert max(told["gains"].values()) > 0
    rewrite(market, "judgments", lambda rows: rows.with_columns(grade=pl.lit(2.0)))
    with pytest.raises(MercatoError, match="all alike"):
        rank(run, market, index)


def test_judged_queries_that_taught_the_towers_do_not_teach_the_ranker(run, tiny_market, index, tmp_path, monkeypatch):
    """Their cosines are better than any to come. Queries are the same in their normal form."""
    market = without_a_log(tiny_market, tmp_path / "market")
    judged = market.frame("judgments").filter(pl.col("split") == "validation")["query"].unique().sort().to_list()
    known, others, later = judged[:3], judged[3:], judged[3]
    shouted = pl.when(pl.col("query") == judged[0]).then(pl.col("query").str.to_uppercase()).otherwise("query")
    rewrite(market, "judgments", lambda rows: rows.with_columns(query=shouted))

    def of_pairs(queries, split):
        spelt = [queries[0], *(query.upper() + " " for query in queries[1:])]
        rows = {"query": spelt, "product_id": "p", "label": 1, "split": split}
        return pl.DataFrame(rows, schema_overrides={"split": pl.String})

    rewrite(market, "pairs", lambda _: pl.concat([of_pairs(known, None), of_pairs([later], "future")]))
    seen = []

    def judgments(rows, *_):
        seen.append({*rows["query"]})
        raise StopIteration

    monkeypatch.setattr(training, "judged", judgments)
    with pytest.raises(StopIteration):
        rank(run, market, index)
    assert seen == [{*others}]
    rewrite(market, "pairs", lambda _: of_pairs(judged, "train"))
    with pytest.raises(MercatoError, match="hold whole queries out of the pairs"):
        rank(run, market, index)


def test_bad_input_is_named(run, tiny_market, index, tmp_path):
    def changed(change):
        market = Market.open(shutil.copytree(tiny_market.path, tmp_path / "market", dirs_exist_ok=True))
        change(market.frame("lists")).write_parquet(market.path / "lists.parquet")
        return market

    with pytest.raises(MercatoError, match="none of the validation split of which the outcome is known"):
        rank(run, changed(lambda lists: lists.filter(pl.col("split") != "validation")), index)
    with pytest.raises(MercatoError, match="all alike"):
        rank(run, changed(lambda lists: lists.with_columns(depth=pl.lit(0, pl.Int64))), index)
    for table in ("lists", "pairs"):
        remove(tmp_path / "market", table)
    with pytest.raises(MercatoError, match="mercato mine"):
        rank(run, Market.open(tmp_path / "market"), index)
    for table in ("events", "judgments"):
        remove(tmp_path / "market", table)
    with pytest.raises(MercatoError, match="mercato mine"):
        rank(run, Market.open(tmp_path / "market"), index)
    build_index(tmp_path / "other", [], 16, "of another run")
    with pytest.raises(MercatoError, match="was not made by"):
        rank(run, tiny_market, str(tmp_path / "other"))
