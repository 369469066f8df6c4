"""The recipe: one TOML a run, validated and frozen; every number of a paper is a value here."""

from __future__ import annotations

import string
import tomllib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mercato.errors import MercatoError


class Frozen(BaseModel):
    """A part of a recipe: immutable, and unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Text(Frozen):
    """What both towers read text with: a vocabulary of the market's own, or a pretrained encoder and its tokenizer."""

    pretrained: str | None = None  # a transformers model, by hub name or folder
    vocabulary: int = Field(8_000, ge=100)  # unigram (SentencePiece-style), from scratch; the paper's: 150,000
    shared: bool = False  # one transformer for both towers
    frozen: int = Field(0, ge=0)  # lowest layers of a pretrained encoder that do not learn, the embeddings being one


class Trigrams(Frozen):
    """Character trigrams hashed into an embedding bag."""

    buckets: int = Field(20_000, ge=100)


class TextEncoder(Frozen):
    """A tower's transformer over tokens: its own, or the first layers of the pretrained one."""

    layers: int = Field(ge=1)
    heads: int = Field(4, ge=1)  # from scratch only, as the next two
    hidden: int = Field(128, ge=8)
    feed_forward: int = Field(384, ge=8)
    dropout: float = Field(0.1, ge=0, lt=1)
    pooling: Literal["cls", "mean"] = "cls"
    prefix: str = ""  # put before every text, such as E5's "query: "

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.hidden % self.heads:
            raise ValueError(f"hidden: {self.hidden} is not a multiple of heads ({self.heads})")
        return self


QueryChannel = Literal["text", "trigrams", "country"]
ProductChannel = Literal[
    "text", "title_text", "title_trigrams", "description_text", "description_trigrams",
    "language", "country", "images", "context",
]  # fmt: skip
LateFusion = Literal["attention", "concat", "wide_and_deep"]  # of one vector a channel


class QueryTower(Frozen):
    """Que2Search's query tower (§3.1); Que2Engage's concatenates its channels (§2.1.1)."""

    channels: tuple[QueryChannel, ...] = Field(("text", "trigrams", "country"), min_length=1)
    text: TextEncoder = TextEncoder(layers=2)
    fusion: LateFusion = "attention"
    max_tokens: int | None = Field(None, ge=3)  # None: the 99th percentile of the training queries (§3.5)


class Context(Frozen):
    """What Que2Engage's context encoder reads of a product (§2.1.2): see `mercato.features.context`."""

    # A column of products, an attribute as "attributes.NAME", or (a number) one that is derived: relative_price, age, …
    numbers: tuple[str, ...] = ("price", "relative_price", "age", "seller_rating", "image_count")
    categories: tuple[str, ...] = ("condition", "category")
    hidden: int = Field(128, ge=8)  # of its MLP

    @model_validator(mode="after")
    def _reads_something(self) -> Self:
        if not self.numbers and not self.categories:
            raise ValueError("numbers and categories are both empty: leave the context channel out instead")
        for field, names in (("numbers", self.numbers), ("categories", self.categories)):
            if len(set(names)) < len(names):
                raise ValueError(f"{field}: one is named twice")
        return self


class ModalityDropout(Frozen):
    """How often training hides a whole modality of a product, as if the seller had left it out (Que2Engage §2.1.4)."""

    context: float = Field(0.0, ge=0, lt=1)  # δ_c; the paper's: .5
    images: float = Field(0.0, ge=0, lt=1)  # δ_i; 0
    text: float = Field(0.0, ge=0, lt=1)  # δ_t, all of title and description; .5


class ProductTower(Frozen):
    """Que2Search's product tower (§3.1), or Que2Engage's (§2.1.3), by its fusion.

    One text encoder is shared by title and description unless told otherwise. The channel `text` reads both as one text
    instead: what a pretrained sentence encoder was made for. With the fusion `transformer` the encoder's upper layers
    read the tokens of all text channels and one token of every other channel together.
    """

    channels: tuple[ProductChannel, ...] = Field(
        ("title_text", "title_trigrams", "description_text", "description_trigrams", "language", "country", "images"),
        min_length=1,
    )
    text: TextEncoder = TextEncoder(layers=6)
    shared_text: bool = True
    fusion: LateFusion | Literal["transformer"] = "attention"
    fusion_layers: int | None = Field(None, ge=1)  # M, the upper layers that fuse, of `text.layers`; None: all (K = 0)
    missing: Literal["zeros", "token"] = "zeros"  # what a transformer reads in place of a channel that a product lacks
    image_token: Literal["set", "each"] = "set"  # deep sets over the photos, or a token a photo
    context: Context = Context()
    modality_dropout: ModalityDropout = ModalityDropout()
    title_tokens: int = Field(32, ge=3)
    description_tokens: int = Field(64, ge=3)


class Images(Frozen):
    """Where image vectors come from: `compact` trains a small CNN on the catalogue itself (GrokNet's role)."""

    encoder: str = "compact"  # compact | a transformers vision model by hub name or folder
    fine_tune: bool = False  # train the encoder with the towers, end to end, in place of vectors computed beforehand
    max_images: int = Field(5, ge=1)  # §3.1: up to five
    epochs: int = Field(6, ge=1)  # of the compact CNN
    size: int = Field(48, ge=16)  # pixels a side, of the compact CNN


class CataloguePairs(Frozen):
    """Training pairs from the catalogue alone: text made of a product's own fields stands in for a query."""

    query: str = Field(min_length=3)  # a template of fields and attributes: "{title}", "{base_colour} {category}"
    words: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = None
    """As few and as many words in a row as are drawn of it, the length of a query; None: all."""
    # What the product tower must not see then, nor BM25, which reads brand, category and attributes in any case.
    withhold: tuple[Literal["title", "description", "images", "brand", "category", "attributes"], ...] = ()

    @model_validator(mode="after")
    def _names_a_field(self) -> Self:
        try:
            fields = [field for _, field, _, _ in string.Formatter().parse(self.query)]
        except ValueError as error:
            raise ValueError(f"query: {error}") from None
        if not any(fields) or "" in fields:
            raise ValueError('query: a template must name a field, such as "{title}"')
        if self.words and self.words[0] > self.words[1]:
            raise ValueError("words: the fewest come first")
        return self


class Pairs(Frozen):
    """Which pairs train: the market's (mined or imported), the catalogue's own, or both."""

    market: bool = True
    weight_power: float = Field(0.0, ge=0, le=1)  # a pair is drawn as often as its weight (sessions) to this power
    catalogue: tuple[CataloguePairs, ...] = ()
    held_out: float = Field(0.1, gt=0, lt=0.5)  # share of products whose catalogue pairs validate, and again test


class Head(Frozen):
    """The classification head of the product tower (§3.1.1): which of the most common queries find a product."""

    queries: int = Field(0, ge=0)  # at most; 0: no head; the paper's: 45,000
    weight: float = Field(0.1, gt=0)  # of its loss, beside the stage's


class Blending(Frozen):
    """Gradient blending for two towers (§3.6, Eq. 6): a loss for each modality of one tower with the other whole."""

    by: Literal["channel", "group"] = "group"  # group: the channels of one field, such as a title's text and trigrams
    weights: dict[str, Annotated[float, Field(ge=0)]] | Literal["estimated"] = "estimated"
    """Of "query.text", "product.title", …, and of "multimodal", both towers whole (1 unless given); others 0."""
    epochs: int = Field(1, ge=1)  # of each trial that an estimate trains


InBatchLoss = Literal["in_batch_softmax", "symmetric_softmax", "margin_ranking", "scaled_bce"]
GradedLoss = Literal["cosent"]


class Stage(Frozen):
    """One stage of training: a loss and an optimiser, until validation ROC AUC stops rising.

    In-batch losses learn from engaged pairs, the batch's other products their negatives; a graded loss learns from
    every pair by its grade. Later stages start from the best epoch of the one before (§3.3).

    Shown-and-not-engaged pairs join an in-batch loss in two ways: their products as `mixed` negatives of every query,
    or, Que2Engage's (Eq. 3), in a second task that tells engaged pairs from shown ones:
    L = relevance_weight · L_loss + engagement_weight · L_engagement.
    """

    loss: InBatchLoss | GradedLoss = "in_batch_softmax"
    scale: float = Field(20.0, gt=0)  # s of Eq. 2; the paper's: 15 to 20
    margin: float = Field(0.1, gt=0, lt=2)  # of margin_ranking; the paper's: .1 to .2
    reduction: Literal["sum", "mean"] = "sum"  # of margin_ranking
    negatives: Literal["batch", "mixed"] = "batch"  # mixed: and the products of shown pairs (Yang et al. 2020)
    shown: float = Field(1.0, gt=0)  # shown pairs beside each engaged one, where the stage reads them
    relevance_weight: float = Field(1.0, ge=0)  # λ₁ of Que2Engage Eq. 3; the paper's: .8
    engagement_weight: float = Field(0.0, ge=0)  # λ₂; .2
    engagement_bias: bool = False  # the logit is s · (cos − τ) with a learned τ; as printed, τ = 0
    batch_size: int = Field(768, ge=2)  # engaged pairs (a graded loss: any)
    micro_batch: int | None = Field(None, ge=1)  # rows that are encoded at a time (gradient caching); None: all
    epochs: int = Field(50, ge=1)  # at most
    patience: int = Field(3, ge=1)  # epochs without a better validation ROC AUC
    learning_rate: float = Field(7e-4, gt=0)
    text_learning_rate: float = Field(2e-4, gt=0)  # of the transformers
    image_learning_rate: float = Field(5e-5, gt=0)  # of an image encoder that is fine-tuned
    warmup: float = Field(0.0, ge=0, le=1)  # share of all steps over which the rates rise from 0
    decay: bool = False  # then they fall to 0, in a straight line to the end of the last epoch
    clip: float = Field(1.0, gt=0)

    @model_validator(mode="after")
    def _weighs_something(self) -> Self:
        if not self.relevance_weight and not self.engagement_weight:
            raise ValueError("relevance_weight and engagement_weight are both 0: nothing is left to learn")
        if self.graded and self.reads_shown:
            raise ValueError("loss: a graded loss already reads every pair; leave negatives and engagement_weight")
        if self.negatives == "mixed" and self.loss != "in_batch_softmax":
            raise ValueError("negatives: mixed negatives are columns of in_batch_softmax, of no other loss")
        return self

    @property
    def graded(self) -> bool:
        """Whether the loss reads every pair by its grade."""
        return self.loss in get_args(GradedLoss)

    @property
    def reads_shown(self) -> bool:
        """Whether shown-and-not-engaged pairs are drawn beside the engaged ones."""
        return self.negatives == "mixed" or self.engagement_weight > 0


class Recipe(Frozen):
    """A whole run."""

    name: str
    seed: int = Field(0, ge=0, lt=2**32)
    dimension: int = Field(128, ge=8)  # of the shared space
    text: Text = Text()
    trigrams: Trigrams = Trigrams()
    query_tower: QueryTower = QueryTower()
    product_tower: ProductTower = ProductTower()
    dropout: float = Field(0.1, ge=0, lt=1)
    misspelled: float = Field(0.0, ge=0, lt=1)  # share of training queries that get one random slip; the paper has none
    images: Images = Images()
    pairs: Pairs = Pairs()
    head: Head = Head()
    blending: Blending | None = None
    precision: Literal["float32", "bfloat16"] | None = None  # of the encoders; None: bfloat16 on a GPU, else float32
    stages: tuple[Stage, ...] = Field((Stage(),), min_length=1)

    @model_validator(mode="after")
    def _shared_means_same(self) -> Self:
        own = {"prefix"}
        query, product = self.query_tower.text, self.product_tower.text
        if self.text.shared and query.model_dump(exclude=own) != product.model_dump(exclude=own):
            raise ValueError("text.shared: query_tower.text and product_tower.text must then be alike")
        if self.text.frozen and not self.text.pretrained:
            raise ValueError("text.frozen: only layers of a pretrained encoder know anything; set text.pretrained")
        hidden = {field for pairs in self.pairs.catalogue for field in pairs.withhold} & {"title", "description"}
        if hidden and "text" in self.product_tower.channels:
            raise ValueError("pairs.catalogue.withhold: the channel text joins title and description; use title_text")
        return self

    @model_validator(mode="after")
    def _fusion_fits(self) -> Self:
        tower = self.product_tower
        if tower.fusion == "transformer":
            if not any(channel.endswith("text") for channel in tower.channels):
                raise ValueError("product_tower.fusion: a transformer fuses text with the rest; name a text channel")
            if tower.text.pooling == "cls" and not tower.channels[0].endswith("text"):
                raise ValueError("product_tower.channels: [CLS] is the first token read; name a text channel first")
            if (tower.fusion_layers or 0) > tower.text.layers:
                raise ValueError(f"product_tower.fusion_layers: text.layers has only {tower.text.layers}")
            if not tower.shared_text:
                raise ValueError("product_tower.shared_text: one transformer reads and fuses; it cannot be two")
        elif tower.image_token == "each" or tower.fusion_layers is not None or tower.missing == "token":
            raise ValueError("product_tower: fusion_layers, missing and image_token are of the fusion transformer")
        return self

    @property
    def uses_images(self) -> bool:
        """Whether the product tower looks at photos."""
        return "images" in self.product_tower.channels

    @property
    def uses_context(self) -> bool:
        """Whether the product tower reads price, condition and the like."""
        return "context" in self.product_tower.channels

    @property
    def learns_from_all(self) -> bool:
        """Whether a stage reads pairs that are not engaged."""
        return any(stage.graded or stage.reads_shown for stage in self.stages)

    def toml(self) -> str:
        """The whole recipe, defaults written out; `parse` gives back an equal one."""
        return tomli_w.dumps(_without_none(self.model_dump(mode="json")))

    @classmethod
    def parse(cls, text: str, source: str = "recipe", changes: Sequence[str] = ()) -> Self:
        """Read a recipe, with `changes` such as "text.pretrained=FOLDER" or "stages.0.epochs=3" (values as in TOML).

        Raises:
            MercatoError: not TOML, or a field is unknown or wrong; the message names every one.
        """
        try:
            content = tomllib.loads(text)
            for change in changes:
                _apply(content, change)
            return cls.model_validate(content)
        except tomllib.TOMLDecodeError as error:
            raise MercatoError(f"{source}: not valid TOML: {error}") from None
        except ValidationError as error:
            problems = [f"  {'.'.join(map(str, e['loc'])) or 'recipe'}: {e['msg']}" for e in error.errors()]
            raise MercatoError(f"{source} has {len(problems)} wrong field(s):\n" + "\n".join(problems)) from None


def load_recipe(name: str | Path, changes: Sequence[str] = ()) -> Recipe:
    """A recipe from a file, or by the name of one that ships with Mercato (`que2search`); `changes` as in `parse`."""
    path = Path(name)
    if path.is_file():
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise MercatoError(f"{path}: cannot be read: {error}") from None
        return Recipe.parse(text, str(path), changes)
    shipped = {path.stem: path for path in shipped_folder().glob("*.toml")}
    if path.parent == Path() and (key := path.name.removesuffix(".toml")) in shipped:
        return Recipe.parse(shipped[key].read_text(encoding="utf-8"), key, changes)
    raise MercatoError(f"no recipe {name}: neither a file nor one of {', '.join(sorted(shipped))}")


def shipped_folder() -> Path:
    """Where the recipes that ship with Mercato lie, and the studies of them."""
    inside = Path(str(files("mercato") / "recipes"))  # an installed wheel
    return inside if inside.is_dir() else Path(__file__).parents[2] / "recipes"  # a checkout


def _apply(content: dict[str, Any], change: str) -> None:
    path, sign, text = change.partition("=")
    if not sign:
        raise MercatoError(f"--set {change}: must be field=value, such as stages.0.epochs=3")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word or path
    place: Any = content
    *parents, last = path.strip().split(".")
    try:
        for name in parents:
            place = _grown(place, int(name), {})[int(name)] if isinstance(place, list) else place.setdefault(name, {})
        if isinstance(place, list):
            _grown(place, int(last), value)[int(last)] = value
        elif text.strip():
            place[last] = value
        else:  # "blending=": as if the recipe did not name it
            place.pop(last, None)
    except (AttributeError, IndexError, TypeError, ValueError):
        raise MercatoError(f"--set {change}: the recipe has no place {path.strip()}") from None


def _grown(items: list[Any], place: int, item: Any) -> list[Any]:
    """A list with `item` at its end where `place` is the next one: "stages.1.loss" of a recipe with one stage."""
    if place == len(items):
        items.append(item)
    return items


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_without_none(v) for v in value]
    return value
