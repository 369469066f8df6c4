"""Tokenizers: a unigram model trained on the market, or a pretrained encoder's own; both live as `tokenizer.json`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from mercato.errors import MercatoError

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
MASK = "<mask>"  # stands behind them where words are masked


def train_tokenizer(texts: Iterable[str], vocabulary: int, masks: bool = False) -> Tokenizer:
    """Train a SentencePiece-style unigram tokenizer on normalised texts; every encoding is `<s> … </s>`.

    With `masks` it has a token for masked words too.
    """
    special = [*SPECIAL, MASK] if masks else [*SPECIAL]
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=vocabulary, special_tokens=special, unk_token="<unk>", show_progress=False, max_piece_length=16
    )
    texts = sorted(texts)
    try:
        tokenizer.train_from_iterator(texts, trainer)
    except Exception as error:  # the only class that the trainer raises
        raise MercatoError(f"text.vocabulary: cannot train a tokenizer of {vocabulary} pieces: {error}") from None
    tokenizer.model = _settled(tokenizer, texts, special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", SPECIAL.index("<s>")), ("</s>", SPECIAL.index("</s>"))]
    )
    return tokenizer


def _settled(tokenizer: Tokenizer, texts: list[str], special: list[str]) -> models.Unigram:
    """The same pieces, scored by how often they are used and in that order.

    The trainer sums in the order of a hash map: its scores differ in the last digits, and its ids by more, from one
    training to the next. Whole counts do not.
    """
    counts: Counter[str] = Counter()
    for start in range(0, len(texts), 10_000):
        for encoding in tokenizer.encode_batch_fast(texts[start : start + 10_000]):
            counts.update(encoding.tokens)
    own = sorted(tokenizer.get_vocab().keys() - set(special), key=lambda piece: (-counts[piece], piece))
    total = sum(counts.values()) + 1
    scored = [(piece, 0.0) for piece in special] + [(piece, math.log((counts[piece] + 0.5) / total)) for piece in own]
    return models.Unigram(scored, unk_id=SPECIAL.index("<unk>"))


def pretrained_tokenizer(name: str) -> tuple[Tokenizer, int]:
    """The fast tokenizer of a transformers model (hub name or folder) and its padding id."""
    from transformers import AutoTokenizer

    try:
        whole = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise MercatoError(f"text.pretrained: cannot load the tokenizer of {name}: {error}") from None
    tokenizer = getattr(whole, "backend_tokenizer", None)
    if tokenizer is None:
        raise MercatoError(f"text.pretrained: {name} has no fast tokenizer (tokenizer.json), which Mercato needs")
    if whole.pad_token_id is None:
        raise MercatoError(f"text.pretrained: the tokenizer of {name} has no padding token, which Mercato needs")
    return Tokenizer.from_str(tokenizer.to_str()), int(whole.pad_token_id)


def load_tokenizer(file: Path) -> Tokenizer:
    """A tokenizer from a run folder."""
    return Tokenizer.from_file(str(file))
