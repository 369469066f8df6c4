"""The two papers' own recipes over the whole path, made small: a run, its ONNX towers, an index, a server, hits."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaModel

from mercato.catalogue.indexing import index_market
from mercato.config import Recipe, load_recipe
from mercato.data.market import Market
from mercato.data.pairs import split_cutoff
from mercato.runs.export import parity
from mercato.runs.folder import load_min_cosine, read_history
from mercato.runs.onnx_encoder import OnnxEncoder
from mercato.runs.torch_encoder import load
from mercato.search.policy import RetrievalPolicy
from mercato.training.train import train
from tests.support.served import search, server

SMALL = ("dimension=16", "trigrams.buckets=500", "images.epochs=1", "images.size=16", "product_tower.title_tokens=12")
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]


def stages(count: int) -> Iterator[str]:
    for stage in range(count):
        yield from (f"stages.{stage}.epochs=1", f"stages.{stage}.batch_size=64")


def que2search() -> Recipe:
    """From scratch, as its comment advises for that: the mean is pooled. Layers are what an export takes long for."""
    text = ("layers=1", "hidden=16", "feed_forward=32", "pooling=mean")
    towers = [f"{tower}_tower.text.{change}" for tower in ("query", "product") for change in text]
    head = ("head.queries=50", "text.vocabulary=400", "product_tower.description_tokens=12")
    return load_recipe("que2search-paper", [*SMALL, *head, *towers, *stages(2)])


def que2engage(roberta: Path) -> Recipe:
    """Every layer of the product tower fuses, as in the paper."""
    layers = ("query_tower.text.layers=1", "product_tower.text.layers=2", "product_tower.fusion_layers=2")
    return load_recipe("que2engage-paper", [*SMALL, f"text.pretrained={roberta}", *layers, *stages(1)])


@pytest.fixture(scope="module")
def roberta(tiny_market: Market, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained encoder of XLM-R's kind, which never learned anything: two layers, places that begin behind the
    padding's, <s> and </s>. Its weights are large, else its <s> would say the same of every text."""
    folder = tmp_path_factory.mktemp("hub") / "roberta"
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=400, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(tiny_market.frame("products", ["title"])["title"].to_list(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        cls_token="<s>", sep_token="</s>",
    ).save_pretrained(folder)  # fmt: skip
    torch.manual_seed(0)
    config = XLMRobertaConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=160, type_vocab_size=1, pad_token_id=1, bos_token_id=0,
        eos_token_id=2, initializer_range=0.5,
    )  # fmt: skip
    XLMRobertaModel(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("paper", ["que2search", "que2engage"])
def test_a_papers_recipe_is_trained_exported_indexed_and_served(paper, tiny_market, tmp_path, request):
    recipe = que2search() if paper == "que2search" else que2engage(request.getfixturevalue("roberta"))
    run = tmp_path / "run"
    market = Market.open(shutil.copytree(tiny_market.path, tmp_path / "market"))
    train(recipe, market, run)
    assert {row["stage"] for row in read_history(run)} == set(range(1, len(recipe.stages) + 1))

    model, encoder = load(run, market.path), OnnxEncoder(run, market.path)
    assert set(parity(model, run)) == {"query", "product"}
    rows = market.arrow("products").slice(0, 8)
    moment = split_cutoff(market, ["train"])
    expected = model.encode_products(rows, as_of=moment)
    np.testing.assert_allclose(encoder.encode_products(rows, as_of=moment), expected, atol=1e-4)
    assert np.ptp(expected, axis=0).max() > 1e-3, "products differ"
    query = market.frame("pairs", ["query"])["query"][0]
    np.testing.assert_allclose(encoder.encode_queries([query]), model.encode_queries([query]), atol=1e-4)

    assert index_market(run, market, str(market.path / "index"))["count"] == len(market.frame("products"))
    with server(market, encoder, policy=RetrievalPolicy.of_run(run, 1_000)) as client:
        page = search(client, query=query, country="us", mode="semantic")
    assert page["hits"] and all("ann" in hit["found_by"] for hit in page["hits"])
    cosines = [hit["cosine"] for hit in page["hits"]]
    assert cosines == sorted(cosines, reverse=True) and cosines[-1] >= load_min_cosine(run) - 1e-6
