"""`[pretraining]`: what the encoders learn of a market before the stages (Taobao's multimodal pretraining)."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from mercato.config.base import Frozen
from mercato.config.stages import Fitting

Where = Literal["tower", "cross", "both"]
"""Where masked words or patches are told: from the states of the towers, of the cross encoder, or of both."""

TASKS = ("mlm", "mpm", "qic", "qim", "qim2", "ict")
READABLE = ("title_text", "description_text", "text", "patches")  # what the single-stream encoder can read


def _readable(name: str) -> str:
    if name not in READABLE:
        raise ValueError(f"{name!r} cannot be pretrained; there are {', '.join(READABLE)}")
    return name


class PretrainingTask(Frozen):
    """What all tasks have."""

    weight: float = Field(1.0, ge=0)  # of its loss; 0: the task is off
    rate: float = Field(1.0, gt=0, le=1)  # share of the steps that learn it


class MaskedWords(PretrainingTask):
    """MLM: masked language modelling on queries and titles (Devlin et al. 2019), by whole words."""

    share: float = Field(0.15, gt=0, lt=1)  # of a text's words
    where: Where = "tower"


class MaskedPatches(PretrainingTask):
    """MPM: masked patch modelling."""

    share: float = Field(0.5, gt=0, lt=1)  # of an image's patches
    where: Where = "tower"
    target: Literal["features", "pixels", "codebook"] = "pixels"
    """What is told of a masked patch: what the encoder reads of it, standardised; that within the patch, as in MAE (He
    et al. 2022, §3, "normalized pixel values"); or its nearest code of a codebook, as in BEiT (Bao et al. 2022)."""
    codes: int = Field(256, ge=2)  # of the codebook


class Classification(PretrainingTask):
    """Telling a query's own item among the batch's by the inner product of the two towers."""

    loss: Literal["am_softmax", "arcface", "softmax"] = "am_softmax"
    scale: float = Field(20.0, gt=0)  # s
    margin: float = Field(0.1, ge=0, lt=1)  # m, of a cosine (am_softmax) or an angle in radians (arcface)


class QueryItem(Classification):
    """QIC: query–item classification of engaged pairs."""

    photo_alone: float = Field(0.0, ge=0, lt=1)
    """Share of the items with an image of which nothing else is read: else a title that says enough hides it."""


class InverseCloze(Classification):
    """ICT: an item told by a few words in sequence of its own title (inverse cloze task, Lee et al. 2019).

    It asks for what nobody has asked for yet. An item that has lost the words must be told by its other words and its
    photo; one that keeps them, by the words. It is of the products that stand beside the pairs (`unpaired`).
    """

    weight: float = Field(0.0, ge=0)
    words: int = Field(3, ge=1)  # at most
    kept: float = Field(0.5, ge=0, le=1)  # share of the items that keep the words


class Matching(PretrainingTask):
    """QIM and QIM2: whether a query and an item, or an image, match, by the cross encoder."""

    scale: float = Field(20.0, ge=0)
    """Negatives are drawn in the batch as exp(scale · cos) of the towers' vectors: the higher, the harder (Li et al.
    2021, §3.2); 0: any of them."""


class Pretraining(Fitting):
    """One encoder for queries and single-stream items, and a cross encoder on top, on several tasks at once.

    Its text encoder is the product tower's (`product_tower.text`), or a pretrained one that the recipe names.
    """

    batch_size: int = Field(128, ge=2)  # engaged pairs
    epochs: int = Field(6, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    text_learning_rate: float = Field(1e-3, gt=0)
    warmup: float = Field(0.1, ge=0, le=1)
    decay: bool = True
    channels: tuple[Annotated[str, AfterValidator(_readable)], ...] = Field(("title_text", "patches"), min_length=1)
    """What the item tower reads in one stream."""
    shared: bool = True  # one encoder for queries and items
    cross_layers: int = Field(1, ge=1)  # of the cross encoder
    unpaired: float = Field(0.5, ge=0)  # products without a query in a batch, beside each pair; and queries without one
    mlm: MaskedWords = MaskedWords()
    mpm: MaskedPatches = MaskedPatches()
    qic: QueryItem = QueryItem()
    qim: Matching = Matching()
    qim2: Matching = Matching()
    ict: InverseCloze = InverseCloze()
    held_out: float = Field(0.05, gt=0, lt=0.5)  # share of products whose masked words and patches validate

    @model_validator(mode="after")
    def _learns_something(self) -> Self:
        if len(set(self.channels)) < len(self.channels):
            raise ValueError("channels: one is named twice")
        if "text" in self.channels and {"title_text", "description_text"} & set(self.channels):
            raise ValueError("channels: text joins title and description, and would tell what is masked in them")
        if self.channels[0] == "patches":
            raise ValueError("channels: a sequence begins with text; name a text channel first")
        if self.micro_batch is not None:
            raise ValueError("micro_batch: pretraining reads a batch whole; lower its batch_size")
        if self.ict.weight and not self.unpaired:
            raise ValueError("ict: of products beside the pairs, and unpaired = 0 has none")
        if not any(getattr(self, task).weight for task in TASKS):
            raise ValueError("every task has weight 0: nothing is left to learn")
        return self
