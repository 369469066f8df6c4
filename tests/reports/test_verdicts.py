"""What a report calls ahead, behind and not told apart, and by which intervals."""

from __future__ import annotations

import pytest

from mercato.evaluation.metrics.bootstrap import Interval
from mercato.evaluation.results import Counts, Figure, Metrics
from mercato.reports.headlines import leading
from mercato.reports.verdicts import beaten, compared, rivals, verdict

AHEAD, BEHIND, UNSURE = (0.01, 0.03), (-0.03, -0.01), (-0.01, 0.03)
PER_QUERY, NDCG, CLICKED = (
    ("relevance", "roc_auc_per_query"),
    ("relevance", "ndcg@10"),
    ("engagement", "roc_auc_of_clicked"),
)
Told = dict[tuple[str, str], Interval]


def metrics(own: dict[str, Told], together: dict[str, Told] | None = None) -> Metrics:
    """Differences of ours to each system, by themselves and all together, by part and metric."""

    def tree(told: Told) -> dict[str, dict[str, Interval]]:
        found: dict[str, dict[str, Interval]] = {}
        for (part, metric), interval in told.items():
            found.setdefault(part, {})[metric] = interval
        return found

    every = {key: UNSURE for told in own.values() for key in told}
    return Metrics(
        ours={part: {name: Figure(0.6, None) for name in named} for part, named in tree(every).items()},
        baselines={
            system: {part: {name: Figure(0.5, None) for name in named} for part, named in tree(told).items()}
            for system, told in own.items()
        },
        differences={system: tree(told) for system, told in own.items()},
        simultaneous_differences={system: tree(told) for system, told in (together or {}).items()},
        n=Counts(products=0, queries=0, resamples=0, seed=0, parts={}),
    )


@pytest.mark.parametrize(("interval", "expected"), [(AHEAD, "better"), (BEHIND, "worse"), (UNSURE, "unsure")])
def test_a_verdict_needs_an_interval_that_leaves_0(interval: Interval, expected: str) -> None:
    assert verdict(Figure(0.02, interval)) == expected


def test_the_interval_that_holds_with_all_others_goes_first() -> None:
    told = metrics({"bm25f": {NDCG: AHEAD}, "price": {CLICKED: AHEAD}}, {"bm25f": {NDCG: UNSURE}})
    lexical, price = compared(told, "bm25f", *NDCG), compared(told, "price", *CLICKED)
    assert lexical is not None and lexical.interval == UNSURE
    assert price is not None and price.interval == AHEAD
    assert compared(told, "bm25f", *CLICKED) is None


def test_chance_is_no_rival() -> None:
    told = metrics({"price": {CLICKED: AHEAD}, "random": {NDCG: AHEAD}, "bm25": {NDCG: AHEAD}, "other": {NDCG: AHEAD}})
    assert rivals(told) == ["other", "bm25", "price"]


def test_the_sentence_says_what_is_beaten_and_where_not() -> None:
    told = {"bm25f": {PER_QUERY: AHEAD, NDCG: AHEAD}, "bm25": {PER_QUERY: AHEAD, NDCG: AHEAD}}
    assert beaten(metrics(told)) == (
        "By 95 % intervals that hold all together the model is ahead of BM25F and BM25 on every headline metric that"
        " both have."
    )
    other = told | {"other": {PER_QUERY: AHEAD, NDCG: UNSURE, CLICKED: BEHIND}, "popularity": {CLICKED: UNSURE}}
    assert beaten(metrics(other)) == (
        "By 95 % intervals that hold all together (against Popularity by intervals of their own) the model is ahead of"
        " BM25F and BM25 on every headline metric that both have; ahead of other on 1 of 3, behind on engagement ROC"
        " AUC, of clicked, not told apart on relevance nDCG@10; not told apart from Popularity on any headline metric."
    )
    many = {PER_QUERY: AHEAD, NDCG: UNSURE, CLICKED: UNSURE}
    assert "ahead of other on 1 of 3 (relevance ROC AUC, per query), not told apart on the others" in beaten(
        metrics({"other": many})
    )
    assert beaten(metrics({"random": {NDCG: AHEAD}})) == ""


def test_counts_that_are_neither_better_nor_worse_are_not_told() -> None:
    assert beaten(metrics({"bm25": {("relevance", "unjudged@10"): AHEAD}})) == ""


def test_the_leading_headlines_are_the_weightiest_of_each_part_that_were_measured() -> None:
    led = [(each.part, each.metric) for each in leading(lambda _: True)]
    assert led == [
        *(PER_QUERY, NDCG),
        *(("engagement", "roc_auc_exposure_matched"), ("engagement", "roc_auc_same_kind")),
        *(("lists", "ndcg_ips"), ("knn", "recall@10")),
    ]
    pooled = [("engagement", "roc_auc"), ("engagement", "roc_auc_per_query")]  # of a log that counts no impressions
    assert [(each.part, each.metric) for each in leading(lambda each: (each.part, each.metric) in pooled)] == pooled
