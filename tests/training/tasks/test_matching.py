"""Matching: which negatives are drawn, and the loss of hand-made states."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mercato.models.taobao import CrossEncoder, Read
from mercato.training.tasks.matching import matching

ALIKE = torch.zeros(3, dtype=torch.int64)  # the texts' kinds


class FirstOfBoth(CrossEncoder):
    """In place of a transformer: the first state of the text beside that of the item."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.read: list[tuple[int, int]] = []

    def first(self, left: Read, right: Read) -> Tensor:
        self.read += [(int(t), int(i)) for t, i in zip(left.state_BSH[:, 0, 0], right.state_BSH[:, 0, 0], strict=True)]
        return torch.cat([left.state_BSH, right.state_BSH], 2)[:, 0]


def _numbered(vectors: Tensor) -> Read:
    """Rows whose first state is their number."""
    count = len(vectors)
    state_BSH = torch.arange(count, dtype=torch.float32).view(count, 1, 1)
    return Read(state_BSH, torch.ones(count, 1, dtype=torch.bool), F.normalize(vectors, dim=1))


def _run(known_TI: Tensor, pairs: list[tuple[int, int]], scale: float = 100.0) -> tuple[list[tuple[int, int]], Tensor]:
    texts = _numbered(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]))
    items = _numbered(torch.tensor([[1.0, 0.0], [0.8, 0.2], [0.1, 1.0], [0.9, 0.05]]))
    cross, head = FirstOfBoth(), nn.Linear(2, 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    torch.manual_seed(0)
    outcome = matching(cross, head, texts, items, torch.tensor(pairs).T, known_TI, scale, ALIKE)
    assert outcome is not None
    return cross.read, outcome.loss


def test_negatives_are_the_hardest_of_the_pairs_own_texts_and_items() -> None:
    read, loss = _run(torch.zeros(3, 4, dtype=torch.bool), [(0, 0), (1, 1), (2, 2)])
    assert read[:3] == [(0, 0), (1, 1), (2, 2)]
    # The hardest other item of each text (item 3 is nobody's), and the hardest other text of each item.
    assert read[3:6] == [(0, 1), (1, 0), (2, 1)]
    assert read[6:] == [(1, 0), (0, 1), (1, 2)]
    assert loss.item() == pytest.approx(math.log(2))  # of a head that says nothing


def test_what_a_query_is_known_to_have_engaged_is_no_mismatch() -> None:
    known = torch.zeros(3, 4, dtype=torch.bool)
    known[0, 1] = known[1, 0] = True
    read, _ = _run(known, [(0, 0), (1, 1), (2, 2)])
    assert not {(0, 1), (1, 0)} & set(read[3:])


def test_a_text_without_any_negative_has_none() -> None:
    known = torch.ones(3, 4, dtype=torch.bool)
    known[2, 0] = False
    read, _ = _run(known, [(0, 0), (1, 1), (2, 2)])
    assert read[3:] == [(2, 0), (2, 0)]  # text 2 against item 0, and item 0 against text 2


def test_without_a_negative_there_is_no_outcome() -> None:
    texts, pair = _numbered(torch.eye(1)), torch.tensor([[0], [0]])
    head, known, kind = nn.Linear(2, 1), torch.zeros(1, 1).bool(), torch.zeros(1)
    assert matching(FirstOfBoth(), head, texts, texts, pair, known, 20, kind) is None


def test_hard_negatives_are_drawn_by_their_similarity() -> None:
    texts = _numbered(torch.tensor([[1.0, 0.0]]).repeat(3000, 1))
    items = _numbered(torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.6, 0.8]]))
    pairs = torch.stack([torch.arange(3000), torch.zeros(3000, dtype=torch.int64)])
    pairs[1, -2:] = torch.tensor([1, 2])  # so that all three items are some pair's
    cross = FirstOfBoth()
    torch.manual_seed(0)
    matching(cross, nn.Linear(2, 1), texts, items, pairs, torch.zeros(3000, 3).bool(), 2.0, torch.zeros(3000))
    drawn = [item for _, item in cross.read[3000:6000][:2998]]
    expected = math.exp(2 * 1.0) / (math.exp(2 * 1.0) + math.exp(2 * 0.6))
    assert drawn.count(1) / len(drawn) == pytest.approx(expected, abs=0.03)


def test_an_items_hard_text_is_of_its_own_texts_kind() -> None:
    vectors = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
    texts, items, pairs = _numbered(vectors), _numbered(vectors), torch.arange(4).repeat(2, 1)
    cross, kind = FirstOfBoth(), torch.tensor([0, 1, 0, 1])
    matching(cross, nn.Linear(2, 1), texts, items, pairs, torch.zeros(4, 4).bool(), 100.0, kind)
    assert cross.read[8:] == [(2, 0), (3, 1), (0, 2), (1, 3)]  # not the nearer text of the other kind
