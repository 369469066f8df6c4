"""Where a pretrained text encoder's projection starts: its vectors, spread by what a catalogue says.

Pretrained sentence vectors crowd in a cone: a few directions, the same for every product, make up most of every cosine.
A catalogue alone, without a query or a label, tells which: Su et al. 2021, "Whitening Sentence Representations for
Better Semantics and Faster Retrieval".

Shapes: N texts, H the encoder's hidden size, D the shared dimension.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mercato.models.que2search import TOKENS, TwoTower
from mercato.progress import track
from mercato.text.features import Features, FeatureSpec
from mercato.training.batches import take, tensors

SAMPLE = 4096  # products; with half as many the estimate starts to cost quality
BATCH = 256


def whiten(towers: TwoTower, products: Features, spec: FeatureSpec, power: float, seed: int) -> None:
    """Set the projection of the text encoder that both towers share to a whitening of the catalogue's own texts.

    x → C^(-power/2) (x - μ), in the basis of the D strongest principal directions, with μ and C the mean and
    covariance of the encoder's pooled states. `power` 0 centres alone, 1 makes every direction weigh the same.

    Args:
        products: features of every product of the catalogue; a random sample of `SAMPLE` is read.
    """
    state_NH = _states(towers, products, spec, seed)
    mean_H = state_NH.mean(0)
    variance_H, direction_HH = torch.linalg.eigh((state_NH - mean_H).T.cov())
    encoder = towers.product.text
    assert encoder is not None
    dimension = encoder.projection.out_features
    strongest = variance_H.argsort(descending=True)[:dimension]
    # Fewer texts than dimensions leave directions in which none varies: not to be blown up.
    variance = variance_H[strongest].clamp(min=1e-4 * float(variance_H.max()))
    weight_DH = torch.zeros(dimension, state_NH.shape[1], dtype=state_NH.dtype)
    weight_DH[: len(strongest)] = (direction_HH[:, strongest] * variance ** (-power / 2)).T
    weight_DH /= ((state_NH - mean_H) @ weight_DH.T).norm(dim=1).mean()
    with torch.no_grad():
        encoder.projection.weight.copy_(weight_DH)
        encoder.projection.bias.copy_(-weight_DH @ mean_H)


@torch.inference_mode()
def _states(towers: TwoTower, products: Features, spec: FeatureSpec, seed: int) -> Tensor:
    """The pooled states of what the sampled products say in each field, before the projection: (N, H) float64."""
    encoder = towers.product.text
    assert encoder is not None
    found: list[Tensor] = []
    training = towers.training
    towers.eval()
    hook = encoder.projection.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0].double().cpu()))
    count = len(next(iter(products.values())))
    rows = np.random.default_rng(seed).permutation(count)[:SAMPLE]
    fields = [TOKENS[channel] for channel in spec.product_channels if channel in TOKENS]
    for start in track(range(0, len(rows), BATCH), f"what the catalogue says (batches of {BATCH})"):
        inputs = tensors(take(products, rows[start : start + BATCH], spec))
        for field in fields:
            said = (inputs[field] != spec.pad_id).any(1)
            if said.any():
                encoder(inputs[field][said])
    hook.remove()
    towers.train(training)
    return torch.cat(found)
