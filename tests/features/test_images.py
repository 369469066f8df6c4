from __future__ import annotations

import numpy as np
import pytest

from mercato.errors import MercatoError
from mercato.features.images import ImageSpec, checked_vectors, packed_vector, read_spec, write_spec

PATCHES = np.arange(12, dtype=np.float32).reshape(2, 2, 3)  # two images of two patches of three numbers


@pytest.mark.parametrize(
    "given",
    [PATCHES.reshape(2, 6), PATCHES.reshape(2, 6).tolist(), [packed_vector(image) for image in PATCHES]],
    ids=["array", "numbers", "packed"],
)
def test_patches_are_given_end_to_end(given):
    checked = checked_vectors(given, (2, 3), {})
    assert checked.dtype == np.float32
    np.testing.assert_array_equal(checked, PATCHES)
    np.testing.assert_array_equal(checked_vectors(given, (6,), {}), PATCHES.reshape(2, 6))


@pytest.mark.parametrize(
    "wrong", [[[1.0] * 3], [[1.0] * 5 + [np.inf]], [b"\0" * 11], [b"\0" * 10], [1.0], 7, PATCHES], ids=repr
)
def test_vectors_of_another_length_are_refused(wrong):
    with pytest.raises(MercatoError, match="product p1, field image_embeddings: must be finite vectors of 6 numbers"):
        checked_vectors(wrong, (2, 3), {"product_id": "p1"})


def test_a_spec_tells_what_an_encoder_makes_of_an_image(tmp_path):
    vectors = ImageSpec(4, 32, 40, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
    patches = ImageSpec(4, 32, 40, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2), patches=9)
    assert (vectors.shape, patches.shape) == ((4,), (9, 4))
    write_spec(tmp_path, patches)
    assert read_spec(tmp_path).shape == (9, 4)
    older = '{"dimension": 4, "size": 32, "resize": 40, "mean": [0, 0, 0], "std": [1, 1, 1]}'
    (tmp_path / "image_encoder.json").write_text(older)
    assert read_spec(tmp_path).shape == (4,)
