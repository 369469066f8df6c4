"""A transformer text encoder: trained from scratch, or the first layers of a pretrained one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, BertConfig, PretrainedConfig

from mercato import config
from mercato.errors import MercatoError

BUCKET = 32  # texts that are padded to one length


class TextEncoder(nn.Module):
    """Token ids → one vector: the [CLS] state (Que2Search §3.1) or the mean over tokens, projected to the shared space.

    Shapes: B batch, L tokens, H hidden, D the shared dimension.
    """

    def __init__(self, backbone: nn.Module, pad_id: int, pooling: str, dimension: int, pretrained: bool) -> None:
        super().__init__()
        self.backbone, self.pad_id, self.pooling = backbone, pad_id, pooling
        hidden = int(backbone.config.hidden_size)  # type: ignore[union-attr,arg-type]
        self.projection = nn.Linear(hidden, dimension)
        nn.init.zeros_(self.projection.bias)
        if pretrained and hidden == dimension:
            nn.init.eye_(self.projection.weight)  # it starts as itself, not behind a random rotation
        elif not pretrained:
            # Untrained [CLS] states are almost the same for every text. Loud, they would hide the trigrams, and the
            # loss would stand still for epochs (measured: 80 steps to ROC AUC .80 instead of .55).
            nn.init.normal_(self.projection.weight, std=0.01)

    def forward(self, tokens_BL: Tensor) -> Tensor:
        """(B, L) int64 → (B, D)."""
        if torch.compiler.is_exporting() or len(tokens_BL) < 4 * BUCKET:
            return self._encode(tokens_BL)
        # Texts of like length together: half of a mixed batch would be padding.
        length_B = (tokens_BL != self.pad_id).sum(1)
        order_B = length_B.argsort(stable=True)
        parts = [
            self._encode(tokens_BL[rows, : max(1, int(length_B[rows[-1]]))]) for rows in torch.split(order_B, BUCKET)
        ]
        return torch.cat(parts)[order_B.argsort()]

    def _encode(self, tokens_BL: Tensor) -> Tensor:
        mask_BL = tokens_BL != self.pad_id
        state_BLH = self.backbone(input_ids=tokens_BL, attention_mask=mask_BL.long()).last_hidden_state
        if self.pooling == "cls":
            pooled_BH = state_BLH[:, 0]
        else:
            weight_BL1 = mask_BL.unsqueeze(-1).to(state_BLH.dtype)
            pooled_BH = (state_BLH * weight_BL1).sum(1) / weight_BL1.sum(1).clamp(min=1)
        result: Tensor = self.projection(pooled_BH)
        return result


def scratch_config(encoder: config.TextEncoder, vocabulary: int, pad_id: int, positions: int) -> PretrainedConfig:
    """The transformer of an encoder from scratch (the paper's XLM: 2 layers, 4 heads, 128-d, feed-forward 3×)."""
    return BertConfig(
        vocab_size=vocabulary,
        pad_token_id=pad_id,
        hidden_size=encoder.hidden,
        num_hidden_layers=encoder.layers,
        num_attention_heads=encoder.heads,
        intermediate_size=encoder.feed_forward,
        hidden_dropout_prob=encoder.dropout,
        attention_probs_dropout_prob=encoder.dropout,
        max_position_embeddings=positions,
        type_vocab_size=1,
    )


def pretrained_config(name: str, layers: int, positions: int) -> PretrainedConfig:
    """The configuration of a transformers model, cut to its first `layers`, for texts of `positions` tokens."""
    try:
        result: PretrainedConfig = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise MercatoError(f"text.pretrained: cannot load {name}: {error}") from None
    if layers > result.num_hidden_layers:
        raise MercatoError(f"text.layers: {name} has {result.num_hidden_layers} layers, not {layers}")
    if positions > result.max_position_embeddings:
        raise MercatoError(f"text.pretrained: {name} reads {result.max_position_embeddings} tokens, not {positions}")
    result.num_hidden_layers = layers
    return result


def build_backbone(configuration: PretrainedConfig, weights_from: str | None = None) -> nn.Module:
    """The transformer, with random weights or those of `weights_from` (hub name or folder).

    Eager attention: at a query's length it is as fast as the fused kernel, and ONNX Runtime fuses it itself.
    """
    if weights_from is None:
        model: nn.Module = AutoModel.from_config(configuration, attn_implementation="eager")  # type: ignore[no-untyped-call]
    else:
        model = AutoModel.from_pretrained(weights_from, config=configuration, attn_implementation="eager")
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # type: ignore[assignment]  # an unused head of BERT's: not trained, not exported
    return model.to(torch.float32)
