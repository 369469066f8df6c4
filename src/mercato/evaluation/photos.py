"""What a query looks at in a product's photo, and whether that is what the match hangs on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mercato.data.market import Market
from mercato.evaluation.attention import Mean
from mercato.evaluation.dataset import EvaluationSet, LabelledPairs
from mercato.evaluation.results import Result
from mercato.evaluation.rollout import Head, matches, patches_looked_at
from mercato.models.taobao import PretrainingTowers
from mercato.models.tower import Inputs, tensors
from mercato.progress import track
from mercato.runs.folder import PRETRAINING, SPEC
from mercato.runs.image_vectors import image_counts
from mercato.runs.pretrained import load_pretrained
from mercato.runs.torch_encoder import TorchEncoder

HEADS: tuple[Head, ...] = ("qim2", "qim")  # the first that was learned is asked
MOST_PAIRS = 512
EXAMPLES = 12  # pairs of as many queries
MASKED = 0.25  # of a product's patches, rounded down
FEWEST_PATCHES = 4  # of an image, for a quarter to be one
DRAWS = 4  # of patches at random
BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Look(Result):
    """A query on a photo: the match as the cross encoder has it, 0 … 1, and each patch's share of what spoke for it."""

    query: str
    match: float
    patches: list[float]  # of the first photo, row by row; all photos' patches sum to 1


@dataclass(frozen=True, kw_only=True)
class PhotoExample(Result):
    """A product under a query that it matches, and under one of another pair."""

    product_id: str
    title: str
    own: Look
    other: Look


@dataclass(frozen=True, kw_only=True)
class Photos(Result):
    """What queries look at in photos.

    `drop` is by how much the match's logit falls where the quarter of the patches that speak most for it is masked,
    `drop_random` where any quarter is.
    """

    head: Head  # "qim2": asked of the photo alone; "qim": beside the title
    visual: bool  # the queries name a look that no text of the product names
    pairs: int
    queries: int
    drop: Mean
    drop_random: Mean
    difference: Mean
    matched: float  # share of pairs whose match is above that of the same photo under another pair's query
    examples: list[PhotoExample]


def photos(run: Path, model: TorchEncoder, market: Market, dataset: EvaluationSet, seed: int) -> Photos | None:
    """What a run's pretrained cross encoder looks at in photos of test pairs.

    The pairs are those whose query names a look on which the product's texts are silent, or where there are none
    engaged or relevant ones; at most `MOST_PAIRS`, by the seed. None where the run was not pretrained on patches and
    matching, or no product of a pair has a photo.
    """
    folder = run / PRETRAINING
    if not (folder / SPEC).is_file():
        return None
    towers, featurizer = load_pretrained(folder)
    stage = model.recipe.pretraining
    head = next((name for name in HEADS if stage is not None and getattr(stage, name).weight), None)
    shape = featurizer.spec.image_shape
    if head is None or "patches" not in towers.product.channels or len(shape) < 2 or shape[0] < FEWEST_PATCHES:
        return None
    if model.featurizer.spec.image_shape != shape:  # the run's towers read photos in another way, or not at all
        return None
    pairs, least = dataset.visual or dataset.engaged, 1.0
    if pairs is None:
        pairs, least = dataset.relevance, market.config.relevant_grade
    drawn = _with_photos(market, pairs, least, seed) if pairs is not None else []
    asked = _with_others(drawn, dataset, market.config.relevant_grade)
    products = market.arrow("products").take(np.array([pair.product for pair in asked], np.int64)).to_pylist()
    vectors = model.image_vectors(products) or []
    kept = [place for place, own in enumerate(vectors) if own is not None]  # the others' photos cannot be read
    if not kept:
        return None
    products, vectors = [products[place] for place in kept], [vectors[place] for place in kept]
    own_N, other_N = [asked[place].query for place in kept], [asked[place].other for place in kept]
    texts, countries = dataset.queries["query"].to_list(), dataset.queries["country"].to_list()
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for start in track(range(0, len(kept), BATCH), "what queries look at in photos"):
        some = slice(start, start + BATCH)
        product = tensors(featurizer.products(products[some], vectors[some]))
        own, other = (
            tensors(featurizer.queries([texts[q] for q in queries], [countries[q] for q in queries]))
            for queries in (own_N[some], other_N[some])
        )
        parts.append(_looked(towers, head, own, other, product, generator))
    looked = _Looked(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def look(pair: int, side: int, query: int) -> Look:
        shares, match = looked.share_B2P[pair, side].tolist(), float(looked.logit_B2[pair, side].sigmoid())
        return Look(query=texts[query], match=match, patches=shares)

    units_N = dataset.units_Q[np.array(own_N)]
    drop_N, random_N = looked.drop_B.double().numpy(), looked.random_B.double().numpy()
    shown = [pair for pair, query in enumerate(own_N) if query not in own_N[:pair]][:EXAMPLES]
    return Photos(
        head=head,
        visual=dataset.visual is not None,
        pairs=len(kept),
        queries=len(set(own_N)),
        drop=Mean.of(drop_N, units_N),
        drop_random=Mean.of(random_N, units_N),
        difference=Mean.of(drop_N - random_N, units_N),
        matched=float((looked.logit_B2[:, 0] > looked.logit_B2[:, 1]).float().mean()),
        examples=[
            PhotoExample(
                product_id=products[pair]["product_id"],
                title=products[pair]["title"] or "",
                own=look(pair, 0, own_N[pair]),
                other=look(pair, 1, other_N[pair]),
            )
            for pair in shown
        ],
    )


class _Looked(NamedTuple):
    share_B2P: Tensor  # of the first photo's patches: by its own query, and by the other
    logit_B2: Tensor
    drop_B: Tensor
    random_B: Tensor


def _looked(
    towers: PretrainingTowers, head: Head, own: Inputs, other: Inputs, product: Inputs, generator: torch.Generator
) -> _Looked:
    share_BP, logit_B = patches_looked_at(towers, head, own, product)
    other_BP, other_B = patches_looked_at(towers, head, other, product)
    there_BP = product["patch_mask"].repeat_interleave(product["patches"].shape[2], 1)

    def drop(order_BP: Tensor) -> Tensor:
        """What the match loses where the first of the patches by this order are masked, (B,)."""
        ranks_BP = order_BP.masked_fill(~there_BP, -1).argsort(1, descending=True).argsort(1)
        count_B = (MASKED * there_BP.sum(1)).floor()
        return logit_B - matches(towers, head, own, product, ranks_BP < count_B.unsqueeze(1))

    draws = [drop(torch.rand(share_BP.shape, generator=generator)) for _ in range(DRAWS)]
    first = product["patches"].shape[2]
    return _Looked(
        torch.stack([share_BP[:, :first], other_BP[:, :first]], 1),
        torch.stack([logit_B, other_B], 1),
        drop(share_BP),
        torch.stack(draws).mean(0),
    )


def _with_photos(market: Market, pairs: LabelledPairs, least: float, seed: int) -> list[tuple[int, int]]:
    """Pairs of at least this grade whose product has a photo, in random order: a query's place, a product's row."""
    counts = image_counts(market).to_numpy()
    wanted = np.flatnonzero((counts[pairs.products] > 0) & (pairs.grades >= least))
    drawn = np.random.default_rng(seed).permutation(wanted)[:MOST_PAIRS]
    return [(int(pairs.queries[pair]), int(pairs.products[pair])) for pair in drawn]


class _Pair(NamedTuple):
    query: int  # place among the evaluation's queries
    product: int  # row of the table
    other: int  # a query of another pair, of another unit, that is not known to find the product


def _with_others(found: Sequence[tuple[int, int]], dataset: EvaluationSet, relevant_grade: float) -> list[_Pair]:
    """Each pair with the next one's query that may be asked beside its own; those that have none are left out."""
    known = set(found)
    for pairs, least in ((dataset.engaged, 1.0), (dataset.relevance, relevant_grade)):
        if pairs is not None:
            good_P = pairs.grades >= least
            known |= set(zip(pairs.queries[good_P].tolist(), pairs.products[good_P].tolist(), strict=True))
    units, asked = dataset.units_Q, []
    for place, (query, product) in enumerate(found):
        following = (other for other, _ in (*found[place:], *found[:place]))
        others = (other for other in following if units[other] != units[query] and (other, product) not in known)
        if (other := next(others, None)) is not None:
            asked.append(_Pair(query, product, other))
    return asked
