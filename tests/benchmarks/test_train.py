from __future__ import annotations

import json
import sys

import pytest

from mercato.benchmarks import train
from mercato.errors import MercatoError


def test_both_systems_learn_the_same_and_are_timed():
    pytest.importorskip("sentence_transformers")
    figures = train.run(pairs=48, batch_size=16, repeats=1, hidden=16)
    assert json.loads(json.dumps(figures)) == figures
    own, peer = figures["mercato"], figures["sentence_transformers"]
    assert figures["ratios"] == [pytest.approx(own["pairs_per_s"] / peer["pairs_per_s"])]
    assert own["loss"] == pytest.approx(
        peer["loss"], abs=0.3
    )  # −log of a sixteenth, give or take: nothing is learnt yet
    assert 0 < figures["padding"] < 1
    assert train.table(figures).row_count == 2


def test_a_missing_peer_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MercatoError, match=r"mercato\[bench\]"):
        train.run(pairs=4)
