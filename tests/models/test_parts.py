from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mercato.models.bags import Category, TrigramBag
from mercato.models.channels import Channels
from mercato.models.fusion import AttentionFusion, ConcatFusion, late_fusion
from mercato.models.image_set import ImageSet

N, D = 4, 6


def channels_of(vectors: torch.Tensor, present: torch.Tensor) -> Channels:
    return Channels(vectors, present, torch.arange(present.shape[1]))


@pytest.fixture(scope="module")
def fusion() -> AttentionFusion:
    torch.manual_seed(0)
    return AttentionFusion(N, D)


def test_equation_1_by_hand():
    fusion = AttentionFusion(2, 2)
    with torch.no_grad():
        fusion.projection.weight.copy_(torch.tensor([[1.0, 0.0, 0.0, 2.0], [0.0, 1.0, -1.0, 0.0]]))
        fusion.projection.bias.copy_(torch.tensor([0.5, 0.0]))
    one, two = np.array([0.3, -0.2]), np.array([0.1, 0.4])
    logits = np.array([0.3 + 2 * 0.4 + 0.5, -0.2 - 0.1])
    weights = np.exp(logits) / np.exp(logits).sum()
    fused, got = fusion(
        channels_of(torch.tensor(np.stack([one, two])[None]).float(), torch.ones(1, 2, dtype=torch.bool))
    )
    np.testing.assert_allclose(got[0].detach(), weights, rtol=1e-5)
    np.testing.assert_allclose(fused[0].detach(), weights[0] * one + weights[1] * two, rtol=1e-5)


@given(present=st.lists(st.booleans(), min_size=N, max_size=N), seed=st.integers(0, 99))
def test_what_is_missing_has_no_say(fusion, present, seed):
    generator = torch.Generator().manual_seed(seed)
    channels, mask = torch.randn(1, N, D, generator=generator), torch.tensor([present])
    fused, weights = fusion(channels_of(channels, mask))
    assert (weights[~mask] == 0).all()
    assert weights.sum().item() == pytest.approx(float(any(present)), abs=1e-6)
    assert torch.isfinite(fused).all() and (any(present) or not fused.any())
    other = torch.where(mask.unsqueeze(-1), channels, 1e3 * torch.randn(1, N, D, generator=generator))
    again, weights_again = fusion(channels_of(other, mask))
    assert torch.equal(fused, again) and torch.equal(weights, weights_again)


@pytest.mark.parametrize("wide", [False, True])
def test_concatenation_by_hand(wide):
    torch.manual_seed(0)
    fusion = ConcatFusion(2, 3, wide)
    channels, present = torch.randn(2, 2, 3), torch.tensor([[True, True], [True, False]])
    fused, weights = fusion(channels_of(channels, present))
    first, last = fusion.deep[0], fusion.deep[2]
    for row in range(2):
        one, two = channels[row, 0], channels[row, 1] * present[row, 1]
        hidden = torch.nn.functional.gelu(first.weight @ torch.cat([one, two]) + first.bias)
        expected = last.weight @ hidden + last.bias + (one + two if wide else 0)
        torch.testing.assert_close(fused[row], expected)
    assert weights is None


def test_a_wide_and_deep_fusion_can_start_as_the_plain_sum():
    fusion = late_fusion("wide_and_deep", 2, 3)
    fusion.uniform_init()
    channels = torch.randn(4, 2, 3)
    torch.testing.assert_close(fusion(channels_of(channels, torch.ones(4, 2, dtype=torch.bool)))[0], channels.sum(1))
    channels.requires_grad_()
    fusion(channels_of(channels, torch.ones(4, 2, dtype=torch.bool)))[0].sum().backward()
    assert fusion.deep[2].weight.grad.any()  # and can leave it


def test_a_row_of_nothing_has_a_gradient_of_nothing(fusion):
    channels = torch.randn(2, N, D, requires_grad=True)
    fusion(channels_of(channels, torch.tensor([[True] * N, [False] * N])))[0].sum().backward()
    assert torch.isfinite(channels.grad).all() and not channels.grad[1].any()


def test_a_bag_is_the_sum_of_its_rows():
    bag = TrigramBag(50, D)
    ids = torch.tensor([[3, 7, 7, 0], [0, 0, 0, 0], [50, 1, 2, 3]])
    got = bag(ids)
    for row, vector in zip(ids, got, strict=True):
        expected = sum((bag.weight[i] for i in row.tolist() if i), torch.zeros(D))
        torch.testing.assert_close(vector, expected)


def test_padding_of_a_bag_neither_counts_nor_learns():
    bag = TrigramBag(50, D)
    assert torch.equal(bag(torch.tensor([[5, 6]])), bag(torch.tensor([[5, 6, 0, 0]])))
    optimizer = torch.optim.Adam(bag.parameters(), lr=1.0)
    bag(torch.tensor([[5, 0]])).sum().backward()
    optimizer.step()
    assert not bag.weight[0].any() and bag.weight.grad[5].all() and not bag.weight.grad[0].any()


def test_a_category():
    category = Category(3, D)
    assert torch.equal(category(torch.tensor([0, 3])), category.weight[[0, 3]])


def test_photos_are_a_set():
    torch.manual_seed(1)
    images = ImageSet(5, D, dropout=0.5).eval()
    vectors = torch.randn(2, 3, 5)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    got = images(vectors, mask)
    torch.testing.assert_close(images(vectors[:, [1, 0, 2]], mask[:, [1, 0, 2]]), got)
    noisy = torch.where(mask.unsqueeze(-1), vectors, torch.full_like(vectors, 99.0))
    torch.testing.assert_close(images(noisy, mask), got)
    torch.testing.assert_close(images(vectors[1:, :1], mask[1:, :1]), got[1:])
    assert not torch.allclose(images(vectors, mask | True), got), "a photo more is something else"
    assert torch.isfinite(images(vectors, mask & False)).all()


@pytest.mark.parametrize("count", [1, 2, 5])
def test_so_many_photos_weigh_as_the_square_root_of_their_number(count):
    """A sum would let five photos drown the text, a mean would say nothing of how many there are."""
    torch.manual_seed(1)
    images = ImageSet(5, D, dropout=0.5).eval()
    vector, one = torch.randn(1, 1, 5), torch.ones(1, 1, dtype=torch.bool)
    alone, together = (images(vector.expand(1, n, 5), one.expand(1, n)) - images.after.bias for n in (1, count))
    torch.testing.assert_close(together, alone * count**0.5)
