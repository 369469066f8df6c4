"""Image patches: what is cut out of an image, and the positions of a sequence that a product tower makes of it.

In the fusion transformer they stand beside the tokens of a text: Taobao's single-stream item tower, and ViLT.

Shapes: B batch, I images of a product, P patches of an image, V numbers of a patch, H the transformer's hidden size; n
images, S pixels a side.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mercato.models.channels import ChannelEncoder
from mercato.models.compact_cnn import CompactCNN


class PatchEncoder(ChannelEncoder):
    """Patches (B, I, P, V) of images with a mask (B, I) → a position each, (B, I·P, H): projected, plus where it is.

    The place is that within the image, which all of a product's images share: their order says nothing. The norm stands
    behind the projection: of a patch's own numbers it would make plain white and plain black pixels alike.
    """

    def __init__(self, patches: int, dimension: int, hidden: int) -> None:
        """P, V and H."""
        super().__init__()
        self.projection = nn.Linear(dimension, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.place_PH = nn.Parameter(0.02 * torch.randn(patches, hidden))

    def forward(self, patches_BIPV: Tensor, mask_BI: Tensor) -> Tensor:
        """(B, I, P, V) float32, (B, I) bool → (B, I·P, H)."""
        result: Tensor = (self.norm(self.projection(patches_BIPV)) + self.place_PH).flatten(1, 2)
        return result

    def present(self, patches_BIPV: Tensor, mask_BI: Tensor) -> Tensor:
        """Whether a position is of an image that the row has: (B, I·P) bool."""
        return mask_BI.unsqueeze(-1).expand(-1, -1, len(self.place_PH)).flatten(1)

    @torch.no_grad()
    def zero_init(self) -> None:
        """Begin with zero vectors."""
        for parameter in (*self.norm.parameters(), self.place_PH):
            parameter.zero_()


class Squares(nn.Module):
    """Squares of pixels, or of a feature map, row by row from the top left: (n, C, S, S) → (n, (S / side)², C · side²).

    A patch's numbers are its pixels row by row, the C colours of each together. Nothing here learns.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, pixels: Tensor) -> Tensor:
        """(n, C, S, S) float32 → (n, P, V)."""
        across = pixels.shape[-1] // self.side
        strips = torch.unflatten(pixels, 3, (across, self.side))
        squares = torch.unflatten(strips, 2, (across, self.side))  # (n, C, row, y, column, x)
        return squares.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


class FeatureMap(nn.Module):
    """Each place of a vision model's last feature map or state: normalised pixels (n, 3, S, S) → (n, P, V).

    What a transformer reads beside the image ([CLS], registers) comes first, and is left out.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, pixels: Tensor) -> Tensor:
        """(n, 3, S, S) float32 → (n, P, V)."""
        state: Tensor = self.backbone(pixel_values=pixels).last_hidden_state
        if state.ndim == 4:
            return state.flatten(2).transpose(1, 2)
        return state[:, -(math.isqrt(state.shape[1]) ** 2) :]  # the image is a square


class CompactMap(nn.Module):
    """The compact CNN's map before its last, in squares of 2 × 2: as many patches as the last has places (n, P, V).

    Each place of the last sees two thirds of an image of 48 pixels, and was made to be pooled. Read place by place by a
    ridge regression, this map tells the category of 56 right for .56 of some 570 held-out photos of the demo market,
    the last for .48 (the CNN itself had seen most of them).
    """

    def __init__(self, compact: CompactCNN) -> None:
        super().__init__()
        self.trunk, self.squares = compact.trunk[:-3], Squares(2)  # all but convolution, norm and ReLU of the last

    def forward(self, pixels: Tensor) -> Tensor:
        """(n, 3, S, S) float32 → (n, P, V)."""
        places = self.trunk(pixels)
        odd = places.shape[-1] % 2
        patches: Tensor = self.squares(F.pad(places, (0, odd, 0, odd)))
        return patches
