"""The recipe: one TOML a run, validated and frozen; every number of a paper is a value here."""

from __future__ import annotations

import string
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tomli_w
from pydantic import Field, ValidationError, model_validator

from mercato.config.base import Frozen
from mercato.config.pretraining import Pretraining
from mercato.config.ranking import Ranking
from mercato.config.reading import read_recipe, wrong_fields
from mercato.config.stages import AnyPairStage, InBatchSoftmax, PairStage, SampledSoftmax, Stage
from mercato.config.towers import ProductTower, QueryTower
from mercato.errors import MercatoError
from mercato.fields import PRODUCT_CHANNELS, channel_fields


class Text(Frozen):
    """What both towers read text with: a vocabulary of the market's own, or a pretrained encoder and its tokenizer."""

    pretrained: str | None = None  # a transformers model, by hub name or folder
    vocabulary: int = Field(8_000, ge=100)  # unigram (SentencePiece-style), from scratch; the paper's: 150,000
    shared: bool = False  # one transformer for both towers
    frozen: int = Field(0, ge=0)  # lowest layers of a pretrained encoder that do not learn, the embeddings being one


class Trigrams(Frozen):
    """Character trigrams hashed into an embedding bag."""

    buckets: int = Field(20_000, ge=100)


class Images(Frozen):
    """Where image vectors come from: `compact` trains a small CNN on the catalogue itself (GrokNet's role).

    The channel `patches` reads each image in parts, a position of the fusion transformer each: squares of its pixels,
    or the places of a feature map of the encoder.
    """

    encoder: str = "compact"  # compact | a transformers vision model by hub name or folder
    fine_tune: bool = False  # train the encoder with the towers, end to end, in place of vectors computed beforehand
    max_images: int = Field(5, ge=1)  # §3.1: up to five
    epochs: int = Field(6, ge=1)  # of the compact CNN
    size: int = Field(48, ge=16)  # pixels a side, of the compact CNN and of what is cut into patches
    patches: Literal["pixels", "features"] = "pixels"  # what the channel `patches` reads
    patch_size: int = Field(12, ge=1)  # pixels a side, of "pixels"


class CataloguePairs(Frozen):
    """Training pairs from the catalogue alone: text made of a product's own fields stands in for a query."""

    query: str = Field(min_length=3)  # a template of fields and attributes: "{title}", "{base_colour} {category}"
    words: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = None
    """As few and as many words in a row as are drawn of it, the length of a query; None: all."""
    # What the product tower must not see then, nor BM25, which reads brand, category and attributes in any case.
    drop_fields: tuple[Literal["title", "description", "images", "brand", "category", "attributes"], ...] = ()

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
    fraction: float = Field(1.0, gt=0, le=1)
    """Of the market's training pairs, how many are read: what a smaller log would teach. A smaller one is part of a
    larger one."""
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
    typos: float = Field(0.0, ge=0, lt=1)  # share of training queries that get one random typo; the paper has none
    images: Images = Images()
    pairs: Pairs = Pairs()
    head: Head = Head()
    blending: Blending | None = None
    monitor: tuple[Literal["relevance", "engagement", "recall"], ...] | None = Field(None, min_length=1)
    """The tasks by the mean of whose validation ROC AUC training stops early and keeps its best epoch; None: relevance,
    and engagement too where a stage reads unengaged pairs. Or recall alone: recall@10 of engaged pairs."""
    pretraining: Pretraining | None = None  # before the stages, of the towers' encoders
    precision: Literal["float32", "bfloat16"] | None = None  # of the encoders; None: bfloat16 on a GPU, else float32
    stages: tuple[Stage, ...] = Field((InBatchSoftmax(),), min_length=1)
    ranking: Ranking = Ranking()

    @model_validator(mode="after")
    def _recall_alone(self) -> Self:
        if self.monitor is not None and "recall" in self.monitor and len(self.monitor) > 1:
            raise ValueError('monitor: "recall" is no ROC AUC; name it alone, or the others')
        return self

    @model_validator(mode="after")
    def _shared_means_same(self) -> Self:
        own = {"prefix"}
        query, product = self.query_tower.text, self.product_tower.text
        if self.text.shared and query.model_dump(exclude=own) != product.model_dump(exclude=own):
            raise ValueError("text.shared: query_tower.text and product_tower.text must then be alike")
        if self.text.frozen and not self.text.pretrained:
            raise ValueError("text.frozen: only layers of a pretrained encoder know anything; set text.pretrained")
        hidden = {field for pairs in self.pairs.catalogue for field in pairs.drop_fields} & {"title", "description"}
        read = {*self.product_tower.channels, *(self.pretraining.channels if self.pretraining else ())}
        if self.pretraining and self.text.shared and not self.pretraining.shared:
            raise ValueError("pretraining.shared: text.shared has one encoder for both towers, which pretrains as one")
        if self.pretraining and self.pretraining.ict.weight and product.prefix:
            raise ValueError("pretraining.ict: a title's words cannot be told from product_tower.text.prefix")
        if hidden and "text" in read:
            raise ValueError(
                "pairs.catalogue.drop_fields: the channel text joins title and description; use title_text"
            )
        return self

    @model_validator(mode="after")
    def _fusion_fits(self) -> Self:
        tower = self.product_tower
        if tower.fusion == "transformer":
            texts = [channel for channel in tower.channels if PRODUCT_CHANNELS[channel].kind == "text"]
            if not texts and "patches" not in tower.channels:
                raise ValueError("product_tower.fusion: a transformer reads a sequence; name a text channel or patches")
            if tower.text.pooling == "cls" and tower.channels[0] not in texts:
                raise ValueError("product_tower.channels: [CLS] is the first token read; name a text channel first")
            if (tower.fusion_layers or 0) > tower.text.layers:
                raise ValueError(f"product_tower.fusion_layers: text.layers has only {tower.text.layers}")
            if not tower.shared_text:
                raise ValueError("product_tower.shared_text: one transformer reads and fuses; it cannot be two")
        elif tower.image_token == "each" or tower.fusion_layers is not None or tower.missing == "token":
            raise ValueError("product_tower: fusion_layers, missing and image_token are of the fusion transformer")
        return self

    @model_validator(mode="after")
    def _patches_fit(self) -> Self:
        tower, images = self.product_tower, self.images
        if self.uses_patches:
            if any(PRODUCT_CHANNELS[channel].kind == "images" for channel in tower.channels):
                raise ValueError("product_tower.channels: images and patches are two ways to read one field; name one")
            if tower.fusion != "transformer":
                raise ValueError(
                    'product_tower.fusion: patches are positions of a sequence; set fusion = "transformer"'
                )
            if images.fine_tune:
                raise ValueError("images.fine_tune: an encoder of patches is not trained with the towers")
        if self.uses_patches or (self.pretraining and "patches" in self.pretraining.channels):
            if images.patches == "pixels" and images.encoder != "compact" and self.uses_patches:
                raise ValueError('images.encoder: pixels need no encoder; set images.patches = "features" to use it')
            if images.patches == "pixels" and images.size % images.patch_size:
                raise ValueError(
                    f"images.size: {images.size} is not a multiple of images.patch_size ({images.patch_size})"
                )
        return self

    @model_validator(mode="after")
    def _blends_pairs(self) -> Self:
        if self.blending and not self.pair_stages:
            raise ValueError("blending: balances the losses of pairs, and no stage is one of pairs")
        return self

    @model_validator(mode="after")
    def _content_beside_ids(self) -> Self:
        for name, tower in (("query_tower", self.query_tower), ("product_tower", self.product_tower)):
            if not set(tower.channels) - {"ids"}:
                raise ValueError(f"{name}.channels: ids alone know nothing of what is new; name another channel")
        return self

    @property
    def uses_images(self) -> bool:
        """Whether the product tower looks at images, whole or in patches."""
        return "images" in channel_fields(self.product_tower.channels)

    @property
    def uses_patches(self) -> bool:
        """Whether it reads them in patches."""
        return any(PRODUCT_CHANNELS[channel].kind == "patches" for channel in self.product_tower.channels)

    @property
    def uses_ids(self) -> bool:
        """Whether the product tower knows products, sellers and the like by their ids."""
        return "ids" in self.product_tower.channels

    @property
    def uses_context(self) -> bool:
        """Whether the product tower reads price, condition and the like."""
        return "context" in self.product_tower.channels

    @property
    def pair_stages(self) -> tuple[AnyPairStage, ...]:
        """The stages that learn from query–product pairs."""
        return tuple(stage for stage in self.stages if isinstance(stage, PairStage))

    @property
    def recalls(self) -> bool:
        """Whether a stage learns the recall model, on top of content vectors (`mercato.models.recall`)."""
        return any(isinstance(stage, SampledSoftmax) for stage in self.stages)

    @property
    def monitored(self) -> tuple[str, ...]:
        """The tasks that early stopping goes by."""
        if self.monitor is not None:
            return self.monitor
        reads_both = any(stage.unengaged_per_pair for stage in self.pair_stages)
        return ("relevance", "engagement") if reads_both else ("relevance",)

    @property
    def learns_from_all(self) -> bool:
        """Whether a stage reads pairs that are not engaged."""
        return any(stage.graded or stage.unengaged_per_pair for stage in self.pair_stages)

    def toml(self) -> str:
        """The whole recipe, defaults written out; `parse` gives back an equal one."""
        return tomli_w.dumps(_without_none(self.model_dump(mode="json")))

    @classmethod
    def parse(cls, text: str, source: str = "recipe", changes: Sequence[str] = ()) -> Self:
        """Read a recipe, with `changes` such as "text.pretrained=FOLDER" or "stages.0.epochs=3" (values as in TOML).

        Raises:
            MercatoError: not TOML, or a field is unknown or wrong; the message names every one.
        """
        content = read_recipe(text, source, changes)
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            problems = [f"  {problem}" for problem in wrong_fields(error)]
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
    return inside if inside.is_dir() else Path(__file__).parents[3] / "recipes"  # a checkout


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_without_none(v) for v in value]
    return value
