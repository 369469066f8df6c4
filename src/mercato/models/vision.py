"""A vision backbone in the product tower, fine-tuned end to end with it (Que2Engage §2.1.5, its second method).

Training alone knows of it: what it has become is exported as the image encoder of the run, whose product tower then
reads vectors like any other.
"""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mercato.features.images import ImageSpec

PIXELS = "pixels"
"""Among a product tower's inputs, in place of `images`: the images that `image_mask` (B, I) counts, row by row,
(n, S, S, 3) uint8."""

Inputs = dict[str, Tensor]


class Vision(nn.Module):
    """A trunk, normalised pixels (n, 3, S, S) float32 → (n, V), with the preprocessing that it wants.

    BatchNorm keeps the statistics that it came with, as is usual in fine-tuning; its scales and shifts do learn. The
    paper does not say. Statistics of a batch would make an image's vector depend on the batch's other images, so that
    rows encoded a few at a time (gradient caching) would get other vectors, and the run's exported encoder yet others.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, trunk: nn.Module, spec: ImageSpec) -> None:
        super().__init__()
        self.trunk, self.spec = trunk, spec
        self.register_buffer("mean", torch.tensor(spec.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(spec.std).view(3, 1, 1), persistent=False)
        self.train()

    def train(self, mode: bool = True) -> Self:
        """As in torch, but for BatchNorm."""
        super().train(mode)
        for part in self.modules():
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
                part.eval()
        return self

    def forward(self, pixels: Tensor) -> Tensor:
        """(n, S, S, 3) uint8 → (n, V) float32, unit length as `ImageEncoder` gives them."""
        if not len(pixels):
            return torch.zeros(0, self.spec.dimension, device=pixels.device)
        normal = (pixels.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.deviation
        return F.normalize(self.trunk(normal).float(), dim=-1)

    def look(self, inputs: Inputs) -> Inputs:
        """A product tower's inputs with `images` (B, I, V) made of their `pixels`."""
        inputs = dict(inputs)
        vectors, mask = self(inputs.pop(PIXELS)), inputs["image_mask"]
        images = vectors.new_zeros(*mask.shape, self.spec.dimension)
        images[mask] = vectors
        return inputs | {"images": images}


def rows_of(inputs: Inputs, start: int, stop: int) -> Inputs:
    """Some rows of a tower's inputs, with the images that are theirs."""
    part = {name: tensor[start:stop] for name, tensor in inputs.items() if name != PIXELS}
    if PIXELS in inputs:
        mask = inputs["image_mask"]
        first, last = int(mask[:start].sum()), int(mask[:stop].sum())
        part[PIXELS] = inputs[PIXELS][first:last]
    return part


class Pooled(nn.Module):
    """A transformers vision model's one vector an image: the pooler's, else the mean over the last state."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, pixels: Tensor) -> Tensor:
        """(n, 3, S, S) float32 → (n, V)."""
        output = self.backbone(pixel_values=pixels)
        pooled = getattr(output, "pooler_output", None)
        result: Tensor = pooled.flatten(1) if pooled is not None else output.last_hidden_state.mean(1)
        return result
