"""Sampled softmax against the full one, and chunk by chunk against all at once."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mercato.losses.sampled_softmax import log_sum, sampled_softmax

NONE = torch.zeros(0, 2, dtype=torch.int64)


def unit(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def loss_of(
    query_BD: Tensor, product_MD: Tensor, own_B: Tensor, column_J: Tensor, log_q_J: Tensor, excluded_E2: Tensor, **more
) -> Tensor:
    """The loss of queries whose own products are given, with some products as columns."""
    others_B = log_sum(
        query_BD, lambda start, stop: product_MD[column_J[start:stop]], log_q_J=log_q_J, excluded_E2=excluded_E2, **more
    )
    return sampled_softmax(more["scale"] * (query_BD * product_MD[own_B]).sum(1), others_B)


def own_places(own_B: Tensor, column_J: Tensor) -> Tensor:
    """Where a column holds a row's own product, sorted by column."""
    return (own_B[None, :] == column_J[:, None]).nonzero().flip(1)


def test_by_hand():
    query, product = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]])
    log_q = torch.tensor([2.0, 0.5]).log()  # expected twice, and once in two steps
    found = loss_of(query, product, torch.tensor([0]), torch.tensor([1, 2]), log_q, NONE, scale=2.0)
    own, others = math.exp(1.2), 1 / 2 + math.exp(-2.0) / 0.5
    assert float(found) == pytest.approx(-math.log(own / (own + others)))


def test_with_all_products_as_columns_it_is_the_full_softmax():
    query, product, own = unit(4, 8), unit(9, 8, seed=1), torch.tensor([3, 0, 3, 8])
    every = torch.arange(9)
    found = loss_of(query, product, own, every, torch.zeros(9), own_places(own, every), scale=5.0)
    torch.testing.assert_close(found, F.cross_entropy(5.0 * query @ product.T, own))


@pytest.mark.parametrize("popular", [False, True])
def test_the_corrected_sum_is_right_on_average(popular):
    query, product, own = unit(1, 8), unit(30, 8, seed=1), torch.tensor([7])
    chance = torch.full((30,), 1 / 30)
    if popular:
        chance = torch.arange(1, 31) / (30 * 31 / 2)
    drawn, scale = 6, 3.0
    columns = torch.multinomial(chance, drawn * 1_500, True, generator=torch.Generator().manual_seed(2)).view(-1, drawn)
    sums = torch.stack(
        [
            log_sum(
                query,
                lambda start, stop, column=column: product[column[start:stop]],
                scale=scale,
                log_q_J=(drawn * chance[column]).log(),
                excluded_E2=own_places(own, column),
            ).exp()
            for column in columns
        ]
    )
    logits = (scale * query @ product.T).exp()[0]
    assert float(sums.mean()) == pytest.approx(float(logits.sum() - logits[7]), rel=0.04)


def test_with_many_draws_loss_and_gradient_are_those_of_the_full_softmax():
    product, own = unit(30, 8, seed=1), torch.tensor([7, 2])
    chance = torch.arange(1, 31) / (30 * 31 / 2)
    column = torch.multinomial(chance, 200_000, True, generator=torch.Generator().manual_seed(2))
    gradients, losses = [], []
    for full in (True, False):
        query = unit(2, 8).requires_grad_()
        if full:
            loss = F.cross_entropy(3.0 * query @ product.T, own)
        else:
            log_q = (200_000 * chance[column]).log()
            loss = loss_of(query, product, own, column, log_q, own_places(own, column), scale=3.0)
        loss.backward()
        losses.append(loss.detach())
        gradients.append(query.grad)
    torch.testing.assert_close(*losses, atol=0.01, rtol=0)
    torch.testing.assert_close(*gradients, atol=0.01, rtol=0)


@pytest.mark.parametrize("chunk", [1, 4, 9, 50])
def test_in_chunks_loss_and_gradients_are_the_same(chunk):
    own, column = torch.tensor([3, 0, 5]), torch.tensor([3, 3, 1, 8, 0, 2, 5, 6, 7])
    excluded = torch.cat([own_places(own, column), torch.tensor([[0, 8], [1, 8], [2, 8]])])  # of the last column, all
    log_q = torch.linspace(-2, 1, 9)
    results = []
    for size in (None, chunk):
        query, raw = unit(3, 8).requires_grad_(), unit(9, 8, seed=1).requires_grad_()
        scale = torch.tensor(4.0, requires_grad=True)
        loss = loss_of(query, raw, own, column, log_q, excluded, scale=scale, chunk=size)
        loss.backward()
        results.append([loss.detach(), query.grad, raw.grad, scale.grad])
    torch.testing.assert_close(*results)
    assert all(part.isfinite().all() for part in results[1])


def test_where_every_column_is_excluded_there_is_nothing_to_lose():
    query = unit(2, 8).requires_grad_()
    everything = torch.cartesian_prod(torch.arange(3), torch.arange(2)).flip(1)
    loss = loss_of(query, unit(3, 8), torch.tensor([0, 1]), torch.arange(3), torch.zeros(3), everything, scale=9.0)
    loss.backward()
    assert float(loss.detach()) == 0 and not query.grad.any()


def test_no_more_than_a_chunk_is_asked_for():
    asked = []

    def vectors(start: int, stop: int) -> Tensor:
        asked.append((start, stop))
        return unit(stop - start, 8, seed=start)

    query = unit(2, 8).requires_grad_()
    log_sum(query, vectors, scale=1.0, log_q_J=torch.zeros(10), excluded_E2=NONE, chunk=4).sum().backward()
    assert sorted(asked) == [(0, 4), (0, 4), (4, 8), (4, 8), (8, 10), (8, 10)], "once on the way there, once back"


@pytest.mark.parametrize("chunk", [None, 2])
def test_what_a_search_in_a_rows_country_cannot_find_is_no_negative(chunk):
    query, product = unit(3, 8), unit(5, 8, seed=1)
    of_row, of_column = torch.tensor([1, 2, 0]), torch.tensor([1, 2, 1, 0, 2])  # 0: anywhere; of none
    found = log_sum(
        query,
        lambda start, stop: product[start:stop],
        scale=4.0,
        log_q_J=torch.zeros(5),
        excluded_E2=NONE,
        country_B=of_row,
        country_J=of_column,
        chunk=chunk,
    )
    logits = 4.0 * query @ product.T
    wanted = [logits[0, [0, 2]], logits[1, [1, 4]], logits[2]]
    torch.testing.assert_close(found, torch.stack([own.logsumexp(0) for own in wanted]))
