"""Tokenizers: a unigram model trained on the market, or a pretrained encoder's own; both live as `tokenizer.json`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from mercato.errors import MercatoError

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """Train a SentencePiece-style unigram tokenizer on normalised texts; every encoding is `<s> … </s>`."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=vocabulary, special_tokens=list(SPECIAL), unk_token="<unk>", show_progress=False, max_piece_length=16
    )
    # The trainer keeps its counts in a hash map; one sorted list makes its result the same each time.
    tokenizer.train_from_iterator(sorted(texts), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", SPECIAL.index("<s>")), ("</s>", SPECIAL.index("</s>"))]
    )
    return tokenizer


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
    return Tokenizer.from_str(tokenizer.to_str()), int(whole.pad_token_id or 0)


def load_tokenizer(file: Path) -> Tokenizer:
    """A tokenizer from a run folder."""
    return Tokenizer.from_file(str(file))
