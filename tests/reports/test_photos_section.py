"""What is shown of a query and a photo."""

from __future__ import annotations

import re

from mercato.evaluation.attention import Mean
from mercato.evaluation.photos import Look, PhotoExample, Photos
from mercato.reports.photos_section import photos_section

PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACw="


def found(difference: tuple[float, float], **changes: object) -> Photos:
    example = PhotoExample(
        product_id="p1",
        title="A <dress>",
        own=Look(query="red & white", match=0.91, patches=[0.5, 0.25, 0.25, 0.0]),
        other=Look(query="blue", match=0.07, patches=[0.0, 0.0, 0.0, 0.0]),
    )
    lost = example.__class__(**{**vars(example), "product_id": "p2"})
    given = {
        "head": "qim2",
        "visual": True,
        "pairs": 40,
        "queries": 30,
        "drop": Mean(0.8, (0.6, 1.0)),
        "drop_random": Mean(0.3, None),
        "difference": Mean(sum(difference) / 2, difference),
        "matched": 0.85,
        "examples": [example, lost],
    }
    return Photos(**{**given, **changes})


def test_patches_are_shaded_by_how_little_they_say() -> None:
    page = photos_section(found((0.2, 0.6)), {"p1": PIXEL})
    own, other = re.findall("<figure>.*?</figure>", page)
    assert re.findall(r'x="(\S+)" y="(\S+)" width="88.0"', own) == [
        ("0.0", "0.0"),
        ("88.0", "0.0"),
        ("0.0", "88.0"),
        ("88.0", "88.0"),
    ], "row by row"
    assert re.findall(r'fill-opacity="(\S+)"', own) == ["0.00", "0.41", "0.41", "0.82"]
    assert set(re.findall(r'fill-opacity="(\S+)"', other)) == {"0.82"}, "nothing spoke for it"
    assert "red &amp; white <b>91%</b>" in own and "blue <b>7%</b>" in other
    assert "A &lt;dress&gt;" in page and "40 pairs (30 queries)" in page and "85% of the pairs" in page


def test_only_what_is_off_zero_is_called_a_difference() -> None:
    assert "more than any other does</b>" in photos_section(found((0.2, 0.6)), {})
    assert "no more than any other does, beyond chance" in photos_section(found((-0.1, 0.6)), {})
    assert "less than any other does</b>" in photos_section(found((-0.4, -0.1)), {})
    beside = photos_section(found((0.2, 0.6), head="qim", visual=False), {})
    assert "beside its title" in beside and "of the test split" in beside
