"""The stages of training: one class a loss, told apart by the field `loss`; to add a loss, add a class to `Stage`."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from mercato.config.base import Frozen

DEFAULT_LOSS: Final = "in_batch_softmax"


class Fitting(Frozen):
    """How a stage learns, whatever it learns: an optimiser, until validation stops getting better."""

    batch_size: int = Field(768, ge=2)  # an in-batch loss: engaged pairs
    batches: Literal["shuffled", "by_country"] = "shuffled"
    """`by_country`: each of one country's queries, as retrieval filters; where a country's end, the next's begin. Then
    the negatives of `sampled_softmax` are of the query's country too."""
    micro_batch: int | None = Field(None, ge=1)  # rows that are encoded at a time (gradient caching); None: all
    epochs: int = Field(50, ge=1)  # at most
    patience: int = Field(3, ge=1)  # epochs without a better validation
    learning_rate: float = Field(7e-4, gt=0)
    text_learning_rate: float = Field(2e-4, gt=0)  # of the transformers
    image_learning_rate: float = Field(5e-5, gt=0)  # of an image encoder that is fine-tuned
    warmup: float = Field(0.0, ge=0, le=1)  # share of all steps over which the rates rise from 0
    decay: bool = False  # then they fall to 0, in a straight line to the end of the last epoch
    clip: float = Field(1.0, gt=0)  # the largest norm of the gradient


class BaseStage(Fitting):
    """One stage of training; a subclass names its loss.

    Later stages start from the best epoch of the one before (Que2Search §3.3).
    """

    loss: str


class PairStage(BaseStage):
    """A stage that learns from query–product pairs."""

    scale: float = Field(20.0, gt=0)  # s of Que2Search Eq. 2, and of the engagement task's logit; the paper's: 15 to 20

    @property
    def graded(self) -> bool:
        """Whether the loss reads every pair by its grade."""
        return False

    @property
    def mixed_negatives(self) -> Literal["own", "any"] | None:
        """Whose unengaged products are negatives of every query: those of the batch's own queries, or of any query."""
        return None

    @property
    def learns_engagement(self) -> bool:
        """Whether unengaged pairs are drawn for a second task."""
        return False

    @property
    def unengaged_per_pair(self) -> float:
        """How many unengaged pairs are drawn beside each engaged one, where the stage reads them."""
        return 0.0

    @property
    def position_power(self) -> float:
        """How much rarer unengaged pairs are drawn that stood further down, where the stage reads them."""
        return 0.0

    @property
    def corrects_log_q(self) -> bool:
        """Whether how often a product is in a batch is taken out of the logits."""
        return False

    @property
    def learns_threshold(self) -> bool:
        """Whether the engagement task learns the threshold τ of its logit."""
        return False


class InBatchStage(PairStage):
    """A stage that learns from engaged pairs, the batch's other products their negatives.

    Unengaged pairs, shown and left, may join in a second task, Que2Engage's (Eq. 3), that tells engaged pairs from
    them: L = relevance_weight · L_loss + engagement_weight · L_engagement.
    """

    unengaged: float = Field(1.0, gt=0)  # unengaged pairs beside each engaged one, where the stage reads them
    unengaged_position_power: float = Field(0.0, ge=0)
    """Unengaged pairs are drawn by their position to minus this power: what stood far down was perhaps never looked at
    (Joachims et al. 2005: people read from the top, and what they skipped on the way they saw)."""
    relevance_weight: float = Field(1.0, ge=0)  # λ₁ of Que2Engage Eq. 3; the paper's: .8
    engagement_weight: float = Field(0.0, ge=0)  # λ₂; .2
    engagement_bias: bool = False  # the second task's logit is s · (cos − τ) with a learned τ; as printed, τ = 0

    @model_validator(mode="after")
    def _weighs_something(self) -> Self:
        if not self.relevance_weight and not self.engagement_weight:
            raise ValueError("relevance_weight and engagement_weight are both 0: nothing is left to learn")
        return self

    @property
    def learns_engagement(self) -> bool:
        """Whether unengaged pairs are drawn for a second task."""
        return self.engagement_weight > 0

    @property
    def unengaged_per_pair(self) -> float:
        """How many unengaged pairs are drawn beside each engaged one, where the stage reads them."""
        return self.unengaged if self.learns_engagement or self.mixed_negatives else 0.0

    @property
    def position_power(self) -> float:
        """How much rarer unengaged pairs are drawn that stood further down, where the stage reads them."""
        return self.unengaged_position_power if self.unengaged_per_pair else 0.0

    @property
    def learns_threshold(self) -> bool:
        """Whether the engagement task learns the threshold τ of its logit."""
        return self.learns_engagement and self.engagement_bias


class InBatchSoftmax(InBatchStage):
    """Cross-entropy of each query's own product among the batch's (Que2Search Eq. 2)."""

    loss: Literal["in_batch_softmax"] = DEFAULT_LOSS
    negatives: Literal["batch", "mixed", "mixed_independent"] = "batch"
    """`mixed`: and products that the batch's own queries were shown and left, each a negative of every query (Yang et
    al. 2020; Que2Engage §3.2); `mixed_independent`: and products that any query was, drawn apart from the batch."""

    log_q: bool = False
    """Take the logarithm of how often a batch holds a product from its logit, else what is popular is pushed away for
    being there so often (Yi et al. 2019)."""

    @property
    def corrects_log_q(self) -> bool:
        """Whether how often a product is in a batch is taken out of the logits."""
        return self.log_q

    @property
    def mixed_negatives(self) -> Literal["own", "any"] | None:
        """Whose unengaged products are negatives of every query: those of the batch's own queries, or of any query."""
        return {"batch": None, "mixed": "own", "mixed_independent": "any"}[self.negatives]


class SymmetricSoftmax(InBatchStage):
    """The same, and of each product's own query among the batch's (Eq. 3)."""

    loss: Literal["symmetric_softmax"] = "symmetric_softmax"


class MarginRanking(InBatchStage):
    """The hardest product of the batch must stay a margin below the query's own (Eq. 5)."""

    loss: Literal["margin_ranking"] = "margin_ranking"
    margin: float = Field(0.1, gt=0, lt=2)  # the paper's: .1 to .2
    reduction: Literal["sum", "mean"] = "sum"


class ScaledBCE(InBatchStage):
    """Binary cross-entropy of the own and the hardest product (Eq. 4)."""

    loss: Literal["scaled_bce"] = "scaled_bce"


class CoSENT(PairStage):
    """Every pair, ranked by its grade (Su 2022)."""

    loss: Literal["cosent"] = "cosent"

    @property
    def graded(self) -> bool:
        """Whether the loss reads every pair by its grade."""
        return True


class SampledSoftmax(BaseStage):
    """The recall model: cross-entropy of each query's own product among the whole catalogue, or a sample of it.

    What came before is frozen: the content vectors of all queries and products are computed once. A fully connected
    layer of each tower, the ID embeddings and a temperature learn (`mercato.models.recall`), at `learning_rate`. The
    products are those that may be learned from: nothing that is listed after the train split.
    """

    loss: Literal["sampled_softmax"] = "sampled_softmax"
    negatives: Annotated[int, Field(ge=1)] | Literal["all"] = "all"  # shared by a step's queries, beside its products
    popularity_share: float = Field(0.0, ge=0, le=1)
    """Of a sample's draws, how many are by how often a product was engaged; the others are uniform."""
    log_q: bool = True
    """Take the logarithm of how often a product is among a step's from its logit (Yi et al. 2019). How often the batch
    brings it is estimated as the stream of batches passes."""
    frequency_rate: float = Field(0.01, gt=0, lt=1)  # α of that estimate (Algorithm 2)
    scale: float = Field(20.0, gt=0, le=100)  # 1 / temperature at the start; it learns
    micro_batch: int | None = Field(8_192, ge=1)
    """Products whose vectors and logits are held at a time, made again on the way back; None: all."""


def _with_loss(value: Any) -> Any:
    return {"loss": DEFAULT_LOSS} | value if isinstance(value, dict) else value


STAGES = (InBatchSoftmax, SymmetricSoftmax, MarginRanking, ScaledBCE, CoSENT, SampledSoftmax)
AnyInBatch = InBatchSoftmax | SymmetricSoftmax | MarginRanking | ScaledBCE  # spelt out: mypy holds a `match` to it
AnyPairStage = AnyInBatch | CoSENT
Stage = Annotated[AnyPairStage | SampledSoftmax, Field(discriminator="loss"), BeforeValidator(_with_loss)]
"""Any stage; one that names no loss is of `in_batch_softmax`."""


def losses_with(field: str) -> list[str]:
    """The losses whose stages have a field."""
    return [stage.model_fields["loss"].default for stage in STAGES if field in stage.model_fields]
