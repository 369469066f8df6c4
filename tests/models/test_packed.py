"""The packed transformer and its parts, held to transformers' and torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModel, BertConfig, DistilBertConfig, XLMRobertaConfig

from mercato.config import TextEncoder
from mercato.errors import MercatoError
from mercato.models.bags import TrigramBag
from mercato.models.cpu import dropout, linear
from mercato.models.packed import can_pack, pooled
from mercato.models.text_encoder import build_backbone, pretrained_config

SIZES = {
    "vocab_size": 100,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 30,
    "pad_token_id": 1,
}


def texts(count: int = 40, longest: int = 12) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(2, 100, (count, longest), generator=generator)
    length = torch.randint(1, longest + 1, (count, 1), generator=generator)
    return tokens.where(torch.arange(longest) < length, 1)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("config", [BertConfig, XLMRobertaConfig])
def test_states_and_gradients_are_those_of_transformers(config, pooling):
    torch.manual_seed(0)
    model = AutoModel.from_config(config(**SIZES), attn_implementation="eager").eval()
    model.pooler = None
    tokens = texts()
    mask = (tokens != 1).long()
    states = model(input_ids=tokens, attention_mask=mask).last_hidden_state
    mean = (states * mask.unsqueeze(2)).sum(1) / mask.sum(1, keepdim=True)
    expected, found = states[:, 0] if pooling == "cls" else mean, pooled(model, tokens, 1, pooling)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    weight = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * weight).sum(), list(model.parameters()))
    for one, other in zip(torch.autograd.grad((found * weight).sum(), list(model.parameters())), wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_a_text_of_nothing_but_padding_leaves_the_others_alone():
    torch.manual_seed(0)
    model = AutoModel.from_config(BertConfig(**SIZES)).eval()
    tokens = texts()
    alone = pooled(model, tokens, 1, "mean")
    tokens[3] = 1
    found = pooled(model, tokens, 1, "mean")
    assert found.isfinite().all()
    others = torch.arange(len(tokens)) != 3
    torch.testing.assert_close(found[others], alone[others], atol=1e-6, rtol=1e-5)


def test_other_transformers_are_left_to_themselves():
    assert not can_pack(AutoModel.from_config(DistilBertConfig(vocab_size=50, dim=16, n_layers=1, n_heads=2)))
    assert can_pack(AutoModel.from_config(BertConfig(**SIZES)))


def test_linear_is_torchs_own():
    torch.manual_seed(0)
    module, state = nn.Linear(24, 40), torch.randn(50, 24, requires_grad=True)
    weight = torch.randn(50, 40)
    inputs = [state, module.weight, module.bias]
    torch.testing.assert_close(linear(state, module), module(state), atol=1e-5, rtol=1e-5)
    found = torch.autograd.grad((linear(state, module) * weight).sum(), inputs)
    for one, other in zip(found, torch.autograd.grad((module(state) * weight).sum(), inputs), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_linear_leaves_a_frozen_matrix_alone():
    module, state = nn.Linear(4, 3).requires_grad_(False), torch.randn(5, 4, requires_grad=True)
    linear(state, module).sum().backward()
    assert state.grad is not None and module.weight.grad is None and module.bias.grad is None


def test_dropout_drops_its_share_and_keeps_the_mean():
    torch.manual_seed(0)
    ones = torch.ones(1_000, 1_001, requires_grad=True)
    dropped = dropout(ones, nn.Dropout(0.1))
    kept = dropped != 0
    assert (~kept).float().mean().item() == pytest.approx(0.1, abs=0.002)
    assert dropped[kept].unique().tolist() == pytest.approx([1 / 0.9], rel=1e-4)
    dropped.sum().backward()
    torch.testing.assert_close(ones.grad, dropped.detach())


def test_dropout_depends_on_torchs_seed_and_sleeps_outside_training():
    module, state = nn.Dropout(0.5), torch.randn(7, 9)
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(dropout(state, module))
    assert draws[0].equal(draws[1]) and not draws[0].equal(draws[2])
    assert dropout(state, module.eval()).equal(state)


def test_a_bag_is_the_sum_of_its_trigrams_and_padding_learns_nothing():
    torch.manual_seed(0)
    bag = TrigramBag(50, 8)
    ids = torch.tensor([[3, 4, 3], [0, 0, 0], [9, 0, 0]])
    expected = F.embedding(ids, bag.weight).mul((ids != 0).unsqueeze(-1)).sum(1)
    torch.testing.assert_close(bag(ids), expected)
    bag(ids).sum().backward()
    assert bag.weight.grad.sum(1).nonzero().squeeze(1).tolist() == [3, 4, 9]


@pytest.mark.parametrize(("config", "longest"), [(BertConfig, 30), (XLMRobertaConfig, 28)])
def test_a_pretrained_encoder_reads_as_many_tokens_as_it_has_places_for(tmp_path, config, longest):
    config(**SIZES).save_pretrained(tmp_path)
    encoder = TextEncoder(layers=2)
    model = build_backbone(pretrained_config(str(tmp_path), encoder, longest)).eval()
    assert model(input_ids=torch.full((1, longest), 5)).last_hidden_state.shape == (1, longest, 32)
    with pytest.raises(MercatoError, match=f"reads {longest} tokens, not {longest + 1}"):
        pretrained_config(str(tmp_path), encoder, longest + 1)
