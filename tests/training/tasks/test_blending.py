"""Gradient blending: what each modality of a tower would learn alone."""

from __future__ import annotations

import pytest
import torch

from mercato.errors import MercatoError
from mercato.losses.in_batch_softmax import in_batch_softmax
from mercato.training.tasks.blending import given_blend
from mercato.training.tasks.modalities import MULTIMODAL
from tests.support.tasks import TITLE, WORDS, batch, losses_of, towers
from tests.support.toys import toy_recipe


def test_blending_gives_each_modality_the_loss_it_would_have_alone(prepared):
    model, data = towers(prepared).eval(), batch(prepared)
    losses = losses_of(model, data, blend={MULTIMODAL: 2.0, TITLE: 0.5, WORDS: 0.25})
    assert {name: weight for name, (weight, _) in losses.items()} == {
        "multimodal": 2.0, "product.title": 0.5, "query.text": 0.25,
    }  # fmt: skip
    query, product = model.query(data.query)[0], model.product(data.product)[0]
    bare = dict(data.product)
    for name in ("description_tokens", "description_trigrams", "language", "country"):
        bare[name] = torch.zeros_like(bare[name])
    title = model.product(bare)[0]
    expected = in_batch_softmax(query[data.query_B] @ title[data.product_B].T, data.excluded_BJ, 20.0)
    torch.testing.assert_close(losses["product.title"][1], expected)
    nowhere = dict(data.query) | {"country": torch.zeros_like(data.query["country"])}
    words = model.query(nowhere)[0]
    expected = in_batch_softmax(words[data.query_B] @ product[data.product_B].T, data.excluded_BJ, 20.0)
    torch.testing.assert_close(losses["query.text"][1], expected)


def test_a_modality_learns_from_the_pairs_that_have_it(prepared):
    model, data = towers(prepared).eval(), batch(prepared)
    blend = {MULTIMODAL: 1.0, TITLE: 1.0}
    lacking = data.product_B[0]
    for name in ("title_tokens", "title_trigrams"):
        data.product[name][lacking] = 0
    kept = (data.product_B != lacking).nonzero().squeeze(1)
    query, product = (
        model.query(data.query)[0],
        model.product.fuse(model.product.encode(data.product), TITLE.channels)[0],
    )
    cosine = query[data.query_B[kept]] @ product[data.product_B[kept]].T
    expected = in_batch_softmax(cosine, data.excluded_BJ[kept][:, kept], 20.0)
    torch.testing.assert_close(losses_of(model, data, blend=blend)[TITLE.name][1], expected)
    for name in ("title_tokens", "title_trigrams"):
        data.product[name][:] = 0
    assert losses_of(model, data, blend=blend)[TITLE.name][1] == 0


def test_a_weight_for_what_is_no_modality_is_refused(prepared):
    recipe = toy_recipe("blending.weights={'product.smell' = 1.0}")
    with pytest.raises(MercatoError, match=r"product\.smell.*product\.title"):
        given_blend(recipe, prepared.featurizer.spec, recipe.blending.weights)
