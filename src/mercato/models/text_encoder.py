"""A transformer text encoder: trained from scratch, or the first layers of a pretrained one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, BertConfig, PretrainedConfig

from mercato import config
from mercato.errors import MercatoError
from mercato.models import packed
from mercato.models.channels import ChannelEncoder

BUCKET = 32  # texts that are padded to one length
INIT_SCALE = 0.6  # of an untrained encoder: its vectors then are about as long as a trigram bag's


class TextEncoder(ChannelEncoder):
    """Transformer text encoder: token ids → the [CLS] state (Que2Search §3.1) or the mean over tokens, projected.

    Shapes: B batch, L tokens, H hidden, D the shared dimension.
    """

    def __init__(self, backbone: nn.Module, pad_id: int, pooling: str, dimension: int) -> None:
        super().__init__()
        self.backbone, self.pad_id, self.pooling = backbone, pad_id, pooling
        hidden = int(backbone.config.hidden_size)  # type: ignore[union-attr,arg-type]
        self.projection = nn.Linear(hidden, dimension)
        nn.init.zeros_(self.projection.bias)
        if hidden == dimension:
            nn.init.eye_(self.projection.weight)  # it starts as itself, not behind a random rotation
        else:
            nn.init.orthogonal_(self.projection.weight)

    @torch.no_grad()
    def bag_of_words_init(self, like: TextEncoder) -> None:
        """Bag-of-words init: begin, untrained, as a bag of words in the embeddings of `like` (`mercato.models.build`).

        Word embeddings and projection are copied; those of positions and token types, which are the same in every text,
        begin small or at zero.
        """
        own: Any = self.backbone.embeddings
        other: Any = like.backbone.embeddings
        if own.word_embeddings.weight.shape == other.word_embeddings.weight.shape:  # else of another width
            own.word_embeddings.weight.copy_(other.word_embeddings.weight)
            self.projection.weight.copy_(like.projection.weight)
        own.position_embeddings.weight.mul_(0.1)
        own.token_type_embeddings.weight.zero_()

    def forward(self, tokens_BL: Tensor) -> Tensor:
        """(B, L) int64 → (B, D)."""
        if self._packs(tokens_BL):
            result: Tensor = self.projection(packed.pooled(self.backbone, tokens_BL, self.pad_id, self.pooling))
            return result
        if torch.compiler.is_exporting() or len(tokens_BL) < 4 * BUCKET:
            return self._encode(tokens_BL)
        # Texts of like length together: half of a mixed batch would be padding.
        length_B = (tokens_BL != self.pad_id).sum(1)
        order_B = length_B.argsort(stable=True)
        parts = [
            self._encode(tokens_BL[rows, : max(1, int(length_B[rows[-1]]))]) for rows in torch.split(order_B, BUCKET)
        ]
        return torch.cat(parts)[order_B.argsort()]

    def present(self, tokens_BL: Tensor) -> Tensor:
        """Whether a row has any token: (B,) bool."""
        return (tokens_BL != self.pad_id).any(1)

    def states(self, tokens_BL: Tensor) -> Tensor:
        """The states after every layer: (B, L) int64 → (B, L, H)."""
        return self.lower(tokens_BL, len(self.layers()))

    def layers(self, start: int = 0) -> Any:
        """The layers from one on."""
        backbone: Any = self.backbone
        return backbone.encoder.layer[start:]

    def lower(self, tokens_BL: Tensor, layers: int) -> Tensor:
        """The states after the first `layers` layers, 0 for the embeddings: (B, L) int64 → (B, L, H)."""
        if self._packs(tokens_BL):
            return packed.lower(self.backbone, tokens_BL, self.pad_id, layers)
        backbone: Any = self.backbone
        state_BLH: Tensor = backbone.embeddings(input_ids=tokens_BL)
        return _through(backbone.encoder.layer[:layers], state_BLH, tokens_BL != self.pad_id)

    def upper(self, state_BSH: Tensor, present_BS: Tensor, weight_BS: Tensor, layers: int) -> Tensor:
        """All but the first `layers` layers over what is present, pooled and projected: (B, S, H), (B, S) → (B, D).

        Pooled is the first state, or the mean by `weight_BS` (B, S), which adds up to 1.
        """
        backbone: Any = self.backbone
        if self._packs(state_BSH):
            pooled_BH = packed.upper(backbone, state_BSH, present_BS, weight_BS, layers, self.pooling)
        else:
            state_BSH = _through(backbone.encoder.layer[layers:], state_BSH, present_BS)
            pooled_BH = state_BSH[:, 0] if self.pooling == "cls" else (state_BSH * weight_BS.unsqueeze(-1)).sum(1)
        result: Tensor = self.projection(pooled_BH)
        return result

    def _packs(self, inputs: Tensor) -> bool:
        return not torch.compiler.is_exporting() and inputs.device.type == "cpu" and packed.can_pack(self.backbone)

    def freeze(self, lowest: int) -> None:
        """Keep so many of the lowest layers as they are, the embeddings being the first.

        Raises:
            MercatoError: the transformer has fewer, or is not built like BERT.
        """
        encoder = getattr(self.backbone, "encoder", None)
        layers = [getattr(self.backbone, "embeddings", None), *getattr(encoder, "layer", ())]
        if lowest > len(layers) or not all(isinstance(layer, nn.Module) for layer in layers[:lowest]):
            raise MercatoError(f"text.frozen: {lowest} layers cannot be told apart in a {type(self.backbone).__name__}")
        for layer in layers[:lowest]:
            layer.requires_grad_(False)

    def _encode(self, tokens_BL: Tensor) -> Tensor:
        mask_BL = tokens_BL != self.pad_id
        state_BLH = self.backbone(input_ids=tokens_BL, attention_mask=mask_BL.long()).last_hidden_state
        result: Tensor = self.projection(self.pool(state_BLH, mask_BL))
        return result

    def pool(self, state_BLH: Tensor, mask_BL: Tensor) -> Tensor:
        """The first state, or the mean over tokens: (B, L, H), (B, L) bool → (B, H)."""
        if self.pooling == "cls":
            return state_BLH[:, 0]
        weight_BL1 = mask_BL.unsqueeze(-1).to(state_BLH.dtype)
        return (state_BLH * weight_BL1).sum(1) / weight_BL1.sum(1).clamp(min=1)


def through(layers: Any, state_BSH: Tensor, present_BS: Tensor) -> Tensor:
    """Layers of BERT's kind, each position looking at those that are present: (B, S, H), (B, S) bool → (B, S, H).

    What they leave where nothing is means nothing.
    """
    if state_BSH.device.type == "cpu" and not torch.compiler.is_exporting():
        return packed.through(layers, state_BSH, present_BS)
    return _through(layers, state_BSH, present_BS)


def first_through(layers: Any, state_BSH: Tensor, present_BS: Tensor) -> Tensor:
    """The first state that `through` leaves, (B, H): a fifth of the work of a single layer."""
    if state_BSH.device.type == "cpu" and not torch.compiler.is_exporting():
        return packed.first(layers, state_BSH, present_BS)
    return _through(layers, state_BSH, present_BS)[:, 0]


def _through(layers: Any, state_BSH: Tensor, present_BS: Tensor) -> Tensor:
    mask_B11S = torch.where(present_BS, 0.0, torch.finfo(state_BSH.dtype).min)[:, None, None].to(state_BSH.dtype)
    for layer in layers:
        state_BSH = layer(state_BSH, mask_B11S)
    return state_BSH


def attended(layers: Any, state_BSH: Tensor, present_BS: Tensor) -> tuple[Tensor, list[Tensor]]:
    """`through`, with what each layer's A heads look at, (B, A, S, S), of which gradients can be taken."""
    weights: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, outputs: Any) -> None:
        weights.append(outputs[1])

    hooks = [layer.attention.self.register_forward_hook(keep) for layer in layers]
    try:
        return _through(layers, state_BSH, present_BS), weights
    finally:
        for hook in hooks:
            hook.remove()


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


def pretrained_config(name: str, encoder: config.TextEncoder, positions: int) -> PretrainedConfig:
    """The configuration of a transformers model, cut to the encoder's first layers, for texts of `positions` tokens."""
    try:
        result: PretrainedConfig = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise MercatoError(f"text.pretrained: cannot load {name}: {error}") from None
    if encoder.layers > result.num_hidden_layers:
        raise MercatoError(f"text.layers: {name} has {result.num_hidden_layers} layers, not {encoder.layers}")
    behind = result.pad_token_id + 1 if "roberta" in result.model_type else 0  # its places begin behind the padding's
    if positions > (longest := result.max_position_embeddings - behind):
        raise MercatoError(f"text.pretrained: {name} reads {longest} tokens, not {positions}")
    result.num_hidden_layers = encoder.layers
    result.hidden_dropout_prob = result.attention_probs_dropout_prob = encoder.dropout
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
