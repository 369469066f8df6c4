"""Attention and importance against figures made by hand, and a run explained as a whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mercato.data.market import Market
from mercato.data.pairs import split_cutoff
from mercato.errors import MercatoError
from mercato.evaluation.attention import Mean, mean_weights, short_and_long, weights_by_length
from mercato.evaluation.dataset import EvaluationSet
from mercato.evaluation.encoded import EncodedTower, encode_products, encode_queries
from mercato.evaluation.evaluate import evaluate
from mercato.evaluation.importance import ablated_cosines, importance
from mercato.evaluation.interpretation import Explanation, explain_run
from mercato.fields import channel_groups
from mercato.models.channels import Channels
from mercato.models.fusion import AttentionFusion, ConcatFusion
from mercato.runs.image_vectors import products_with_vectors
from mercato.runs.torch_encoder import TorchEncoder

NAMES = ("text", "trigrams")
PRESENT = np.ones((4, 2), bool)
WEIGHTS = np.array([[0.2, 0.8], [0.4, 0.6], [0.9, 0.1], [0.7, 0.3]])
ALONE = np.arange(4)  # units
QUERIES = ["tv", "TV ", "red sofa", "green mirror"]  # 2, 2, 8 and 12 characters as the tower reads them

# --- attention


def test_weights_by_length_are_those_counted_by_hand():
    two, eight, twelve = weights_by_length(NAMES, QUERIES, WEIGHTS, ALONE)
    assert [(row.length, row.queries) for row in (two, eight, twelve)] == [(2, 2), (8, 1), (12, 1)]
    assert two.weights["text"].mean == pytest.approx(0.3)
    margin = 1.959964 * np.sqrt(0.02) / np.sqrt(2)  # s² of .2 and .4 is .02
    assert two.weights["text"].interval == pytest.approx([0.3 - margin, 0.3 + margin])
    assert eight.weights["trigrams"] == Mean(0.1, None)


def test_queries_of_one_unit_are_not_independent():
    """Of two units of alike queries the interval is that of their two means."""
    apart, alike = (
        Mean.of(np.array([0.2, 0.2, 0.4, 0.4]), np.array([7, 7, 1, 1])),
        Mean.of(np.array([0.2, 0.4]), ALONE[:2]),
    )
    assert apart.interval == pytest.approx(alike.interval)
    assert Mean.of(np.array([0.2, 0.4]), np.zeros(2, int)).interval is None


def test_short_queries_are_those_under_five_characters():
    sides = short_and_long(NAMES, ["lamp", "lamps", "x", "sofas"], WEIGHTS, ALONE)
    assert (sides["short"].queries, sides["long"].queries) == (2, 2)
    assert sides["short"].weights["trigrams"].mean == pytest.approx((0.8 + 0.1) / 2)
    assert sides["short"].trigrams_less_text.mean == pytest.approx((0.6 - 0.8) / 2)
    assert "short" not in short_and_long(NAMES, ["lamps"] * 4, WEIGHTS, ALONE)
    assert short_and_long(("text", "country"), QUERIES, WEIGHTS, ALONE)["long"].trigrams_less_text is None


def test_a_missing_channel_counts_in_the_mean_and_not_in_its_own():
    present = np.array([[True, True], [True, False], [True, True], [True, False]])
    weights = np.array([[0.5, 0.5], [1.0, 0.0], [0.7, 0.3], [1.0, 0.0]])
    lengths = np.array([[1.0, 3.0], [1.0, 99.0], [1.0, 5.0], [1.0, 99.0]])
    found = mean_weights(NAMES, weights, present, lengths, ALONE)["trigrams"]
    assert found.mean == pytest.approx(0.2) and found.present == 0.5
    assert found.mean_present == pytest.approx(0.4) and found.vector_length == 4
    none = mean_weights(NAMES, weights, np.zeros((4, 2), bool), lengths, ALONE)["trigrams"]
    assert none.mean_present is None and none.vector_length is None


# --- importance


class Sum:
    """A tower made by hand: the unit vector of the weighted sum of the channels that are present."""

    def __init__(self, **weights: float) -> None:
        self.channels, self.weights_C = tuple(weights), torch.tensor(list(weights.values()))

    def fuse(self, channels: Channels) -> tuple[torch.Tensor, None]:
        scaled_BCD = channels.vectors_BSE * (self.weights_C * channels.present_BS).unsqueeze(-1)
        return F.normalize(scaled_BCD.sum(1), dim=-1), None


def encoded(tower: Sum, vectors_NCD: list, present_NC: list | None = None) -> EncodedTower:
    vectors = torch.tensor(vectors_NCD, dtype=torch.float32)
    present = torch.tensor(present_NC) if present_NC else torch.ones(vectors.shape[:2], dtype=torch.bool)
    channels = Channels(vectors, present, torch.arange(vectors.shape[1]))
    return EncodedTower(tower, channels, tower.fuse(channels)[0], None)


EAST, NORTH, DIAGONAL = [1.0, 0.0], [0.0, 1.0], [0.5**0.5, 0.5**0.5]
EACH = {"a": ("a",), "b": ("b",)}


def test_the_only_channel_that_counts_gets_all_the_importance():
    tower = encoded(Sum(a=1.0, b=0.0), [[EAST, NORTH], [NORTH, EAST], [EAST, EAST], [NORTH, NORTH]])
    rows = np.array([0, 1, 2, 3])
    towards_east = torch.tensor([EAST] * 4)
    labels = np.array([True, False, True, False])
    found = importance(tower, rows, towards_east, EACH, np.array([0, 0, 1, 1]), labels, np.arange(2))
    for replacement in ("missing", "other"):
        assert found["a"][replacement].share == 1 and found["b"][replacement].share == 0
        assert found["b"][replacement].change == 0
        assert found["b"][replacement].roc_auc == 1 and found["b"][replacement].roc_auc_change == 0
    assert found["a"]["missing"].change == pytest.approx(0.5)  # cosines of 1, 0, 1, 0 all become 0
    assert found["a"]["missing"].roc_auc == 0.5 and found["a"]["missing"].interval == (-0.5, -0.5)


def test_ablated_cosines_are_those_computed_by_hand():
    tower = encoded(Sum(a=1.0, b=1.0), [[EAST, NORTH], [NORTH, NORTH]])
    to_east = torch.tensor([EAST, EAST])
    missing = ablated_cosines(tower, np.array([0, 1]), to_east, EACH, "missing")
    assert missing["a"] == pytest.approx([0, 0])  # b alone is north
    assert missing["b"] == pytest.approx([1, 0])  # a alone: east, north
    other = ablated_cosines(tower, np.array([0, 1]), to_east, EACH, "other")
    assert other["a"] == pytest.approx([0, 0.5**0.5])  # of two rows the other one is the drawn one
    assert other["b"] == pytest.approx([0.5**0.5, 0])


def test_what_a_row_lacks_cannot_be_missed_and_what_another_lacks_is_lost():
    tower = encoded(Sum(a=1.0, b=1.0), [[EAST, NORTH], [EAST, NORTH]], [[True, False], [True, True]])
    to_east = torch.tensor([EAST, EAST])
    assert ablated_cosines(tower, np.array([0]), to_east[:1], EACH, "missing")["b"] == pytest.approx([1])
    assert ablated_cosines(tower, np.array([1]), to_east[:1], EACH, "other")["b"] == pytest.approx([1])


def test_channels_that_stand_in_for_each_other_count_as_a_group():
    tower = encoded(Sum(a=1.0, b=1.0, c=1.0), [[EAST, EAST, NORTH], [NORTH, NORTH, NORTH]])
    rows, to_east = np.array([0]), torch.tensor([EAST])
    together = ablated_cosines(tower, rows, to_east, {"ab": ("a", "b"), "c": ("c",)}, "missing")
    alone = ablated_cosines(tower, rows, to_east, {name: (name,) for name in "abc"}, "missing")
    assert together["ab"] == pytest.approx([0]) and together["c"] == pytest.approx([1])
    assert alone["a"] == alone["b"] == pytest.approx([0.5**0.5])


class Hand:
    """A tower of one fusion."""

    def __init__(self, channels: str, fusion: torch.nn.Module) -> None:
        self.channels, self.fusion = tuple(channels), fusion

    @torch.no_grad()
    def fuse(self, channels: Channels) -> tuple[torch.Tensor, torch.Tensor | None]:
        fused, weights = self.fusion(channels)
        return F.normalize(fused, dim=-1), weights


def test_a_missing_channel_leaves_the_weights_of_equation_1_as_they_are():
    fusion = AttentionFusion(3, 2)
    tower = Hand("abc", fusion)
    channels = Channels(torch.tensor([[EAST, NORTH, DIAGONAL]]), torch.ones(1, 3, dtype=torch.bool), torch.arange(3))
    unit_ND, weights_NC = tower.fuse(channels)
    found = EncodedTower(tower, channels, unit_ND, weights_NC.double().numpy())
    _, b, c = weights_NC[0].tolist()
    summed = np.array([c * DIAGONAL[0], b + c * DIAGONAL[1]])
    to_east = ablated_cosines(found, np.array([0]), torch.tensor([EAST]), {name: (name,) for name in "abc"}, "missing")
    assert to_east["a"] == pytest.approx(summed[0] / np.linalg.norm(summed), abs=1e-6)
    shared_anew = tower.fuse(channels.without([0]))[0][0, 0]
    assert abs(to_east["a"][0] - float(shared_anew)) > 1e-3


def test_a_fusion_without_weights_reads_zeros_for_what_is_missing():
    tower = Hand("ab", ConcatFusion(2, 2))
    channels = Channels(torch.tensor([[EAST, DIAGONAL]]), torch.ones(1, 2, dtype=torch.bool), torch.arange(2))
    found = EncodedTower(tower, channels, tower.fuse(channels)[0], None)
    zeros = tower.fuse(channels._replace(vectors_BSE=torch.tensor([[[0.0, 0.0], DIAGONAL]])))[0][0, 0]
    to_east = ablated_cosines(found, np.array([0]), torch.tensor([EAST]), EACH, "missing")
    assert to_east["a"] == pytest.approx(float(zeros), abs=1e-6)


def test_a_fusion_transformer_keeps_the_positions_of_what_is_missing():
    class Counted(Sum):
        """Every position that counts pulls a little to the north, as one of zeros with its mark does."""

        def fuse(self, channels: Channels) -> tuple[torch.Tensor, None]:
            marked = channels.vectors_BSE + torch.tensor(NORTH)
            return F.normalize((marked * channels.present_BS.unsqueeze(-1)).sum(1), dim=-1), None

    tower = encoded(Counted(a=1.0, b=1.0), [[EAST, EAST]])
    to_east = ablated_cosines(tower, np.array([0]), torch.tensor([EAST]), EACH, "missing")
    assert to_east["a"] == pytest.approx([1 / 5**0.5])  # east + 2 north: both positions remain


def test_channels_are_grouped_by_the_field_they_read():
    names = ("title_text", "title_trigrams", "description_text", "images")
    assert channel_groups(names) == {
        "title": ("title_text", "title_trigrams"),
        "description": ("description_text",),
        "images": ("images",),
    }
    assert channel_groups(("text", "trigrams", "country")) == {"text": ("text", "trigrams"), "country": ("country",)}


def test_intervals_resample_whole_units_and_hold_together():
    """Four queries that are one unit vary together or not at all; two channels that both count need wider ones."""
    tower = encoded(Sum(a=1.0, b=0.7), [[EAST, NORTH], [NORTH, EAST]] * 4)
    rows, east, labels = np.arange(8), torch.tensor([EAST] * 8), np.array([True, False] * 3 + [False, True])
    queries = np.repeat(np.arange(4), 2)
    one, each = (
        importance(tower, rows, east, EACH, queries, labels, units) for units in (np.zeros(4, int), np.arange(4))
    )
    low, high = one["a"]["missing"].interval
    assert low == high == one["a"]["missing"].roc_auc_change
    low, high = each["a"]["missing"].interval
    assert low < each["a"]["missing"].roc_auc_change < high


def test_without_pairs_of_both_kinds_there_is_no_auc():
    tower = encoded(Sum(a=1.0, b=0.5), [[EAST, NORTH], [NORTH, NORTH]])
    found = importance(
        tower, np.array([0, 1]), torch.tensor([EAST, EAST]), EACH, np.array([0, 0]), np.ones(2, bool), np.arange(1)
    )
    assert found["a"]["missing"].roc_auc is None and found["a"]["missing"].change > 0


# --- a run


def test_channels_fused_late_are_the_towers_own_vectors_and_weights(tiny_run: Path, tiny_market: Market):
    model = TorchEncoder.load(tiny_run)
    queries = EvaluationSet.read(tiny_market).queries.head(300)
    found = encode_queries(model, queries)
    features = model.featurizer.queries(queries["query"].to_list()[:7], queries["country"].to_list()[:7])
    with torch.inference_mode():
        vectors, weights = model.towers.query({name: torch.from_numpy(array) for name, array in features.items()})
    np.testing.assert_allclose(found.unit_ND[:7], vectors, atol=1e-5)
    np.testing.assert_allclose(found.weights_NC[:7], weights, atol=1e-5)
    np.testing.assert_allclose(found.weights_NC.sum(1), 1, atol=1e-5)


@pytest.mark.parametrize("group", ["description", "country"])
def test_attention_is_not_shared_anew_over_what_is_missing(tiny_run, tiny_market, group):
    """A missing channel's summand is gone; a field left out, whose weight the others get, is another vector."""
    model = TorchEncoder.load(tiny_run)
    table = products_with_vectors(tiny_market, model, tiny_run).slice(0, 20)
    found = encode_products(model, table)
    towards = torch.from_numpy(model.encode_queries(["red sofa"] * 20, "us"))
    groups = channel_groups(found.names)
    cosines = ablated_cosines(found, np.arange(20), towards, groups, "missing")[group]
    kept_C = np.array([name not in groups[group] for name in found.names])
    weighted_ND = ((found.weights_NC * kept_C)[..., None] * found.channels.vectors_BSE.numpy()).sum(1)
    unit_ND = weighted_ND / np.linalg.norm(weighted_ND, axis=1, keepdims=True)
    np.testing.assert_allclose(cosines, (unit_ND * towards.numpy()).sum(1), atol=1e-5)
    without = model.encode_products([row | {group: None} for row in table.to_pylist()])
    assert np.abs(cosines - (without * towards.numpy()).sum(1)).max() > 1e-3


def test_a_run_is_explained_on_its_test_questions(tiny_run: Path, tiny_market: Market):
    explanation = explain_run(tiny_run, tiny_market)
    result = json.loads(json.dumps(explanation.as_dict()))
    assert Explanation.from_dict(result) == explanation
    attention = result["attention"]["query"]
    assert sum(weight["mean"] for weight in attention["channels"].values()) == pytest.approx(1, abs=1e-5)
    assert sum(row["queries"] for row in attention["by_length"]) == result["n"]["all_queries"]
    model = TorchEncoder.load(tiny_run)
    model.market_path = tiny_market.path
    metrics = evaluate(model, tiny_market)
    assert result["roc_auc"] == pytest.approx(metrics.ours["relevance"]["roc_auc"].value, abs=1e-4)
    for tower in ("query", "product"):
        for section in result["importance"][tower].values():
            for replacement in ("missing", "other"):
                assert sum(kinds[replacement]["share"] for kinds in section.values()) == pytest.approx(1)
    assert set(result["importance"]["query"]["groups"]) == {"text", "country"}
    assert set(result["importance"]["product"]["groups"]) == {"title", "description", "language", "country", "images"}


def test_listings_are_explained_at_the_age_at_which_they_are_measured(tiny_run, tiny_market, moments):
    explain_run(tiny_run, tiny_market)
    assert moments == {split_cutoff(tiny_market, ("train", "validation"))}


def test_nothing_to_explain_on_is_said(tiny_run, tiny_market, tmp_path):
    folder = shutil.copytree(tiny_market.path, tmp_path / "market")
    for table in ("pairs", "judgments"):
        (folder / f"{table}.parquet").unlink()
    with pytest.raises(MercatoError, match="nothing to explain"):
        explain_run(tiny_run, Market.open(folder))
