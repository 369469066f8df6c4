"""Batches of the recall stage: their negatives, and what is none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mercato.config.stages import SampledSoftmax
from mercato.training.data.prepare import Prepared
from mercato.training.data.recall import RecallBatch, RecallBatches


def batches(prepared: Prepared, learnable: np.ndarray | None = None, **stage) -> RecallBatches:
    stage = SampledSoftmax(**{"batch_size": 8} | stage)
    return RecallBatches(prepared.examples, prepared.learnable if learnable is None else learnable, stage, seed=3)


def engaged(prepared: Prepared) -> dict[int, set[int]]:
    """The engaged products of each query, as rows of the tables."""
    examples, found = prepared.examples, {}
    for row in examples.engaged:
        found.setdefault(int(examples.query_N[row]), set()).add(int(examples.product_N[row]))
    return found


def assert_only_positives_are_excluded(batch: RecallBatch, prepared: Prepared, products: int) -> None:
    wanted = {
        (row, column)
        for row, query in enumerate(batch.query_B.tolist())
        for column, product in enumerate(batch.column_J.tolist())
        if product % products in engaged(prepared)[query]
    }
    assert {tuple(place) for place in batch.excluded_E2.tolist()} == wanted
    assert (batch.excluded_E2[:, 1].diff() >= 0).all()


@pytest.mark.parametrize("negatives", ["all", 5, 200])
def test_known_positives_are_no_negatives(prepared, negatives):
    made = batches(prepared, negatives=negatives)
    for batch in made:
        assert_only_positives_are_excluded(batch, prepared, made.products)


def test_all_negatives_are_all_products_that_may_be_learned_from(prepared):
    for batch in batches(prepared, learnable=np.array([1, 4, 7]), negatives="all"):
        assert batch.column_J.tolist() == [1, 4, 7] and not batch.drawn_J.any()


def test_a_sample_stands_beside_the_batchs_own_products(prepared):
    for batch in batches(prepared, learnable=np.array([1, 4, 7]), negatives=6):
        own = sorted(set(batch.product_B.tolist()))
        assert batch.column_J[: len(own)].tolist() == own
        assert len(batch.column_J) == len(own) + 6 and set(batch.column_J[len(own) :].tolist()) <= {1, 4, 7}


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_products_are_drawn_as_often_as_the_batch_says(prepared, share):
    made = batches(prepared, negatives=2_000, popularity_share=share)
    count = np.bincount(prepared.examples.product_N[prepared.examples.engaged], minlength=made.products)
    expected = 2_000 * ((1 - share) / len(prepared.learnable) + share * count / count.sum())
    batch = next(iter(made))
    np.testing.assert_allclose(batch.drawn_J, expected[batch.column_J], rtol=1e-5)
    drawn = np.bincount(batch.column_J[-2_000:], minlength=made.products)
    assert np.abs(drawn - expected).max() < 5 * np.sqrt(expected.max()) and not drawn[expected == 0].any()


def test_an_epoch_passes_once_over_the_engaged_pairs_and_is_drawn_by_seed_and_epoch(prepared):
    made, again = batches(prepared, negatives=4), batches(prepared, negatives=4)
    first = list(made)
    assert len(first) == len(made) and sum(map(len, first)) == len(prepared.examples.engaged)
    assert all(torch.equal(a.column_J, b.column_J) for a, b in zip(first, again, strict=True))
    again.epoch = 1
    assert not all(torch.equal(a.column_J, b.column_J) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("negatives", ["all", 500])
def test_negatives_are_seen_as_the_pairs_are(prepared, negatives):
    """Where pairs drop fields of their products, whole products would be told as negatives by what they show."""
    examples = prepared.examples
    kinds = np.zeros(len(examples), np.int64)
    kinds[examples.engaged[::3]] = 2
    dropped = [("title",), ("brand",), ("description",)]
    seen = replace(prepared, examples=replace(examples, drop_fields=dropped, drop_N=kinds))
    made = batches(seen, negatives=negatives)
    assert made.views == [("title",), ("description",)], "what no engaged pair drops is no view"
    views = torch.cat([batch.column_J for batch in made]) // made.products
    assert float(views.float().mean()) == pytest.approx(1 / 3, abs=0.15)
    assert set(torch.cat([batch.product_B for batch in made]).tolist()) == {
        int((kinds[row] == 2) * made.products + examples.product_N[row]) for row in examples.engaged
    }
    for batch in made:
        assert_only_positives_are_excluded(batch, prepared, made.products)


@pytest.mark.parametrize("negatives", ["all", 300])
def test_batches_by_country_are_asked_of_what_their_countries_can_find(prepared, negatives):
    examples = prepared.examples
    of_query, of_product = 1 + examples.query_N % 2, np.arange(len(prepared.learnable)) % 3  # 0: of no country
    apart = replace(prepared, examples=replace(examples, country_N=of_query, country_M=of_product))
    made = batches(apart, negatives=negatives, batches="by_country")
    numbers = dict(zip(examples.query_N.tolist(), of_query.tolist(), strict=True))
    alone = 0
    for batch in made:
        assert batch.country_B.tolist() == [numbers[query] for query in batch.query_B.tolist()]
        assert batch.country_J.tolist() == of_product[batch.column_J % made.products].tolist()
        countries = set(batch.country_B.tolist())
        alone += len(countries) == 1
        sampled = batch.column_J if negatives == "all" else batch.column_J[-300:]
        found = {int(row) for row in prepared.learnable if of_product[row] in countries}
        assert set(sampled.tolist()) == found if negatives == "all" else set(sampled.tolist()) <= found
        if negatives != "all":
            drawn = batch.drawn_J[-300:].numpy()
            np.testing.assert_allclose(drawn, 300 / len(found), rtol=1e-5)
    assert alone >= len(made) - 1, "a batch where one country ends and the next begins holds both"
    assert {tuple(batch.country_J.unique().tolist()) for batch in batches(apart)} == {(0,)}, "shuffled: anywhere"


@pytest.mark.parametrize(("negatives", "share"), [("all", 0.0), (20, 0.0), (20, 1.0)])
def test_a_country_without_products_is_searched_anywhere(prepared, negatives, share):
    examples = prepared.examples
    of_query = np.full(len(examples), 7)
    nowhere = replace(examples, country_N=of_query, country_M=np.ones(len(prepared.learnable), np.int64))
    made = batches(
        replace(prepared, examples=nowhere), negatives=negatives, batches="by_country", popularity_share=share
    )
    batch = next(iter(made))
    assert set(batch.country_B.tolist()) == {0} and len(batch.column_J) >= 20


def test_a_countrys_share_is_that_of_the_pairs_that_are_drawn(prepared):
    examples = prepared.examples
    of_query = 1 + examples.query_N % 2
    weight = np.where(of_query == 1, 100.0, 1.0)
    uneven = replace(
        examples, country_N=of_query, country_M=1 + np.arange(len(prepared.learnable)) % 2, weight_N=weight,
        weight_power=0.5,
    )  # fmt: skip
    made = batches(replace(prepared, examples=uneven), batches="by_country")
    drawn = np.concatenate([batch.country_B.numpy() for made.epoch in range(40) for batch in made])
    assert made.share_C[1:] == pytest.approx([(drawn == 1).mean(), (drawn == 2).mean()], abs=0.02)
