"""`mercato tune` on the tiny market: what is measured, written and served, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from mercato.catalogue.indexing import index_market
from mercato.cli import main
from mercato.config.ranking import Exploration
from mercato.data.market import Market
from mercato.data.pairs import split_cutoff
from mercato.errors import MercatoError
from mercato.evaluation.dataset import EARLIER
from mercato.experiments.replay import Replay
from mercato.experiments.tuning import golden, paging
from mercato.experiments.tuning import tune as tuning
from mercato.experiments.tuning.choosing import Constraints
from mercato.experiments.tuning.golden import GoldenSet
from mercato.experiments.tuning.measuring import Bench
from mercato.experiments.tuning.settings import Setting, least_cosines, stages_of
from mercato.experiments.tuning.tune import tune
from mercato.ranking.ranker import Ranker
from mercato.ranking.train import rank
from mercato.reports.tuning import summary, tune_run
from mercato.retrieval.open import build_index
from mercato.runs.folder import RECIPE, RETRIEVAL, load_recipe_and_featurizer
from mercato.search.policy import Effort, RetrievalPolicy


@pytest.fixture(scope="module", autouse=True)
def _few():
    """Few queries and values, so that a sweep takes a second or two."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(golden, "LOG_QUERIES", 30)
        patch.setattr(golden, "JUDGED_QUERIES", 6)
        patch.setattr(tuning, "CANDIDATES", (25, 100))
        patch.setattr(tuning, "TEXT_CANDIDATES", (0, 25))
        patch.setattr(tuning, "EF_SEARCH", (16, 192))
        patch.setattr(paging, "PAGES", 2)
        yield


@pytest.fixture(scope="module")
def plain(tiny_run, tmp_path_factory):
    """A run without a ranker, to write to."""
    return shutil.copytree(tiny_run, tmp_path_factory.mktemp("plain") / "run")


@pytest.fixture(scope="module")
def index(plain, tiny_market, tmp_path_factory):
    url = str(tmp_path_factory.mktemp("tuned") / "index")
    index_market(plain, tiny_market, url, as_of=split_cutoff(tiny_market, EARLIER["test"]))
    return url


@pytest.fixture(scope="module")
def run(plain, tiny_market, index, tmp_path_factory):
    """A run with a small ranker."""
    run = shutil.copytree(plain, tmp_path_factory.mktemp("ranked") / "run")
    recipe = load_recipe_and_featurizer(run)[0]
    trees = recipe.ranking.trees.model_copy(update={"least_rows": 5, "trees": 20})
    dlrm = recipe.ranking.dlrm.model_copy(update={"epochs": 2})
    ranking = recipe.ranking.model_copy(update={"trees": trees, "dlrm": dlrm, "relevance_bound": 1.0})
    (run / RECIPE).write_text(recipe.model_copy(update={"ranking": ranking}).toml())
    rank(run, tiny_market, index)
    return run


@pytest.fixture(scope="module")
def tuned(run, tiny_market, index, tmp_path_factory):
    report = tmp_path_factory.mktemp("report") / "tuning.html"
    return tune_run(run, tiny_market, index, Constraints(p99_ms=60_000), report), report


def test_the_chosen_policy_is_written_and_served(tuned, run, tiny_market, index):
    """What else `retrieval.json` says stays."""
    tuned, _ = tuned
    stored = json.loads((run / RETRIEVAL).read_text())
    assert stored.keys() == {"min_cosine", "pages"}
    policy = RetrievalPolicy.of_run(run, 1_000)
    assert policy.pages == tuned.pages == tuned.paging.replayed[tuned.paging.chosen].pages
    request = tuned.golden.queries[0].request
    with Replay.of_run(run, tiny_market, index, split_cutoff(tiny_market, EARLIER["test"])) as opened:
        asked, search = [], opened.index.search
        opened.index.search = lambda expression, limit: asked.append((expression, limit)) or search(expression, limit)
        opened.searcher(policy).search(request)
    (expression, limit), first = asked[0], policy.pages[0]
    assert limit == max(first.candidates, request.page_size + 1)
    for lever in ("ef_search", "min_cosine", "text_candidates"):
        assert getattr(expression, lever) == getattr(first, lever)


def test_every_setting_is_measured_in_full(tuned):
    tuned, _ = tuned
    assert tuned.serving == "both" and tuned.usual in [each.setting for each in tuned.measured]
    assert len({each.setting for each in tuned.measured}) == len(tuned.measured)
    assert {each.setting.stages for each in tuned.by_lever["min_cosine"]} == {"none", "first", "both"}
    wanted = {"precision", "recall", "engaged", "retrieved", "unjudged", "exact@10", "exact", "ndcg@10", "p99_ms"}
    for each in tuned.measured:
        assert wanted <= each.figures.keys()
        assert all(0 <= each.figures[name] <= 1 for name in ("precision", "recall", "engaged", "exact", "ndcg@10"))
        low, high = each.intervals["recall"]
        assert low <= each.figures["recall"] <= high and each.figures["cpu_ms"] > 0
    assert tuned.frontier and {each.setting.stages for each in tuned.frontier} == {"both"}


def test_a_lever_does_what_it_says(tuned):
    """More candidates find as much or more, a higher least cosine less; all 300 products are scanned at this size."""
    by_lever = tuned[0].by_lever
    few, many = by_lever["candidates"]
    assert few.figures["recall"] <= many.figures["recall"] and few.figures["retrieved"] < many.figures["retrieved"]
    near = [each for each in by_lever["min_cosine"] if each.setting.stages == "none"]
    near.sort(key=lambda each: each.setting.effort.min_cosine or -1)
    retrieved = [each.figures["retrieved"] for each in near]
    assert retrieved == sorted(retrieved, reverse=True) and retrieved[0] > retrieved[-1]
    assert all(each.figures["exact@10"] == 1 for each in near if each.setting.effort.min_cosine is None)
    words = {each.setting.effort.text_candidates: each.figures["retrieved"] for each in by_lever["text_candidates"]}
    assert words[0] < words[25] <= words[None]


def test_paging_is_compared_with_each_effort_throughout(tuned):
    paging = tuned[0].paging
    assert {"deeper later", "first throughout"} <= paging.replayed.keys() and paging.chosen in paging.replayed
    assert len(paging.reach.chances_P) == 2 and paging.reach.chances_P[0] == 1
    for policy in paging.replayed.keys() - {paging.chosen}:
        difference, interval = paging.differences[policy, "engaged"]
        assert interval[0] <= difference <= interval[1]


def test_the_report_and_the_json_say_it(tuned):
    tuned, report = tuned
    page, told = report.read_text(), json.loads(json.dumps(tuned.as_dict()))
    for heading in ("The frontier", "Precision matters", "One lever at a time", "deeper later", "Every setting"):
        assert heading in page
    assert page.count("<tr") > len(tuned.measured) and "nan" not in page.lower().replace("finance", "")
    assert len(told["settings"]) == len(tuned.measured) and told["pages"][0]["candidates"]
    assert told["refused"] is None and sum(each["frontier"] for each in told["settings"]) == len(tuned.frontier)
    assert summary(tuned).renderables


def test_impossible_constraints_write_nothing_and_name_the_nearest(plain, tiny_market, index, capsys, monkeypatch):
    before = (plain / RETRIEVAL).read_bytes()
    command = f"mercato tune {plain} --market {tiny_market.path} --index {index} --precision 1 --p99-ms 0.1 --json"
    monkeypatch.setattr("sys.argv", command.split())
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    told = json.loads(capsys.readouterr().out)
    assert told["pages"] is None and told["paging"] is None
    assert "no setting keeps to the constraints" in told["refused"] and "0.1 ms" in told["refused"]
    assert (plain / RETRIEVAL).read_bytes() == before
    assert "Nothing was written" in (plain / "tuning.html").read_text()


def test_a_run_without_a_ranker_is_tuned_in_retrievals_order(plain, tiny_market, index):
    tuned = tune(plain, tiny_market, index, Constraints())
    assert {each.setting.stages for each in tuned.measured} == {"none"} and tuned.refused is None
    assert RetrievalPolicy.of_run(plain, 1_000).pages == tuned.pages


def test_one_query_is_too_little(plain, tiny_market, index, tmp_path):
    """A bootstrap of one would take every difference for certain."""
    folder = shutil.copytree(tiny_market.path, tmp_path / "m", ignore=shutil.ignore_patterns("truth", "events"))
    for table in ("pairs", "lists"):
        (folder / f"{table}.parquet").unlink()
    judgments = pl.read_parquet(folder / "judgments.parquet").filter(pl.col("split") == "validation")
    judgments.filter(pl.col("query") == judgments["query"][0]).write_parquet(folder / "judgments.parquet")
    before = (plain / "retrieval.json").read_text()
    with pytest.raises(MercatoError, match="too little to tune by: 1 different"):
        tune(plain, Market.open(folder), index, Constraints())
    assert (plain / "retrieval.json").read_text() == before


def test_judgments_without_a_log(plain, tiny_market, index, tmp_path):
    """No engaged products, no lists: no paging is replayed."""
    folder = shutil.copytree(tiny_market.path, tmp_path / "m", ignore=shutil.ignore_patterns("truth", "events"))
    for table in ("pairs", "lists"):
        (folder / f"{table}.parquet").unlink()
    tuned = tune(plain, Market.open(folder), index, Constraints(precision=0))
    assert tuned.paging is None and tuned.refused is None and tuned.pages
    assert "engaged" not in tuned.measured[0].figures


def test_a_log_without_judgments(plain, tiny_market, index, tmp_path):
    """Page one goes by what people engaged with; how precise it is cannot be asked."""
    folder = shutil.copytree(tiny_market.path, tmp_path / "m", ignore=shutil.ignore_patterns("truth", "judgments*"))
    with pytest.raises(MercatoError, match=r"no judgments of the split `validation`.*--precision"):
        tune(plain, Market.open(folder), index, Constraints(precision=0.5))
    tuned = tune(plain, Market.open(folder), index, Constraints())
    assert "ndcg@10" not in tuned.measured[0].figures and tuned.paging and tuned.refused is None


def test_an_index_of_another_run_is_refused(plain, tiny_market, tmp_path):
    build_index(str(tmp_path / "other"), [], 16, fingerprint="another")
    with pytest.raises(MercatoError, match="was not made by"):
        tune(plain, tiny_market, str(tmp_path / "other"), Constraints())


def test_a_least_cosine_that_leaves_nothing_is_measured_as_nothing(plain, tiny_market, index):
    golden_set = GoldenSet.read(tiny_market)
    weights = np.ones((2, len(golden_set.queries)))
    effort = Effort(ef_search=16, candidates=25, min_cosine=1.0, text_candidates=0)
    with Replay.of_run(plain, tiny_market, index, split_cutoff(tiny_market, EARLIER["test"])) as opened:
        bench = Bench(opened, {"none": None}, golden_set, weights, {})
        (found,) = bench.measure([Setting(effort, "none")], "nothing")
    values = found.values
    nothing_Q = values["retrieved"] == 0  # exact hits, which the words bring, are free of it
    assert nothing_Q.mean() > 0.8 and np.isnan(values["precision"][nothing_Q]).all()
    for name in ("recall", "engaged", "ndcg@10", "engaged_shown"):
        assert set(np.nan_to_num(values[name][nothing_Q])) == {0}
        assert (values[name][nothing_Q] == 0).any()


def test_no_stage_is_left_out_on_a_busy_machine(run):
    """What a setting finds is the same whatever else goes on."""
    stages = stages_of(Ranker.of_run(run))
    assert [*stages] == ["none", "first", "both"] and stages["first"].dlrm is None
    assert not any(ranker._is_late(-1e9) for ranker in stages.values() if ranker)
    drawing = Ranker.of_run(run).settings.model_copy(update={"exploration": Exploration(share=0.5)})
    explored = stages_of(replace(Ranker.of_run(run), settings=drawing))
    assert {ranker.settings.exploration for ranker in explored.values() if ranker} == {None}, "a draw would be measured"


def test_least_cosines_leave_out_ever_more():
    values = least_cosines(np.linspace(0, 1, 1001), 0.42)
    assert values[0] is None and values[1:] == sorted(values[1:]) and 0.42 in values
    assert least_cosines(np.zeros(0), None) == [None]
