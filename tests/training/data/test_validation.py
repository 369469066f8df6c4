from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from mercato.data.market import Market
from mercato.data.schema import JUDGMENTS
from mercato.errors import MercatoError
from mercato.evaluation.metrics.roc_auc import roc_auc
from mercato.models.build import build_towers, text_configs
from mercato.training.data.prepare import prepare
from mercato.training.data.validation import encode_rows
from tests.support.tasks import towers
from tests.support.toys import make_market, pairs, products, toy_recipe

BOTH, ENGAGEMENT = 'monitor=["relevance", "engagement"]', 'monitor=["engagement"]'
SECOND_TASK = "stages.0.engagement_weight=0.2"


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Market:
    """Engaged and unengaged pairs of train and validation, and judgments that name other products."""
    folder = Path(tmp_path_factory.mktemp("judged")) / "market"
    links = pairs(products())
    links += [row | {"label": 0, "query": "reloj"} for row in links if row["query"] == "mesa" and row["label"]]
    make_market(folder, links=links)
    rows = [
        {"query": "silla", "product_id": f"p{i}", "grade": float(i % 6 == 1), "split": "validation"} for i in range(12)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=JUDGMENTS), folder / "judgments.parquet")
    return Market.open(folder)


@pytest.mark.parametrize(
    ("changes", "tasks"),
    [
        ([], {"relevance"}),
        ([SECOND_TASK], {"relevance", "engagement"}),
        (["stages.0.negatives=mixed"], {"relevance", "engagement"}),
        ([BOTH], {"relevance", "engagement"}),
        ([SECOND_TASK, BOTH], {"relevance", "engagement"}),
        ([SECOND_TASK, 'monitor=["relevance"]'], {"relevance"}),
        ([ENGAGEMENT], {"engagement"}),
    ],
)
def test_early_stopping_goes_by_the_tasks_that_the_recipe_names_and_else_by_those_it_learns(
    judged, tmp_path, changes, tasks
):
    recipe = toy_recipe(*changes)
    prepared = prepare(judged, recipe, tmp_path)
    validation, model = prepared.validation, towers(prepared, recipe)
    assert len(validation.label_N) == 12, "judgments are read in any case: retrieval starts from their cosines"
    assert (validation.engagement is not None) == ("engagement" in tasks)
    by_task = {"relevance": roc_auc(validation.label_N, validation.cosines(model))}
    if "engagement" in tasks:
        beside = validation.engagement
        by_task["engagement"] = roc_auc(beside.label_N, beside.cosines(model))
    scores = validation.scores(model)
    assert scores["validation/roc_auc"] == pytest.approx(sum(by_task[task] for task in tasks) / len(tasks))
    if len(by_task) == 2:
        assert len(set(by_task.values())) == 2
        assert {task: scores[f"validation/{task}"] for task in by_task} == pytest.approx(by_task)


def test_one_monitor_chooses_among_rows_by_the_same_pairs(judged, tmp_path):
    rows = [prepare(judged, toy_recipe(BOTH, *more), tmp_path).validation for more in ([], [SECOND_TASK])]
    seen = [
        sorted(zip(row.engagement.product_N.tolist(), row.engagement.label_N.tolist(), strict=True)) for row in rows
    ]
    assert seen[0] == seen[1] and len(seen[0])


def test_a_monitor_without_its_pairs_is_said(judged, tmp_path):
    links = [row for row in pairs(products()) if row["label"]]
    make_market(tmp_path / "market", links=links)
    (tmp_path / "market" / "judgments.parquet").write_bytes((judged.path / "judgments.parquet").read_bytes())
    with pytest.raises(MercatoError, match='monitor: "engagement" is told by'):
        prepare(Market.open(tmp_path / "market"), toy_recipe(BOTH), tmp_path)
    with pytest.raises(MercatoError, match="monitor"):
        toy_recipe("monitor=[]")


def test_positives_alone_validate_against_random_products(tmp_path):
    links = [row for row in pairs(products()) if row["label"]]
    market = make_market(tmp_path / "market", links=links)
    validation = prepare(market, toy_recipe(), tmp_path).validation
    assert validation is not None
    rows = list(zip(validation.query_N, validation.product_N, validation.label_N, strict=True))
    positive = {(query, product) for query, product, label in rows if label}
    negative = {(query, product) for query, product, label in rows if not label}
    assert positive and negative and not positive & negative


def test_recall_is_of_engaged_pairs_of_the_validation_split_among_the_catalogue(tmp_path):
    links = pairs(products())
    prepared = prepare(make_market(tmp_path / "market", links=links), toy_recipe('monitor=["recall"]'), tmp_path)
    torch.manual_seed(1)
    recall, spec = prepared.recall, prepared.featurizer.spec
    model = build_towers(toy_recipe(), spec, text_configs(toy_recipe(), spec)).eval()
    assert prepared.validation is recall and recall.monitor.name == "recall@10"
    wanted = set(zip(recall.query_N.tolist(), recall.product_N.tolist(), strict=True))
    assert len(wanted) == sum(row["label"] for row in links if row["split"] == "validation")
    assert recall.product_M.tolist() == list(range(48))

    tables = prepared.tables
    with torch.inference_mode():
        query_QD = encode_rows(model, model.query, tables, recall.query_N)
        product_PD = encode_rows(model, model.product, tables, recall.product_M)
    found = []
    for query in sorted({query for query, _ in wanted}):
        top = np.argsort(-(product_PD @ query_QD[query]))[:10].tolist()
        own = [product for other, product in wanted if other == query]
        found.append(np.mean([product in top for product in own]))
    scores = recall.scores(model)
    assert scores["validation/recall@10"] == pytest.approx(np.mean(found)) and scores["validation/recall@100"] == 1
    assert 0 < np.mean(found) < 1
    assert scores["validation/roc_auc"] == pytest.approx(recall.beside.roc_auc(model)), "told beside it"


def test_recall_is_a_monitor_of_its_own_and_wants_engaged_pairs(tmp_path):
    with pytest.raises(MercatoError, match=r'monitor.*"recall" is no ROC AUC'):
        toy_recipe('monitor=["recall", "engagement"]')
    links = [row for row in pairs(products()) if row["split"] == "train" or not row["label"]]
    market = make_market(tmp_path / "market", links=links)
    with pytest.raises(MercatoError, match='monitor: "recall" is of the validation split'):
        prepare(market, toy_recipe('monitor=["recall"]'), tmp_path)


def test_recall_searches_within_a_country_where_nobody_engaged_with_another(tmp_path):
    goods = [row | {"country": ("us", "mx")[i // 4 % 2]} for i, row in enumerate(products())]
    links = [row | {"country": goods[int(row["product_id"][1:])]["country"]} for row in pairs(goods)]
    prepared = prepare(make_market(tmp_path / "market", goods, links), toy_recipe('monitor=["recall"]'), tmp_path)
    recall = prepared.recall
    assert set(recall.country_N) == {1, 2} and recall.country_M.tolist() == [2, 2, 2, 2, 1, 1, 1, 1] * 6
    model = towers(prepared, toy_recipe()).eval()
    with torch.inference_mode():
        query_QD = encode_rows(model, model.query, prepared.tables, recall.query_N)
        product_PD = encode_rows(model, model.product, prepared.tables, recall.product_M)
    by_query: dict[int, list[float]] = {}
    for query, product, country in zip(recall.query_N, recall.product_N, recall.country_N, strict=True):
        here = np.flatnonzero(recall.country_M == country)
        top = here[np.argsort(-(product_PD[here] @ query_QD[query]))[:10]]
        by_query.setdefault(int(query), []).append(float(product in top))
    expected = np.mean([np.mean(found) for found in by_query.values()])
    assert recall.scores(model)["validation/recall@10"] == pytest.approx(expected)
    assert replace(recall, country_N=None).scores(model)["validation/recall@10"] != pytest.approx(expected)
    only_mx = replace(recall, product_M=np.flatnonzero(recall.country_M == 1))
    assert 0 < only_mx.scores(model)["validation/recall@100"] < 1, "a country of no product finds none"


def test_of_too_many_pairs_whole_queries_validate_recall(tmp_path, monkeypatch):
    monkeypatch.setattr("mercato.training.data.validation.RECALLED_PAIRS", 5)
    monkeypatch.setattr("mercato.training.data.prepare.RECALL_CATALOGUE", 20)
    links = pairs(products())
    prepared = prepare(make_market(tmp_path / "market", links=links), toy_recipe('monitor=["recall"]'), tmp_path)
    recall = prepared.recall
    whole = Counter(row["query"] for row in links if row["split"] == "validation" and row["label"])
    counts = np.bincount(recall.query_N)
    assert 5 <= len(recall.query_N) < sum(whole.values()) and set(counts[counts > 0]) <= set(whole.values())
    assert len(recall.product_M) == 20 and set(recall.product_N) <= set(recall.product_M)
