from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mercato.data.market import Market
from mercato.errors import MercatoError
from mercato.evaluation.dataset import EvaluationSet
from mercato.evaluation.evaluate import Evaluation
from mercato.evaluation.evaluate import evaluate as measure
from mercato.evaluation.results import Metrics
from mercato.evaluation.systems import VectorSystem
from tests.support.garments import Constant, Words, write_table

SHAPE = {
    "relevance": {"roc_auc", "roc_auc_per_query", "ndcg@10", "recall@10", "unjudged@10"},
    "engagement": {"roc_auc", "roc_auc_per_query"},
    "batch": {"recall@1", "recall@10"},
    "knn": {"recall@10", "recall@100", "recall@1000", "precision@10"},
}


def evaluate(encoder, market, **given):
    """The object that `mercato evaluate --json` prints."""
    return measure(encoder, market, **given).as_dict()


def _shape(tree):
    return {part: set(metrics) for part, metrics in tree.items() if part in SHAPE}


def test_the_object_has_the_contracts_shape(market, words):
    metrics = evaluate(words, market, others={"constant": Constant()})
    assert set(metrics) == {*SHAPE, "baselines", "n", "intervals", "tuned"}
    assert list(metrics["baselines"]) == ["constant", "bm25f", "bm25", "random"]
    for tree in (metrics, metrics["intervals"], *metrics["baselines"].values()):
        assert _shape(tree) == SHAPE
    for tree in (metrics["intervals"]["baselines"], metrics["intervals"]["differences"]):
        assert {name: _shape(parts) for name, parts in tree.items()} == dict.fromkeys(metrics["baselines"], SHAPE)
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    for part, names in SHAPE.items():
        for name in names:
            low, high = metrics["intervals"][part][name]
            assert low - 1e-9 <= metrics[part][name] <= high + 1e-9
    assert metrics["n"]["relevance"] == {
        "queries": 8,
        "units": 8,
        "pairs": 192,
        "relevant": 32,
        "split": "test",
        "unknown_products": 0,
    }
    assert metrics["n"]["knn"] == {"queries": 8, "units": 8, "pairs": 16, "split": "future", "unknown_products": 0}
    assert metrics["n"]["products"] == 24


def test_the_json_reads_back_as_the_same_metrics(market, words):
    metrics = measure(words, market, others={"constant": Constant()})
    assert Metrics.from_dict(json.loads(json.dumps(metrics.as_dict()))) == metrics
    difference = metrics.difference("bm25", "relevance", "roc_auc")
    theirs = metrics.baselines["bm25"]["relevance"]["roc_auc"].value
    assert difference.value == metrics.ours["relevance"]["roc_auc"].value - theirs
    assert difference.interval == metrics.differences["bm25"]["relevance"]["roc_auc"]
    assert metrics.difference("bm25", "relevance", "nothing") is None
    assert metrics.difference("nobody", "relevance", "roc_auc") is None


def test_figures_of_before_there_was_a_correction_read_back(market, words):
    tree = measure(words, market).as_dict()
    del tree["intervals"]["simultaneous"], tree["n"]["unit"], tree["n"]["relevance"]["units"]
    old = Metrics.from_dict(tree)
    assert old.difference("bm25", "relevance", "roc_auc").interval is not None
    assert old.simultaneous("bm25", "relevance", "roc_auc") is None
    assert old.n.unit == "query" and old.n.parts["relevance"].units is None


def test_verdicts_rest_on_intervals_that_hold_together(market, words):
    metrics = measure(words, market, others={"constant": Constant()})
    tree = metrics.as_dict()["intervals"]
    assert set(tree["simultaneous"]) == {"bm25f", "bm25", "constant"}  # chance, exposure and price are no rivals
    for name, parts in tree["simultaneous"].items():
        assert {part: set(figures) for part, figures in parts.items()} == {
            part: set(figures) for part, figures in tree["differences"][name].items()
        }
    for metric in ("roc_auc", "roc_auc_per_query", "ndcg@10"):
        alone, together = (ask("bm25", "relevance", metric) for ask in (metrics.difference, metrics.simultaneous))
        assert together.value == alone.value
        assert together.interval[1] - together.interval[0] > alone.interval[1] - alone.interval[0]
    assert metrics.simultaneous("random", "relevance", "roc_auc") is None


def test_queries_of_one_intent_are_one_piece_of_evidence(market, words):
    alone = measure(words, market)
    assert (alone.n.unit, alone.n.parts["knn"].units) == ("query", 8)
    rows = [
        ("RED dress", "us", "a"),
        ("vestido rojo", None, "a"),
        ("blue shirt", None, "b"),
        ("camisa azul", "us", "b"),
    ]
    write_table(market.path, "intents", [dict(zip(("query", "country", "intent"), row, strict=True)) for row in rows])
    metrics = measure(words, market)
    assert metrics.n.unit == "intent"
    # The fourth row is of another country than the query.
    assert {part: counts.units for part, counts in metrics.n.parts.items()} == dict.fromkeys(SHAPE, 7)
    assert metrics.ours["relevance"]["roc_auc"].value == alone.ours["relevance"]["roc_auc"].value
    evaluation = Evaluation.of(words, market)
    for part in evaluation.parts:
        weights = evaluation.weights(part)
        # Batches hold the queries in another order than the table.
        twins = [pair for pair in range(8) for other in range(pair) if (weights[:, pair] == weights[:, other]).all()]
        assert weights.shape == (1000, 8) and len(twins) == 1


def test_a_model_that_reads_spanish_beats_words_and_words_beat_chance(market, words):
    metrics = evaluate(words, market, others={"constant": Constant()})
    bm25, random, constant = (metrics["baselines"][name] for name in ("bm25", "random", "constant"))
    assert metrics["relevance"]["roc_auc"] == metrics["relevance"]["ndcg@10"] == metrics["engagement"]["roc_auc"] == 1
    assert metrics["knn"]["recall@10"] == 1
    assert metrics["knn"]["precision@10"] == pytest.approx(0.2)
    assert metrics["relevance"]["roc_auc"] > bm25["relevance"]["roc_auc"] > random["relevance"]["roc_auc"] + 0.1
    assert bm25["knn"]["recall@10"] == pytest.approx(6 / 8)  # nothing for the two Spanish queries
    assert constant["relevance"]["roc_auc"] == 0.5
    assert constant["batch"]["recall@1"] == 0
    low, high = metrics["intervals"]["differences"]["bm25"]["relevance"]["roc_auc"]
    assert 0 <= low < high


def test_queries_and_products_are_encoded_once_with_their_country(market, words):
    evaluate(words, market)
    assert len(words.queries_seen) == len(set(words.queries_seen)) == 8
    assert ("mx", "vestido rojo") in words.queries_seen
    assert words.products_seen == 24


@pytest.mark.parametrize(("split", "day"), [("test", 20), ("validation", 10)])
def test_listings_are_as_old_as_when_the_split_begins_whenever_it_is_measured(market, split, day):
    asked = set()

    class Clocked(Words):
        def encode_products(self, products, *, as_of=None):
            asked.add(as_of)
            return super().encode_products(products, as_of=as_of)

    ends = {"train": 10, "validation": 20, "future": 30}
    seen = {name: datetime(2025, 3, end, 9, tzinfo=UTC) for name, end in ends.items()}
    pairs = market.frame("pairs")
    pairs = pl.concat([pairs, pairs.head(8).with_columns(split=pl.lit("validation"))]).with_columns(
        last_seen=pl.col("split").replace_strict(seen, return_dtype=pl.Datetime("us", "UTC"))
    )
    pairs.write_parquet(market.path / "pairs.parquet")
    evaluate(Clocked(), market, split=split, others={"other": Clocked()})
    assert asked == {datetime(2025, 3, day, 9, tzinfo=UTC)}


def test_the_seed_decides_everything(market):
    assert evaluate(Words(), market, seed=1) == evaluate(Words(), market, seed=1)
    assert evaluate(Words(), market, seed=1)["baselines"] != evaluate(Words(), market, seed=2)["baselines"]


def test_the_order_of_the_products_table_does_not_matter(market, words, tmp_path):
    before = evaluate(words, market)
    file = market.path / "products.parquet"
    table = market.arrow("products")
    pq.write_table(table.take(np.random.default_rng(0).permutation(table.num_rows)), file)
    after = evaluate(words, market)
    for part in ("relevance", "engagement", "batch", "knn"):
        assert after[part] == pytest.approx(before[part])
    assert after["baselines"]["bm25"]["relevance"] == pytest.approx(before["baselines"]["bm25"]["relevance"])


def test_a_missing_table_is_an_absent_part(market, words):
    (market.path / "pairs.parquet").unlink()
    only_judged = evaluate(words, market)
    assert set(only_judged) == {"relevance", "baselines", "n", "intervals", "tuned"}
    assert set(only_judged["relevance"]) == SHAPE["relevance"] - {"unjudged@10"}  # only judged products are ranked
    (market.path / "judgments.parquet").unlink()
    with pytest.raises(MercatoError, match="nothing to evaluate on"):
        evaluate(words, market)


def test_given_pairs_take_the_place_of_the_markets(market, words):
    (market.path / "judgments.parquet").unlink()
    pairs = pl.DataFrame({"query": ["red sofa", "camisa azul"], "product_id": ["p8", "p16"], "label": [1, 1]})
    metrics = evaluate(words, market, pairs=pairs)
    assert metrics["n"]["knn"]["pairs"] == 2
    assert metrics["knn"]["recall@10"] == 1
    assert "roc_auc" not in metrics.get("engagement", {})  # no unengaged pair: undefined, not zero
    with pytest.raises(MercatoError, match="lack the column label"):
        evaluate(words, market, pairs=pairs.drop("label"))


def test_what_is_dropped_no_system_sees(market, words):
    metrics = evaluate(words, market, dropped=("title", "attributes"))
    assert metrics["relevance"]["roc_auc"] == metrics["baselines"]["bm25"]["relevance"]["roc_auc"] == 0.5
    with pytest.raises(MercatoError, match="cannot drop 'colour'"):
        evaluate(words, market, dropped=("colour",))


def test_without_images_there_are_no_vectors_of_them_and_no_count(market, words):
    class Images(Words):
        def encode_products(self, products, *, as_of=None):
            for name in ("image_embeddings", "image_count"):
                assert products[name].null_count == len(products)
            return self._encode(products.column("title").to_pylist())

    plain = market.arrow("products")
    vectors = pa.array([[[1.0]]] * len(plain), plain.schema.field("image_embeddings").type)
    table = plain.set_column(plain.column_names.index("image_embeddings"), "image_embeddings", vectors)
    table = table.append_column("image_count", pa.array([1] * len(plain))).drop_columns(["images"])
    seen = Evaluation.of(Images(), market, products=table, dropped=("images",)).metrics().as_dict()
    assert seen["relevance"] == evaluate(words, market)["relevance"]


def test_without_a_future_only_batch_recall_falls_back_to_validation(market, words):
    frame = market.frame("pairs").with_columns(pl.col("split").replace("future", "validation"))
    frame.drop("weight", "last_seen").write_parquet(market.path / "pairs.parquet")
    metrics = evaluate(words, market)
    assert metrics["n"]["batch"]["split"] == "validation"
    assert "knn" not in metrics
    assert "engagement" not in metrics


def test_test_judgments_are_never_seen_by_validation_nor_the_reverse(market, words):
    test, validation = EvaluationSet.read(market, "test").relevance, EvaluationSet.read(market, "validation").relevance
    assert test is not None and validation is not None
    assert (len(test.queries), len(validation.queries)) == (192, 12)
    metrics = evaluate(words, market, split="validation")
    assert {query for _, query in words.queries_seen} == {"sofa"}
    assert metrics["n"]["relevance"]["split"] == "validation"
    assert "knn" not in metrics  # the market's engaged pairs are of the future


def test_raters_are_averaged_and_unknown_products_counted(market, words):
    rows = [
        {"query": "sofa", "product_id": "p8", "grade": 1.0},
        {"query": "sofa", "product_id": "p8", "grade": 0.0},
        {"query": "sofa", "product_id": "p9", "grade": 1.0},
        {"query": "sofa", "product_id": "gone", "grade": 1.0},
    ]
    write_table(market.path, "judgments", rows)
    judged = EvaluationSet.read(market).relevance
    assert judged is not None
    assert sorted(judged.grades) == [0.5, 1.0]
    assert judged.unknown == 1


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_a_grade_that_is_no_number_is_named(market, words, value):
    rows = [{"query": "sofa", "product_id": "p8", "grade": 1.0}, {"query": "sofa", "product_id": "p9", "grade": value}]
    write_table(market.path, "judgments", rows)
    with pytest.raises(MercatoError, match=r"table judgments, row 1, column grade"):
        evaluate(words, market)


def test_an_encoder_that_returns_nan_is_named(market):
    class Broken(Words):
        def encode_products(self, products, *, as_of=None):
            vectors = super().encode_products(products)
            vectors[3] = np.nan
            return vectors

    with pytest.raises(MercatoError, match=r"mercato: the vector of product 'p3' is not finite"):
        evaluate(Broken(), market)


def test_an_empty_catalogue_is_nothing_to_evaluate_on(market, words):
    pq.write_table(market.arrow("products").slice(0, 0), market.path / "products.parquet")
    with pytest.raises(MercatoError, match="nothing to evaluate on"):
        evaluate(words, Market.open(market.path))


def test_pairs_new_to_the_log_are_measured_apart(market, words):
    """Two of the future's engaged pairs are impressions of the training days: the others are new."""
    future = market.frame("pairs").filter((pl.col("split") == "future") & (pl.col("label") == 1))
    known = future.head(2).with_columns(split=pl.lit("train"), label=pl.Series([1, 0]))
    metrics = evaluate(words, market, pairs=pl.concat([future, known]))
    assert metrics["n"]["knn"]["pairs"] == len(future)
    assert metrics["n"]["unseen"]["pairs"] == len(future) - 2
    assert "unseen" not in evaluate(words, market, pairs=future)  # all are new: nothing to tell apart


def test_each_system_searches_the_catalogue_once_and_as_deep_as_it_is_asked(market, words, monkeypatch):
    future = market.frame("pairs").filter(pl.col("split") == "future")
    known = future.filter(pl.col("label") == 1).head(2).with_columns(split=pl.lit("train"))
    evaluation = Evaluation.of(words, market, pairs=pl.concat([future, known]))
    asked = []
    top = VectorSystem.top
    monkeypatch.setattr(
        VectorSystem, "top", lambda self, rows, k, among: asked.append((len(rows), k)) or top(self, rows, k, among)
    )
    metrics = evaluation.metrics()
    assert {"knn", "unseen"} <= {*metrics.ours}
    assert [queries for queries, k in asked if k > 10] == [8] and max(asked)[1] == 1000
    shallow = replace(evaluation, depth=100).metrics()
    assert {*metrics.ours["knn"]} - {*shallow.ours["knn"]} == {"recall@1000"}
    assert shallow.ours["unseen"]["recall@100"] == metrics.ours["unseen"]["recall@100"]


@pytest.fixture
def untold(market):
    """One title of each four says no colour, and somebody engaged with two of the future's products before."""
    table = market.arrow("products")
    titles = [title.split()[-1] if row % 4 == 1 else title for row, title in enumerate(table["title"].to_pylist())]
    table = table.set_column(table.schema.get_field_index("title"), "title", pa.array(titles, pa.string()))
    pq.write_table(table, market.path / "products.parquet")
    pairs = market.frame("pairs")
    known = pairs.filter((pl.col("split") == "future") & (pl.col("label") == 1)).head(2)
    pl.concat([pairs, known.with_columns(split=pl.lit("validation"))]).write_parquet(market.path / "pairs.parquet")
    return market


def test_products_new_to_the_log_and_looks_that_no_text_names_are_measured_apart(untold, words):
    metrics = evaluate(words, untold, others={"constant": Constant()})
    shape = {"cold": {"recall@10", "recall@100", "recall@1000"}, "visual": {"recall@10", "recall@100"}}
    assert list(metrics)[-6:] == [*shape, "baselines", "n", "intervals", "tuned"]
    spans = metrics["intervals"]
    for tree in (metrics, spans, *metrics["baselines"].values(), *spans["differences"].values()):
        assert {part: set(tree[part]) for part in shape} == shape
    assert metrics["n"]["cold"] == {"queries": 6, "units": 6, "pairs": 12, "split": "future", "unknown_products": 0}
    counted = {"queries": 8, "units": 8, "pairs": 8}
    assert metrics["n"]["visual"] == {**counted, "relevant": 8, "engaged": 8, "split": "test"}
    assert metrics["visual"]["recall@100"] == 1 > metrics["baselines"]["bm25"]["visual"]["recall@100"]
    assert Metrics.from_dict(json.loads(json.dumps(metrics))).as_dict() == metrics


def test_they_cost_no_search_of_their_own_and_change_no_other_part(untold, words, monkeypatch):
    asked, top = [], VectorSystem.top
    monkeypatch.setattr(
        VectorSystem, "top", lambda self, rows, k, among: asked.append((len(rows), k)) or top(self, rows, k, among)
    )
    evaluation = Evaluation.of(words, untold)
    whole, searched = evaluation.metrics().as_dict(), [*asked]
    asked.clear()
    less = replace(evaluation, dataset=replace(evaluation.dataset, cold=None, visual=None)).metrics().as_dict()
    assert asked == searched
    assert {*whole} - {*less} == {"cold", "visual"} == {*whole["n"]} - {*less["n"]}
    for part in SHAPE:
        assert whole[part] == less[part] and whole["n"][part] == less["n"][part]


def test_where_nobody_crosses_a_border_a_search_stays_within_its_country(market, words):
    table = market.arrow("products")
    countries = ["us" if row % 4 < 2 else "mx" for row in range(table.num_rows)]
    place = table.schema.get_field_index("country")
    pq.write_table(
        table.set_column(place, "country", pa.array(countries, pa.string())), market.path / "products.parquet"
    )
    pairs = market.frame("pairs").filter(pl.col("split") == "future")
    home = dict(zip(table["product_id"].to_pylist(), countries, strict=True))
    within = pairs.with_columns(country=pl.col("product_id").replace_strict(home))
    evaluation = Evaluation.of(words, market, pairs=within)
    searched = evaluation.dataset.queries["country"].to_list()
    for system in evaluation.systems:
        found = evaluation.top(system, np.arange(len(searched)), 5)
        assert (found >= 0).any(axis=1).sum() > len(searched) // 2
        for country, rows in zip(searched, found, strict=True):
            assert {countries[row] for row in rows if row >= 0} <= {country}
    across = Evaluation.of(words, market, pairs=pairs)  # mx queries engaged us products: borders mean nothing here
    assert across.dataset.countries is None


def test_unjudged_products_are_counted_in_the_first_ten_of_the_searchers_catalogue(market, words):
    """Of 24 products the raters saw 16 for one query, and one for the other."""
    titles = dict(market.frame("products", ["product_id", "title"]).iter_rows())
    judged = [product for product, title in titles.items() if title != "red dress"][:16]
    rows = [{"query": "red dress", "country": "us", "product_id": product, "grade": 1.0} for product in judged]
    rows += [{"query": "sofa", "country": "us", "product_id": "p8", "grade": 1.0}]
    write_table(market.path, "judgments", rows)
    metrics = evaluate(words, market)
    seen = {name: part["relevance"]["unjudged@10"] for name, part in metrics["baselines"].items()}
    assert metrics["relevance"]["unjudged@10"] > 4  # the four red dresses, and of ten for a sofa one is judged
    assert seen["bm25"] == (4 + 7) / 2  # ten red things or dresses, of which four are unjudged; all eight sofas but one
    assert all(0 <= count <= 10 for count in seen.values())


def test_judged_queries_that_nobody_engaged_with_before_are_measured_apart(market, words):
    future = market.frame("pairs").filter(pl.col("split") == "future")
    engaged = future.filter(pl.col("label") == 1)
    seen = ["red dress", "vestido rojo", "blue sofa"]
    earlier = engaged.filter(pl.col("query").is_in(seen)).with_columns(
        split=pl.lit("train"), query=pl.col("query").str.to_uppercase()
    )
    left = future.filter((pl.col("query") == "blue dress") & (pl.col("label") == 0)).with_columns(split=pl.lit("train"))
    abroad = engaged.filter(pl.col("query") == "red sofa").with_columns(split=pl.lit("train"), country=pl.lit("gb"))
    pairs = pl.concat([future, earlier, left, abroad])
    assert set(EvaluationSet.read(market, pairs=pairs).relevance_unseen.queries) == {
        row
        for row, query in enumerate(EvaluationSet.read(market, pairs=pairs).queries["query"])
        if query in {"red shirt", "red sofa", "blue dress", "blue shirt", "camisa azul"}
    }
    metrics = evaluate(words, market, pairs=pairs)
    assert metrics["n"]["relevance_unseen"]["queries"] == 5 and metrics["n"]["relevance"]["queries"] == 8
    assert set(metrics["relevance_unseen"]) == SHAPE["relevance"]
    for every in (future, pl.concat([future, engaged.with_columns(split=pl.lit("train"))])):  # none is known, or all
        assert "relevance_unseen" not in evaluate(words, market, pairs=every)


def test_bm25f_is_tuned_on_validation_and_never_where_validation_is_measured(market, words):
    metrics = measure(words, market)
    tuned = metrics.tuned["bm25f"]
    assert (tuned.split, tuned.queries, tuned.pairs) == ("validation", 1, 12)
    assert tuned.tuned_ndcg >= tuned.untuned_ndcg
    assert json.loads(json.dumps(metrics.as_dict()))["tuned"]["bm25f"]["weights"] == tuned.weights
    assert "tuned" not in evaluate(words, market, split="validation")
    shown = market.frame("judgments").filter(pl.col("split").is_null())
    write_table(market.path, "judgments", shown.to_dicts())
    assert "tuned" not in evaluate(words, market)  # no validation judgments, and no validation pairs
    frame = market.frame("pairs").with_columns(pl.col("split").replace("train", "validation"))
    frame.drop("weight", "last_seen").write_parquet(market.path / "pairs.parquet")
    assert evaluate(words, market)["tuned"]["bm25f"]["pairs"] == frame.filter(pl.col("split") == "validation").height


# --- what the log knows


@pytest.fixture
def logged(market):
    """Every pair was shown twice, those shared with the query by half once; two lists a query and split."""
    pairs = market.frame("pairs", ["query", "country", "product_id", "label", "split"])
    number = pl.col("product_id").str.slice(1).cast(pl.Int64)
    shown = pairs.with_columns(
        weight=pl.lit(2.0), impressions=pl.when(number % 3 == 0).then(1).otherwise(2), depth=3 * pl.col("label")
    )
    shown.write_parquet(market.path / "pairs.parquet")
    rows = []
    for (query, country, split), group in pairs.group_by("query", "country", "split", maintain_order=True):
        for again in range(20 if split == "train" else 2):
            for place, row in enumerate(np.random.default_rng(again).permutation(len(group)).tolist()):
                product, label = group["product_id"][row], group["label"][row]
                key = {"query": query, "country": country, "product_id": product, "split": split}
                depth = label * 3 if place < 6 else 0
                rows.append(key | {"list_id": f"{query} {split} {again}", "position": place + 1, "depth": depth})
    write_table(market.path, "lists", rows)
    return market


def test_exposure_popularity_and_price_stand_beside_engagement_and_lists_only(logged, words):
    metrics = evaluate(words, logged)
    log = {"engagement": {*SHAPE["engagement"], "roc_auc_exposure_matched"}, "lists": {"ndcg_ips"}}
    assert {part: set(metrics[part]) for part in log} == log
    for name in ("impressions", "popularity"):
        assert {part: set(figures) for part, figures in metrics["baselines"][name].items()} == log
    assert "price" not in metrics["baselines"]  # no product has a category to be cheap in
    assert set(metrics["baselines"]["bm25"]) == {*SHAPE, "lists"}
    # The model knows which products are of the right kind, but not which of them were clicked.
    assert 1 > metrics["lists"]["ndcg_ips"] > metrics["baselines"]["bm25"]["lists"]["ndcg_ips"]
    assert 0.5 < metrics["baselines"]["bm25"]["engagement"]["roc_auc_exposure_matched"] < 1
    with pytest.raises(MercatoError, match="cannot be called 'impressions'"):
        evaluate(words, logged, others={"impressions": Constant()})


def test_price_and_same_kind_need_the_catalogues_categories(logged, words):
    table = logged.arrow("products")
    kinds = pa.array(["Clothing > Dresses" if "dress" in title else "Rest" for title in table["title"].to_pylist()])
    prices = pa.array([float(row + 1) for row in range(table.num_rows)])
    for name, column in (("category", kinds), ("price", prices)):
        table = table.set_column(table.schema.get_field_index(name), name, column)
    pq.write_table(table, logged.path / "products.parquet")
    metrics = evaluate(words, logged)
    assert metrics["engagement"]["roc_auc_same_kind"] == 1
    assert {*metrics["baselines"]["price"]} == {"engagement", "lists"}
    assert "price" not in evaluate(words, logged, dropped=("price",))["baselines"]


def test_lists_are_weighed_by_what_earlier_lists_say_of_positions(logged, words):
    counts = evaluate(words, logged)["n"]["lists"]
    assert (counts["queries"], counts["lists"], counts["split"]) == (8, 16, "future")
    assert counts["propensities"][0] == 1 and len(counts["propensities"]) == 6
    lists = EvaluationSet.read(logged).lists
    assert lists.propensities_P[:12] == pytest.approx([*lists.propensities_K, *[lists.propensities_K[-1]] * 6])
    table = logged.frame("lists")
    table.filter(pl.col("split") == "future").write_parquet(logged.path / "lists.parquet")
    assert "lists" not in evaluate(words, logged)  # no earlier list to learn from
    validation = table.with_columns(split=pl.lit("validation"))
    pl.concat([validation, table.filter(pl.col("split") == "future")]).write_parquet(logged.path / "lists.parquet")
    assert "lists" in evaluate(words, logged)


def test_a_list_that_may_go_on_is_left_out_whole(logged, words):
    table = logged.frame("lists")
    first = (pl.col("split") == "future") & (pl.col("list_id") == "red dress future 0") & (pl.col("position") == 12)
    opened = table.with_columns(depth=pl.when(first).then(None).otherwise("depth"))
    opened.write_parquet(logged.path / "lists.parquet")
    assert evaluate(words, logged)["n"]["lists"]["lists"] == 15


def test_pairs_that_are_given_leave_the_markets_log_out(logged, words):
    future = logged.frame("pairs").filter(pl.col("split") == "future").drop("impressions", "depth")
    metrics = evaluate(words, logged, pairs=future)
    assert "lists" not in metrics and set(metrics["engagement"]) == SHAPE["engagement"]
    assert set(metrics["baselines"]) == {"bm25f", "bm25", "random"}


def test_clicked_and_left_are_held_against_engaged(logged, words):
    """Not those of which a click is known and not yet what came of it, whose depth is 0."""
    pairs = logged.frame("pairs").with_columns(clicks=pl.lit(1, pl.Int64))
    half = pl.col("product_id").is_in(["p1", "p9"]) & (pl.col("label") == 0) & pl.col("query").str.starts_with("red")
    pairs.with_columns(depth=pl.when(half).then(1).otherwise("depth")).write_parquet(logged.path / "pairs.parquet")
    metrics = evaluate(words, logged)
    assert metrics["engagement"]["roc_auc_of_clicked"] == 1
    future = pairs.filter(pl.col("split") == "future")
    both = future.filter(half)["query"].n_unique()
    assert metrics["n"]["engagement"]["queries"] == future["query"].n_unique() > both
    assert metrics["n"]["engagement"]["defined"]["roc_auc_of_clicked"] == both
    engagement = EvaluationSet.read(logged).engagement
    some = engagement.grades >= 1
    assert (engagement.only(some).depth == 3).all() and len(engagement.only(some).impressions) == some.sum()
