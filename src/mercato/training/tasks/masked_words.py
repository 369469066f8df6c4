"""MLM: the words that were masked in queries and titles, told from the rest (Devlin et al. 2019).

Shapes: N masked tokens, W words of the vocabulary, H hidden; others as in `mercato.training.data.pretraining`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mercato.config.pretraining import MaskedWords
from mercato.training.tasks.step import Outcome, Step


@dataclass(frozen=True)
class MaskedWordsTask:
    """Cross-entropy over the vocabulary, from the states of the towers, the cross encoder, or both."""

    stage: MaskedWords
    log_chance_W: Tensor  # of each token in the texts that train: what a unigram model knows

    def outcome(self, step: Step) -> Outcome | None:
        """See `PretrainingObjective`; told are queries and titles alike, those of pairs by the cross encoder."""
        batch, where = step.batch, self.stage.where
        states, tokens = [], []
        if where in ("tower", "both"):
            states += [step.masked_queries.state_BSH[batch.told_query_QL], step.masked_items.state_BSH[step.told]]
            tokens += [batch.query["tokens"][batch.told_query_QL], step.tokens[step.told]]
        if where in ("cross", "both") and len(batch.query_B):
            told = torch.cat([batch.told_query_QL[batch.query_B], step.told[batch.product_B]], 1)
            token = torch.cat([batch.query["tokens"][batch.query_B], step.tokens[batch.product_B]], 1)
            states.append(step.masked_crossed[told])
            tokens.append(token[told])
        if not sum(map(len, tokens)):
            return None
        token_N = torch.cat(tokens)
        logits_NW = step.towers.words(torch.cat(states), step.towers.embeddings).float()
        return Outcome(
            F.cross_entropy(logits_NW, token_N),
            (logits_NW.argmax(1) == token_N).float().mean(),
            -self.log_chance_W.to(token_N.device)[token_N].mean(),
        )
