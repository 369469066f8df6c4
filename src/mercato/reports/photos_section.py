"""The section of an explanation's page on photos: which patches a query looks at, and whether they matter."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping
from html import escape

import polars as pl

from mercato.data.images import load_images
from mercato.data.market import Market
from mercato.evaluation.attention import Mean
from mercato.evaluation.photos import Look, Photos
from mercato.features.images import ImageSpec, middle_square

SIDE = 176  # pixels of a photo
SHADE = 0.82  # over a patch that says nothing


def photo_squares(market: Market, found: Photos, spec: ImageSpec) -> dict[str, str]:
    """The part of each example's first photo that the patches cover, as a data URI by product."""
    wanted = [example.product_id for example in found.examples]
    rows = market.frame("products", ["product_id", "images"]).filter(pl.col("product_id").is_in(wanted)).to_dicts()
    squares = {}
    for row in rows:
        for image in load_images(market.path, row["images"], limit=1):
            packed = io.BytesIO()
            middle_square(image, SIDE, spec.size / spec.resize).save(packed, "JPEG", quality=80)
            squares[row["product_id"]] = "data:image/jpeg;base64," + base64.b64encode(packed.getvalue()).decode()
    return squares


def photos_section(found: Photos, squares: Mapping[str, str]) -> str:
    """Each example under its query and under another, what is looked at left bright; and what masking it costs."""
    asked = "the photo alone, without its title" if found.head == "qim2" else "the photo beside its title"
    whose = "whose query names a look that no text of the product names" if found.visual else "of the test split"
    low, high = found.difference.interval or (0.0, 0.0)
    verdict = "<b>more than any other does</b>" if low > 0 else "no more than any other does, beyond chance"
    if high < 0:
        verdict = "<b>less than any other does</b>"
    cards = "".join(
        f'<div class="panel look">{_seen(squares[example.product_id], example.own)}'
        f"{_seen(squares[example.product_id], example.other)}<p>{escape(example.title)}</p></div>"
        for example in found.examples
        if example.product_id in squares
    )
    counted = f"{found.pairs} pairs ({found.queries} queries)"
    return (
        '<h2>What a query looks at in a photo</h2><p class="soft">The pretrained cross encoder is asked whether a query'
        f" and {asked} match, for {counted} {whose}. Bright is what spoke for it. Without the brightest"
        f" quarter of the patches the match's logit falls by {_mean(found.drop)}, without as many at random by"
        f" {_mean(found.drop_random)}: what is bright counts {verdict}. The photo matches its own query better"
        f" than another pair's for {found.matched:.0%} of the pairs.</p>"
        f'<div class="looks">{cards}</div>'
    )


def _seen(square: str, look: Look) -> str:
    across, most = math.isqrt(len(look.patches)), max(look.patches) or 1.0
    side = SIDE / across
    shades = "".join(
        f'<rect x="{place % across * side:.1f}" y="{place // across * side:.1f}" width="{side:.1f}" height="{side:.1f}"'
        f' fill="#000" fill-opacity="{SHADE * (1 - share / most):.2f}"/>'
        for place, share in enumerate(look.patches)
    )
    title = f"what {look.query} looks at"
    return (
        f'<figure><svg viewBox="0 0 {SIDE} {SIDE}" role="img" aria-label="{escape(title)}">'
        f'<image href="{square}" width="{SIDE}" height="{SIDE}"/>{shades}</svg>'
        f"<figcaption>{escape(look.query)} <b>{look.match:.0%}</b></figcaption></figure>"
    )


def _mean(mean: Mean) -> str:
    if mean.interval is None:
        return f"{mean.mean:.2f}"
    low, high = mean.interval
    return f"{mean.mean:.2f} [{low:.2f}, {high:.2f}]"
