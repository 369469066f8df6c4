from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from mercato.data.market import Market
from mercato.training.data.prepare import Prepared, prepare
from tests.support.tasks import HEADED
from tests.support.toys import KINDS, make_market

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "number", "a", "good", *KINDS, *KINDS.values(), *map(str, range(48))]


@pytest.fixture(scope="session")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Market:
    """To read only."""
    return make_market(Path(tmp_path_factory.mktemp("toys")) / "market")


@pytest.fixture(scope="session")
def prepared(toys: Market, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """The toys as training data, with a head. To read only."""
    return prepare(toys, HEADED, tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny pretrained encoder."""
    folder = tmp_path_factory.mktemp("hub") / "bert"
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=40, pad_token_id=0,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return folder
