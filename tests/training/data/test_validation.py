from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mercato.data.market import Market
from mercato.data.schema import JUDGMENTS
from mercato.errors import MercatoError
from mercato.evaluation.metrics.roc_auc import roc_auc
from mercato.training.data.prepare import prepare
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
