from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import Tensor

from mercato.models.context_encoder import ContextEncoder
from mercato.runs.export import onnx_bytes

D = 8


def encoder(width: int = 4, sizes: tuple[int, ...] = (3, 2), dropout: float = 0.0) -> ContextEncoder:
    torch.manual_seed(0)
    return ContextEncoder(width, sizes, 16, D, dropout)


def batch(n: int, width: int = 4, sizes: tuple[int, ...] = (3, 2), seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = [torch.randint(0, size, (n, 1), generator=generator) for size in sizes]
    return torch.randn(n, width, generator=generator), torch.cat([*ids, torch.empty(n, 0, dtype=torch.int64)], 1)


class Told(torch.nn.Module):
    """The context's vector and whether anything of it is known."""

    def __init__(self, model: ContextEncoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, numbers: Tensor, ids: Tensor) -> Tensor:
        return torch.cat([self.model(numbers, ids), self.model.present(numbers, ids).unsqueeze(1).float()], 1)


def test_by_hand():
    model = encoder()
    numbers, ids = batch(64)
    got = model(numbers, ids)
    onehot = [np.eye(size)[ids[:, column]] for column, size in enumerate((3, 2))]
    inputs = np.concatenate([numbers.numpy(), *onehot], 1)
    normal = (inputs - inputs.mean(0)) / np.sqrt(inputs.var(0) + model.norm.eps)
    first, last = model.mlp[0], model.mlp[3]
    hidden = torch.nn.functional.gelu(first(torch.from_numpy(normal).float()))
    torch.testing.assert_close(got, last(hidden), atol=1e-5, rtol=1e-5)


def test_inference_uses_all_that_was_seen_in_training():
    model = encoder()
    parts = [batch(50, seed=seed) for seed in range(4)]
    for part in parts:
        model(*part)
    model.eval()
    rare = torch.cat([part[1][:, 0] for part in parts]).eq(0).float()
    assert model.norm.running_mean[4].item() == pytest.approx(rare.mean().item(), abs=1e-6)
    row = model(*batch(9, seed=5))
    torch.testing.assert_close(model(*(tensor[:1] for tensor in batch(9, seed=5))), row[:1])


def test_a_batch_of_one_trains():
    model = encoder()
    model(*batch(64))
    before = model.norm.running_mean.clone()
    out = model(*batch(1, seed=3))
    assert torch.isfinite(out).all() and torch.equal(model.norm.running_mean, before)
    out.sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
    assert torch.isfinite(encoder()(*batch(1))).all(), "as the very first one, too"


def test_what_never_varied_in_training_does_not_shout():
    """A number that is missing, or a category that is unknown, for the first time when serving."""
    model = encoder()
    numbers, ids = batch(512)
    numbers[:, 2:] = 0  # two indicators: never missing
    ids[:, 0] = ids[:, 0].clamp(min=1)  # never unknown
    model(numbers, ids)
    model.eval()
    usual = model(numbers, ids)
    missing = numbers.clone()
    missing[:, 2] = 1
    torch.testing.assert_close(model(missing, ids), usual)
    unknown = ids.clone()
    unknown[:, 0] = 0
    change = (model(numbers, unknown) - usual).norm(dim=1).mean()
    assert 0 < change < 2 * (usual - usual.mean(0)).norm(dim=1).mean()


def test_both_numbers_and_categories_count():
    model = encoder()
    numbers, ids = batch(32)
    model(numbers, ids)
    model.eval()
    assert not torch.allclose(model(numbers, ids), model(numbers.flip(0), ids))
    assert not torch.allclose(model(numbers, ids), model(numbers, ids.flip(0)))


def test_a_row_of_which_nothing_is_known():
    numbers = torch.tensor([[0.0, 0, 1, 1], [0, 0, 1, 1], [0.5, 0, 0, 1]])
    ids = torch.tensor([[0, 0], [0, 1], [0, 0]])
    assert ContextEncoder(4, (2, 2), 8, 8, 0.0).present(numbers, ids).tolist() == [False, True, True]


@pytest.mark.parametrize(("width", "sizes"), [(4, (3, 2)), (4, ()), (0, (5,)), (2, (1,))])
def test_onnx_is_torch(width, sizes):
    model = encoder(width, sizes)
    model(*batch(64, width, sizes))
    numbers, ids = batch(2, width, sizes)
    any_batch = {0: torch.export.Dim.DYNAMIC}
    content = onnx_bytes(Told(model), {"numbers": numbers, "categories": ids}, (any_batch, any_batch))
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    known = {node.name for node in session.get_inputs()}
    for n in (1, 2, 7):
        numbers, ids = batch(n, width, sizes, seed=n)
        inputs = {"numbers": numbers.numpy(), "categories": ids.numpy()}
        (got,) = session.run(None, {name: array for name, array in inputs.items() if name in known})
        np.testing.assert_allclose(got, Told(model)(numbers, ids).detach(), atol=1e-5)
