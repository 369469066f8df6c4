"""What a CPU can do better than by torch's defaults: matrix products, dropout, and giving memory back."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

ROUNDS: bool = torch.cpu._is_amx_tile_supported()  # torch names it nowhere else


def linear(state_TX: Tensor, module: nn.Linear) -> Tensor:
    """`module(state)`, (T, I) → (T, O), by oneDNN forward and backward.

    torch gives float32 products to MKL, which on AMD does without AVX-512: there oneDNN is 2.2 times as fast, and as
    exact. (Not where the CPU has AMX: oneDNN would round the factors to bfloat16 there.)
    """
    if ROUNDS or torch.is_autocast_enabled("cpu"):  # bfloat16 goes to oneDNN anyway
        narrow: Tensor = module(state_TX)
        return narrow
    result: Tensor = _Linear.apply(state_TX, module.weight, module.bias)  # type: ignore[no-untyped-call]
    return result


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, state_TX: Tensor, weight_OX: Tensor, bias_O: Tensor | None) -> Tensor:
        ctx.save_for_backward(state_TX, weight_OX)
        with _by_onednn():
            return F.linear(state_TX, weight_OX, bias_O)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_TO: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        state_TX, weight_OX = ctx.saved_tensors
        state, weight, bias = ctx.needs_input_grad
        with _by_onednn():
            return (
                gradient_TO @ weight_OX if state else None,
                gradient_TO.T @ state_TX if weight else None,
                gradient_TO.sum(0) if bias else None,
            )


@contextmanager
def _by_onednn() -> Iterator[None]:
    """Allowing bfloat16 factors is what makes torch ask oneDNN at all.

    Not for everything: oneDNN compiles a kernel for each new shape, and batches of attention are ever new shapes.
    """
    backends: Any = torch.backends  # its stubs do not know this setting
    settings = backends.mkldnn.matmul
    before = settings.fp32_precision
    settings.fp32_precision = "bf16"
    try:
        yield
    finally:
        settings.fp32_precision = before


def dropout(state: Tensor, module: nn.Dropout) -> Tensor:
    """`module(state)` by 16 random bits a number, a sixth of the time of torch's Bernoulli draws on a CPU.

    The rate is the module's to 1/65,536; the draws come from torch's generator, as ever.
    """
    if not module.training or module.p == 0 or state.device.type != "cpu":
        return F.dropout(state, module.p, module.training)
    words = torch.empty((state.numel() + 3) // 4, dtype=torch.int64)
    drawn = words.random_(-(2**63), None).view(torch.int16)  # by default a word's sign would be no random bit
    dropped = round(module.p * 65_536)
    kept = (drawn[: state.numel()].view(state.shape) >= dropped - 32_768).to(state.dtype)
    return state * kept.mul_(65_536 / (65_536 - dropped))


def return_memory() -> None:
    """Give freed memory back to the system, where the C library can.

    Batches of ever new shapes leave glibc's heap in pieces: of 6 GB a process held, 1 GB was in use.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:  # glibc
            trim(0)
