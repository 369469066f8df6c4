from __future__ import annotations

import pytest

from mercato.training.card import write_card

ALONE = {"epoch": 1, "validation/roc_auc": 0.9, "best": True}
BOTH = ALONE | {"validation/roc_auc": 0.85, "validation/relevance": 0.9, "validation/engagement": 0.8}
PERPLEXITY = {"metric": "validation/perplexity", "mode": "min", "name": "perplexity"}


@pytest.mark.parametrize(
    ("history", "said"),
    [
        ([{"epoch": 1, "best": True}], "none: the market has no labelled validation pairs"),
        (
            [ALONE | {"validation/roc_auc": 0.7}, ALONE, ALONE | {"validation/roc_auc": 0.8, "best": False}],
            "AUC 0.9000 |",
        ),
        ([BOTH], "ROC AUC 0.8500, the mean of two tasks (relevance 0.9000, engagement 0.8000)"),
        ([{"epoch": 1, "best": True, "monitor": PERPLEXITY, "validation/perplexity": 9.5}], "| perplexity 9.5000 |"),
    ],
)
def test_the_card_says_what_validated(tmp_path, tiny_market, tiny_recipe, history, said):
    write_card(tmp_path, tiny_recipe, tiny_market, history, 1.0)
    card = (tmp_path / "README.md").read_text()
    assert said in next(line for line in card.splitlines() if line.startswith("| validation |"))
