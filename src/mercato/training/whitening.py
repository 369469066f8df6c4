"""Where a pretrained text encoder's projections start: its vectors, spread by what a catalogue says.

Pretrained sentence vectors crowd in a cone: a few directions, the same for every product, make up most of every cosine.
A catalogue tells which, without a query or a label: Su et al. 2021, "Whitening Sentence Representations for Better
Semantics and Faster Retrieval".

Shapes: N texts, L tokens, H the encoder's hidden size, D the shared dimension.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mercato.models.que2search import TOKENS, TwoTower
from mercato.models.text_encoder import TextEncoder
from mercato.progress import track
from mercato.training.batches import Examples

SAMPLE = 4096  # texts of a kind; with half as many the estimate starts to cost quality
BATCH = 256


def whiten(towers: TwoTower, examples: Examples, power: float, seed: int) -> None:
    """Set both towers' projections to x → C^(-power/2) (x - μ), in the basis of the D strongest principal directions.

    C is the covariance of the pooled states of all that the products say, μ the mean of the tower's own texts: queries,
    real or made of the catalogue, lie elsewhere than products, and apart from them would share that offset. `power` 0
    centres alone, 1 makes every direction weigh the same.
    """
    query, product = towers.query.text, towers.product.text
    assert query is not None and product is not None
    spec = examples.spec
    fields = [examples.products[TOKENS[channel]] for channel in spec.product_channels if channel in TOKENS]
    generator = np.random.default_rng(seed)
    training = towers.training
    towers.eval()
    product_NH = _states(product, fields, generator)
    query_NH = _states(query, [examples.queries["tokens"][np.unique(examples.query_N)]], generator)
    towers.train(training)

    weight_DH = _spread(product_NH - product_NH.mean(0), power, product.projection.out_features)
    for encoder, state_NH in ((product, product_NH), (query, query_NH)):
        with torch.no_grad():
            encoder.projection.weight.copy_(weight_DH)
            encoder.projection.bias.copy_(-weight_DH @ state_NH.mean(0))


def _spread(centred_NH: Tensor, power: float, dimension: int) -> Tensor:
    """C^(-power/2), (D, H), scaled so that the vectors' mean length is 1; rows past H are 0."""
    variance_H, direction_HH = torch.linalg.eigh(centred_NH.T.cov())
    strongest = variance_H.argsort(descending=True)[:dimension]
    # Fewer texts than dimensions leave directions in which none varies: not to be blown up.
    variance = variance_H[strongest].clamp(min=1e-4 * float(variance_H.max()))
    weight_DH = torch.zeros(dimension, centred_NH.shape[1], dtype=centred_NH.dtype)
    weight_DH[: len(strongest)] = (direction_HH[:, strongest] * variance ** (-power / 2)).T
    weight_DH /= torch.linalg.vector_norm(centred_NH @ weight_DH.T, dim=1).mean()
    return weight_DH


@torch.inference_mode()
def _states(encoder: TextEncoder, fields: Sequence[NDArray[np.integer]], generator: np.random.Generator) -> Tensor:
    """What a sample of texts is to the encoder before its projection: (N, H) float64; `fields` are tokens (N, L)."""
    found: list[Tensor] = []
    hook = encoder.projection.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0].double().cpu()))
    rows = generator.permutation(len(fields[0]))[:SAMPLE]
    for start in track(range(0, len(rows), BATCH), f"what the catalogue says (batches of {BATCH})"):
        for tokens_NL in fields:
            tokens_BL = torch.from_numpy(tokens_NL[rows[start : start + BATCH]].astype(np.int64))
            said_B = (tokens_BL != encoder.pad_id).any(1)
            if said_B.any():
                encoder(tokens_BL[said_B])
    hook.remove()
    return torch.cat(found)
