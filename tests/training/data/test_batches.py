from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mercato.config.stages import CoSENT, InBatchSoftmax
from mercato.errors import MercatoError
from mercato.losses.in_batch_softmax import in_batch_softmax
from mercato.models.tower import TwoTower, tensors
from mercato.training.data.batches import Examples, FeatureTables, PairBatches, take
from tests.support.labelled_pairs import SPEC, word_examples, word_tables, word_towers


@pytest.fixture(scope="module")
def tables() -> FeatureTables:
    return word_tables()


@pytest.fixture(scope="module")
def towers() -> TwoTower:
    return word_towers()


PAIRS = [(0, 0), (1, 1), (0, 2), (1, 1), (3, 2), (4, 4)]


def test_only_negatives_are_negatives(tables):
    excluded = word_examples(tables, PAIRS).batch(np.arange(6)).excluded_BJ.numpy()
    known = set(PAIRS)
    for i, (query, _) in enumerate(PAIRS):
        for j, (_, product) in enumerate(PAIRS):
            assert excluded[i, j] == (i != j and (query, product) in known), (i, j)


def test_a_positive_outside_the_batch_is_known_too(tables):
    batch = word_examples(tables, PAIRS).batch(np.array([0, 4]))  # (0, 0) and (3, 2); (0, 2) is elsewhere
    assert batch.excluded_BJ.tolist() == [[False, True], [False, False]]


def test_distinct_encoding_is_the_naive_loss(tables, towers):
    data = word_examples(tables, PAIRS, drop_N=np.array([0, 1, 0, 0, 1, 1]), drop_fields=[(), ("title",)])
    batch = data.batch(np.arange(6))
    assert len(batch.query_B) == 6 and len(next(iter(batch.query.values()))) == 4
    assert len(next(iter(batch.product.values()))) == 6  # 1 and 2 both hidden and whole
    query = towers.query(batch.query)[0][batch.query_B]
    product = towers.product(batch.product)[0][batch.product_B]
    loss = in_batch_softmax(query @ product.T, batch.excluded_BJ, 20)
    one_by_one = [data.batch(np.array([row])) for row in range(6)]
    naive_query = torch.cat([towers.query(one.query)[0] for one in one_by_one])
    naive_product = torch.cat([towers.product(one.product)[0] for one in one_by_one])
    naive = in_batch_softmax(naive_query @ naive_product.T, batch.excluded_BJ, 20)
    torch.testing.assert_close(loss, naive)


def test_a_field_is_dropped_in_that_pair_alone(tables):
    whole = {name: array.copy() for name, array in tables.products.items()}
    data = word_examples(
        tables,
        [(0, 1), (2, 1), (3, 3)],
        drop_N=np.array([1, 0, 2]),
        drop_fields=[(), ("title",), ("images", "description")],
    )
    batch = data.batch(np.arange(3))
    rows = {name: array[batch.product_B] for name, array in batch.product.items()}
    assert not rows["title_tokens"][0].any() and not rows["title_trigrams"][0].any()
    assert rows["description_tokens"][0].any() and rows["image_mask"][0].any()
    assert rows["title_tokens"][1].any() and rows["title_trigrams"][1].any()
    assert rows["title_tokens"][2].any()
    assert not rows["description_tokens"][2].any() and not rows["image_mask"][2].any()
    assert all(np.array_equal(tables.products[name], whole[name]) for name in whole), "the table stays whole"


def test_the_other_instance_of_a_product_is_no_negative_of_its_pair(tables):
    """Else the pair would be taught that its own title is wrong, or could read it there."""
    data = word_examples(tables, [(0, 1), (2, 1)], drop_N=np.array([1, 0]), drop_fields=[(), ("title",)])
    assert data.batch(np.arange(2)).excluded_BJ.tolist() == [[False, True], [True, False]]


def test_trimming_changes_no_vector(tables, towers):
    for name, table, tower in (("query", tables.queries, towers.query), ("product", tables.products, towers.product)):
        whole = tower(tensors(table))[0]
        for row in range(5):
            part = take(table, np.array([row]), SPEC)
            torch.testing.assert_close(tower(tensors(part))[0][0], whole[row], atol=1e-5, rtol=0, msg=name)
    short = take(tables.products, np.array([2]), SPEC)["description_tokens"]
    assert short.shape[1] < tables.products["description_tokens"].shape[1]


def order(data: Examples, seed: int, epoch: int) -> list[int]:
    """The pairs of an epoch, each known by its grade."""
    batches = PairBatches(data, data.engaged, InBatchSoftmax(batch_size=2), seed)
    batches.epoch = epoch
    return [int(grade) for batch in batches for grade in batch.grade_B]


def test_the_order_is_of_seed_and_epoch_alone(tables):
    data = word_examples(tables, PAIRS * 3, grade_N=np.arange(18, dtype=np.float32))
    first = order(data, 1, 0)
    torch.manual_seed(9)
    assert order(data, 1, 0) == first
    assert order(data, 1, 1) != first and order(data, 2, 0) != first
    assert sorted(order(data, 1, 1)) == sorted(first) == list(range(18))


def test_batches_are_even(tables):
    data = word_examples(tables, PAIRS)
    assert [len(batch) for batch in PairBatches(data, data.engaged, InBatchSoftmax(batch_size=4), 0)] == [3, 3]
    assert len(PairBatches(data, data.engaged, InBatchSoftmax(batch_size=4), 0)) == 2
    assert [len(batch) for batch in PairBatches(data, data.engaged, InBatchSoftmax(batch_size=2), 0)] == [2, 2, 2]
    assert len(PairBatches(data, data.engaged[:1], InBatchSoftmax(batch_size=4), 0)) == 1


def test_a_graded_stage_has_rows_of_every_pair(tables):
    data = word_examples(tables, PAIRS, [(1, 2), (0, 1)])
    assert data.rows(CoSENT()).tolist() == [*range(8)] and data.rows(InBatchSoftmax()).tolist() == [*range(6)]


def test_no_pair_is_known_that_was_not_engaged_where_queries_outnumber_products(tables):
    few = FeatureTables(queries=tables.queries, products=take(tables.products, np.arange(2), SPEC), spec=SPEC)
    excluded = word_examples(few, [(0, 1), (2, 1), (3, 0)]).batch(np.arange(3)).excluded_BJ
    assert excluded.tolist() == [[False, True, False], [True, False, False], [False, False, False]]


def test_an_epoch_draws_by_weight_and_reads_typos(tables):
    data = word_examples(
        tables, [(0, 0), (1, 1), (2, 2)], grade_N=np.arange(3, dtype=np.float32),
        weight_N=np.array([0.0, 1.0, 0.0]), weight_power=1.0, typos_QK=np.full((5, 1), 4), typo_share=0.999999,
    )  # fmt: skip
    (batch,) = PairBatches(data, data.engaged, InBatchSoftmax(batch_size=3), seed=0)
    assert batch.grade_B.tolist() == [1, 1, 1]
    read = tables.query_inputs(np.array([4]))
    assert all(torch.equal(batch.query[name], read[name]) for name in read)


def test_each_query_of_a_batch_slips_in_its_own_way(tables):
    data = word_examples(tables, [(0, 0)] * 40, typos_QK=np.array([[3, 4]] * 5), typo_share=0.999999)
    batch = data.batch(np.arange(40), np.random.default_rng(0))
    assert 0 < batch.query_B.sum() < 40


def test_half_precision_photos_become_whole(tables):
    assert tensors({"images": np.ones((1, 2), np.float16)})["images"].dtype == torch.float32
    assert tensors({"ids": np.ones((1, 2), np.int32)})["ids"].dtype == torch.int64


def test_queries_with_typos_are_read_but_change_no_pair(tables):
    """Queries 3 and 4 stand as the typos of 0 and 1: a batch reads them, and excludes what the true queries know."""
    rows = np.arange(3)
    data = word_examples(
        tables, [(0, 0), (1, 1), (0, 2)], typos_QK=np.array([[3], [4], [2], [3], [4]]), typo_share=0.999999
    )
    misspelled, plain = data.batch(rows, np.random.default_rng(0)), data.batch(rows)
    read = tables.query_inputs(np.array([3, 4]))
    assert all(torch.equal(misspelled.query[name], read[name]) for name in read)
    assert torch.equal(misspelled.excluded_BJ, plain.excluded_BJ)
    assert not all(torch.equal(misspelled.query[name], plain.query[name]) for name in read)


@pytest.mark.parametrize(("negatives", "mixed"), [("batch", 0), ("mixed", 3), ("mixed_independent", 3)])
def test_an_unengaged_pair_is_never_an_in_batch_positive(tables, negatives, mixed):
    """Each pair is known by its grade."""
    engaged, unengaged = [(0, 0), (1, 1), (0, 2), (2, 3)], [(0, 1), (1, 3), (2, 0)]
    data = word_examples(tables, engaged, unengaged, grade_N=np.arange(7, dtype=np.float32))
    stage = InBatchSoftmax(batch_size=2, negatives=negatives, unengaged=1.5, engagement_weight=0.2)
    batches = PairBatches(data, data.rows(stage), stage, seed=0)
    seen = []
    for batches.epoch in range(5):
        for batch in batches:
            seen += batch.grade_B.tolist()
            assert len(batch.unengaged_query_U) == len(batch.unengaged_product_U) == 3
            assert batch.excluded_BJ.shape == (2, 2 + mixed) and len(batch.mixed_product_V) == mixed
            found = pairs_of(tables, batch, batch.unengaged_query_U, batch.unengaged_product_U)
            assert found <= set(unengaged)
            assert pairs_of(tables, batch, batch.query_B, batch.product_B) <= set(engaged)
    assert sorted(seen) == sorted([0, 1, 2, 3] * 5), "each once an epoch"


def pairs_of(tables: FeatureTables, batch, query_N, product_N) -> set[tuple[int, int]]:
    """The pairs of a batch as they stand in the tables, known by their tokens."""

    def place(inputs, table, row: int) -> int:
        own = [i for i in inputs[row].tolist() if i]
        return next(n for n, ids in enumerate(table) if [i for i in ids.tolist() if i] == own)

    return {
        (
            place(batch.query["tokens"], tables.queries["tokens"], q),
            place(batch.product["title_tokens"], tables.products["title_tokens"], p),
        )
        for q, p in zip(query_N.tolist(), product_N.tolist(), strict=True)
    }


SHOWN = [(0, 1), (0, 3), (1, 3), (1, 4), (2, 0), (4, 2)]  # of query 3 nothing was shown and left


def drawn_for(tables: FeatureTables, negatives: str, epochs: int, unengaged: float = 1.0, **fields):
    """The batches of some epochs, three engaged pairs each, as (queries, products of the mixed negatives)."""
    data = word_examples(tables, [(0, 0), (1, 1), (0, 2), (2, 3), (3, 2), (2, 4)], SHOWN, **fields)
    stage = InBatchSoftmax(batch_size=3, negatives=negatives, unengaged=unengaged)
    batches = PairBatches(data, data.rows(stage), stage, seed=0)
    for batches.epoch in range(epochs):
        for batch in batches:
            assert not len(batch.unengaged_query_U), "there is no second task"
            queries = pairs_of(tables, batch, batch.query_B, batch.product_B)
            drawn = pairs_of(tables, batch, batch.query_B[:1].expand(len(batch.mixed_product_V)), batch.mixed_product_V)
            yield sorted(query for query, _ in queries), [product for _, product in drawn], len(batch.mixed_product_V)


def test_every_row_meets_a_product_shown_for_its_own_query(tables):
    met = independent = rows = 0
    for queries, products, count in drawn_for(tables, "mixed", 20):
        shown = [{product for own, product in SHOWN if own == query} for query in queries]
        assert all(not own or own & set(products) for own in shown)
        assert count == sum(map(bool, shown)), "a query that was shown nothing contributes none"
        assert set(products) <= set().union(*shown)
    for queries, products, count in drawn_for(tables, "mixed_independent", 20):
        shown = [{product for own, product in SHOWN if own == query} for query in queries]
        assert count == 3
        rows += sum(map(bool, shown))
        met += sum(bool(own & set(products)) for own in shown)
        independent += not set(products) <= set().union(*shown)
    assert met < rows and independent, "drawn apart, some rows meet none and other queries' products join"


def test_mixed_negatives_of_a_row_may_be_a_broken_number(tables):
    data = word_examples(tables, [(0, 0), (0, 2), (1, 1), (2, 3)], SHOWN)
    for unengaged, counts in [(0.5, {2}), (1.5, {6}), (2.0, {8}), (0.1, {0})]:
        stage = InBatchSoftmax(batch_size=4, negatives="mixed", unengaged=unengaged)
        assert {len(batch.mixed_product_V) for batch in PairBatches(data, data.engaged, stage, 0)} == counts


def test_a_batch_that_was_shown_nothing_has_its_own_negatives_alone(tables):
    data = word_examples(tables, [(3, 3), (4, 4)], [(0, 1)])
    stage = InBatchSoftmax(negatives="mixed")
    (batch,) = PairBatches(data, data.engaged, stage, 0)
    assert batch.excluded_BJ.shape == (2, 2)


def test_the_second_task_draws_its_pairs_apart_from_the_batch_and_from_mixed_negatives(tables):
    data = word_examples(tables, [(0, 0), (0, 2)], SHOWN)
    stage = InBatchSoftmax(negatives="mixed", engagement_weight=0.2, unengaged=6)
    (batch,) = PairBatches(data, data.engaged, stage, 0)
    found = pairs_of(tables, batch, batch.unengaged_query_U, batch.unengaged_product_U)
    assert len({query for query, _ in found}) > 1
    assert {p for _, p in pairs_of(tables, batch, batch.query_B[:1].expand(12), batch.mixed_product_V)} == {1, 3}


def test_some_pairs_of_a_batch_keep_the_unengaged_ones(tables):
    data = word_examples(tables, [(0, 0), (1, 1), (0, 2)], [(1, 2), (0, 1)])
    whole = data.batch(np.arange(3), unengaged=np.array([3, 4]), mixed=np.array([4, 3]))
    some = whole.only(torch.tensor([0, 2]))
    assert torch.equal(some.excluded_BJ, whole.excluded_BJ[[0, 2]][:, [0, 2, 3, 4]])
    assert torch.equal(some.grade_B, whole.grade_B[[0, 2]])
    assert torch.equal(some.query_B, whole.query_B[[0, 2]]) and torch.equal(some.product_B, whole.product_B[[0, 2]])
    assert len(some) == 2 and len(some.unengaged_query_U) == 2


def test_without_unengaged_pairs_there_is_nothing_to_learn_engagement_from(tables):
    data, stage = word_examples(tables, PAIRS), InBatchSoftmax(engagement_weight=0.2)
    with pytest.raises(MercatoError, match="label 0"):
        PairBatches(data, data.rows(stage), stage, seed=0)


def test_pairs_of_a_query_are_drawn_by_their_weight(tables):
    weight = np.array([1.0, 9, 5, 1, 4, 4, 1])
    data = word_examples(tables, [(0, 0)], [(1, 1), (0, 1), (1, 2), (0, 2), (1, 3), (4, 4)])
    data = replace(data, weight_N=weight, weight_power=0.5)
    pool = data.query_pool(data.unengaged)
    drawn = pool.draw(np.tile([1, 0, 3, 2], 3_000), np.random.default_rng(0))
    assert len(drawn) == 6_000, "queries 2 and 3 have none"
    assert np.bincount(drawn, minlength=7) / 500 == pytest.approx([0, 3, 3.17, 1, 2.83, 2, 0], rel=0.1)
    assert drawn[::2].tolist() != drawn[1::2].tolist() and set(drawn[::2]) == {1, 3, 5}
    alike = replace(data, weight_power=0.0).query_pool(data.unengaged)
    assert np.bincount(alike.draw(np.full(3_000, 1), np.random.default_rng(0)))[[1, 3, 5]] / 1_000 == pytest.approx(
        [1, 1, 1], rel=0.1
    )


def test_pairs_are_drawn_by_their_weight(tables):
    data = replace(word_examples(tables, PAIRS), weight_N=np.array([1.0, 4, 9, 1, 1, 1]), weight_power=0.5)
    drawn = data.pool(np.array([0, 1, 2])).draw(6_000, np.random.default_rng(0))
    assert np.bincount(drawn, minlength=6) / 1_000 == pytest.approx([1, 2, 3, 0, 0, 0], rel=0.1)
    alike = replace(data, weight_power=0.0).pool(np.array([1, 5])).draw(1_000, np.random.default_rng(0))
    assert np.bincount(alike, minlength=6) / 500 == pytest.approx([0, 1, 0, 0, 0, 1], rel=0.1)


def test_what_stood_far_down_is_drawn_more_rarely(tables):
    """An unknown position counts as the mean one, (1 + 4 + 10) / 3; one from 0 as 1."""
    shown = [(1, 1), (1, 2), (1, 3), (2, 4)]
    data = word_examples(tables, [(0, 0)], shown, position_N=np.array([99.0, 1, 4, np.nan, 10]))
    stage = InBatchSoftmax(engagement_weight=0.2, unengaged_position_power=0.5)
    pool = data.pool(data.unengaged, stage.position_power)
    wanted = np.array([1, 1 / 2, 5**-0.5, 10**-0.5])
    assert pool.chances() == pytest.approx(wanted / wanted.sum())
    own = data.query_pool(data.unengaged, 0.5).draw(np.full(4_000, 1), np.random.default_rng(0))
    assert np.bincount(own)[1:] / 4_000 == pytest.approx(wanted[:3] / wanted[:3].sum(), rel=0.1)
    weighed = replace(data, weight_N=np.array([7.0, 4, 1, 1, 9]), weight_power=0.5)
    both = weighed.pool(data.unengaged, 1.0).chances()
    wanted = np.array([2 * 1, 1 / 4, 1 / 5, 3 / 10])
    assert both == pytest.approx(wanted / wanted.sum())
    assert data.pool(data.unengaged, InBatchSoftmax(engagement_weight=0.2).position_power).upto_K is None
    first = replace(data, position_N=np.array([99.0, 0, 1, 1, 1]))
    assert first.pool(data.unengaged, 0.5).chances() == pytest.approx([0.25] * 4)


@pytest.mark.parametrize("negatives", ["batch", "mixed", "mixed_independent"])
def test_a_stage_draws_its_unengaged_pairs_by_position(tables, negatives):
    engaged, shown = [(0, 0), (0, 2)], [(0, 1), (0, 3), (0, 4)]
    data = word_examples(tables, engaged, shown, position_N=np.array([1.0, 1, 1, 1e9, 1e9]))
    stage = InBatchSoftmax(
        negatives=negatives, unengaged=20, unengaged_position_power=2, engagement_weight=float(negatives == "batch")
    )
    (batch,) = PairBatches(data, data.engaged, stage, 0)
    drawn = batch.mixed_product_V if negatives != "batch" else batch.unengaged_product_U
    assert len(drawn) == 40
    assert pairs_of(tables, batch, batch.query_B[:1].expand(40), drawn) == {(0, 1)}


def epoch_of(data: Examples, number: int = 0, size: int = 4, **fields) -> list[list[int]]:
    """The rows of an epoch's batches, each known by its grade."""
    batches = PairBatches(data, data.engaged, InBatchSoftmax(batch_size=size, **fields), seed=0)
    batches.epoch = number
    return [[int(grade) for grade in batch.grade_B] for batch in batches]


def joined(batches: list[list[int]]) -> list[int]:
    return [row for batch in batches for row in batch]


def test_a_batch_is_of_one_country_but_where_ones_rows_end(tables):
    country = np.array([0] * 9 + [1] * 6 + [2] * 3 + [3] * 2)
    data = word_examples(tables, PAIRS[:5] * 4, grade_N=np.arange(20, dtype=np.float32), country_N=country)
    first = epoch_of(data, batches="by_country")
    assert sorted(joined(first)) == list(range(20)) and {len(batch) for batch in first} == {4}
    ends = 0
    for number in range(12):
        epoch = epoch_of(data, number, batches="by_country")
        several = [batch for batch in epoch if len(set(country[batch])) > 1]
        ends += len(several)
        assert len(several) <= 3, "as many as there are borders"
        assert sum(len(set(country[batch])) for batch in epoch) <= 5 + 3
    mixed = sum(len(set(country[batch])) > 1 for number in range(12) for batch in epoch_of(data, number))
    assert 0 < ends < mixed / 1.5
    assert epoch_of(data, batches="by_country") == first, "of seed and epoch alone"
    orders = {tuple(dict.fromkeys(country[joined(epoch_of(data, n, batches="by_country"))])) for n in range(12)}
    assert len(orders) > 3, "countries take turns"
    within = {tuple(row for row in joined(epoch_of(data, n, batches="by_country")) if row < 9) for n in range(3)}
    assert len(within) == 3, "and their pairs are shuffled"


def test_by_country_changes_nothing_where_there_is_one(tables):
    data = word_examples(tables, PAIRS * 3, grade_N=np.arange(18, dtype=np.float32))
    assert epoch_of(data, batches="by_country") == epoch_of(data)


@pytest.mark.parametrize("power", [0.0, 1.0])
@pytest.mark.parametrize("negatives", ["batch", "mixed", "mixed_independent"])
def test_log_q_is_how_often_a_batch_holds_a_product(tables, negatives, power):
    engaged = [(0, 0), (1, 1), (0, 2), (2, 3), (3, 2), (2, 4)]
    weight = np.array([1.0, 3, 2, 1, 4, 1, 5, 1, 1, 2, 1, 3])
    data = word_examples(tables, engaged, SHOWN, weight_N=weight, weight_power=power)
    stage = InBatchSoftmax(batch_size=3, negatives=negatives, unengaged=2, log_q=True)
    batches, generator = PairBatches(data, data.engaged, stage, 0), np.random.default_rng(0)
    rows = batches._pool.draw(30_000, generator)
    columns = np.concatenate([rows, batches._mixed(rows, generator)])
    counted = np.bincount(data.product_N[columns], minlength=5) / len(rows)
    assert np.exp(batches._log_q_M) == pytest.approx(counted, rel=0.05)


def test_log_q_by_hand(tables):
    """Engaged pairs weigh 1, 3 and 4; query 0 was shown products 1 (thrice as often) and 3, query 1 product 3."""
    data = word_examples(tables, [(0, 0), (1, 1), (2, 1)], [(0, 1), (0, 3), (1, 3)])
    data = replace(data, weight_N=np.array([1.0, 3, 4, 3, 1, 1]), weight_power=1.0)

    def q(**fields) -> list[float]:
        stage = InBatchSoftmax(log_q=True, **fields)
        return np.exp(PairBatches(data, data.engaged, stage, 0)._log_q_M).tolist()

    assert q() == pytest.approx([1 / 8, 7 / 8, 0, 0, 0])
    own = [1 / 8, 7 / 8 + 2 * (1 / 8) * (3 / 4), 0, 2 * ((1 / 8) * (1 / 4) + 3 / 8), 0]
    assert q(negatives="mixed", unengaged=2) == pytest.approx(own)
    assert q(negatives="mixed_independent", unengaged=0.5) == pytest.approx([1 / 8, 7 / 8 + 0.3, 0, 0.2, 0])


def test_without_log_q_nothing_is_corrected_and_some_pairs_keep_theirs(tables):
    data = word_examples(tables, PAIRS, SHOWN)
    assert data.batch(np.arange(3), mixed=np.array([7])).log_q_J.tolist() == [0] * 4
    whole = data.batch(np.array([0, 1, 5]), mixed=np.array([7]), log_q_M=np.arange(5, dtype=np.float32))
    assert whole.log_q_J.tolist() == [0, 1, 4, 3]
    assert whole.only(torch.tensor([0, 2])).log_q_J.tolist() == [0, 4, 3]
