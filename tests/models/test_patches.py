"""Patches: where each stands in its image, and what the tower makes of them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from mercato.models.compact_cnn import CompactCNN
from mercato.models.patches import CompactMap, FeatureMap, PatchEncoder, Squares


def places(side: int) -> torch.Tensor:
    """An image (1, 3, side, side) whose numbers tell where they stand: row, column, colour."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return torch.stack([100 * y + 10 * x + colour for colour in range(3)])[None].float()


def test_patches_are_squares_row_by_row_from_the_top_left():
    patches = Squares(2)(places(4))
    assert patches.shape == (1, 4, 12)
    assert patches[0].tolist() == [
        [0, 1, 2, 10, 11, 12, 100, 101, 102, 110, 111, 112],
        [20, 21, 22, 30, 31, 32, 120, 121, 122, 130, 131, 132],
        [200, 201, 202, 210, 211, 212, 300, 301, 302, 310, 311, 312],
        [220, 221, 222, 230, 231, 232, 320, 321, 322, 330, 331, 332],
    ]
    assert Squares(4)(places(4)).shape == (1, 1, 48)


class Backbone(torch.nn.Module):
    """A vision model whose last state is given."""

    def __init__(self, state: torch.Tensor) -> None:
        super().__init__()
        self.state = state

    def forward(self, pixel_values: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=self.state)


def test_a_feature_map_is_read_place_by_place():
    state = torch.arange(2 * 3 * 2 * 2).view(2, 3, 2, 2)  # 2 images, 3 channels, 2 × 2 places
    patches = FeatureMap(Backbone(state))(torch.zeros(2, 3, 8, 8))
    assert patches[0].tolist() == [[0, 4, 8], [1, 5, 9], [2, 6, 10], [3, 7, 11]]
    assert patches.shape == (2, 4, 3)


@pytest.mark.parametrize("beside", [0, 1, 2, 5])  # none, [CLS], a distillation token too, [CLS] and four registers
def test_of_a_transformer_only_the_image_is_read(beside):
    state = torch.arange(beside + 9).view(1, -1, 1)
    assert FeatureMap(Backbone(state))(torch.zeros(1, 3, 8, 8)).flatten().tolist() == list(range(beside, beside + 9))


@pytest.mark.parametrize(("size", "across"), [(48, 3), (50, 4), (16, 1)])
def test_the_compact_cnn_has_as_many_patches_as_its_last_map_has_places(size, across):
    torch.manual_seed(0)
    compact, pixels = CompactCNN().eval(), torch.randn(2, 3, size, size)
    assert compact.trunk(pixels).shape == (2, 96, across, across)
    patches, places = CompactMap(compact)(pixels), compact.trunk[:9](pixels)
    assert patches.shape == (2, across**2, 4 * 72)
    torch.testing.assert_close(patches[:, 0].view(2, 2, 2, 72), places[:, :, :2, :2].permute(0, 2, 3, 1))
    last = patches[:, -1].view(2, 2, 2, 72)
    torch.testing.assert_close(last[:, 0, 0], places[:, :, 2 * across - 2, 2 * across - 2])
    assert last[:, 1, 1].any() == (places.shape[-1] == 2 * across), "beyond the map there is nothing"


@pytest.fixture
def encoder() -> PatchEncoder:
    torch.manual_seed(0)
    return PatchEncoder(patches=4, dimension=5, hidden=6)


def test_every_patch_of_every_image_is_a_position(encoder):
    patches, mask = torch.randn(2, 3, 4, 5), torch.tensor([[True, True, False], [False] * 3])
    vectors = encoder(patches, mask)
    assert vectors.shape == (2, 12, 6)
    for image in range(3):
        for patch in range(4):
            own = encoder.norm(encoder.projection(patches[0, image, patch])) + encoder.place_PH[patch]
            torch.testing.assert_close(vectors[0, 4 * image + patch], own)
    assert encoder.present(patches, mask).tolist() == [[True] * 8 + [False] * 4, [False] * 12]


def test_the_order_of_images_says_nothing_and_the_place_in_one_does(encoder):
    image, mask = torch.randn(1, 1, 4, 5), torch.ones(1, 2, dtype=torch.bool)
    first, second = encoder(image.expand(1, 2, 4, 5), mask).split(4, 1)
    torch.testing.assert_close(first, second)
    turned = encoder(image.flip(2), mask[:, :1]).flip(1)
    assert (turned - first).abs().amax((0, 2)).min() > 1e-3


def test_plain_black_is_not_plain_white(encoder):
    plain = torch.tensor([-2.0, 2.0]).view(2, 1, 1, 1).expand(2, 1, 4, 5)
    black, white = encoder(plain, torch.ones(2, 1, dtype=torch.bool))
    assert (black - white).abs().max() > 0.5


def test_it_can_begin_with_nothing(encoder):
    encoder.zero_init()
    assert not encoder(torch.randn(1, 1, 4, 5), torch.ones(1, 1, dtype=torch.bool)).any()
