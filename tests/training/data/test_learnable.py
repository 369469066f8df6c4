"""What no product may teach: what a held-out pair hides, and what was not there yet."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mercato.data.market import Market
from mercato.data.pairs import catalogue_split
from mercato.errors import MercatoError
from mercato.runs.folder import SPEC, TOKENIZER
from mercato.runs.image_encoder import MODEL
from mercato.training.data.image_encoder import WEIGHTS
from mercato.training.data.learnable import learnable_products
from mercato.training.data.prepare import prepare
from tests.support.toys import make_market, pairs, photo, products, toy_recipe

CUTOFF = datetime(2025, 3, 1, 9, tzinfo=UTC)  # the last training pair; others were seen later
DAY = timedelta(days=1)
COUNT = 96
COLOURS = ("red", "blue", "green")
CATALOGUE = "pairs={market=false, held_out=0.2, catalogue=[{query='{colour} {category}', drop_fields=['title']}]}"
TOWER = (
    "product_tower.channels=['title_text', 'description_text', 'country', 'language', 'images', 'context']",
    "product_tower.context={numbers=['price', 'relative_price', 'age', 'title_length', 'attributes.size'],"
    " categories=['category', 'brand', 'attributes.colour']}",
)
OTHER = {
    "title": "zyzzyva quincunx",
    "description": "an oxyrhynchus of great antiquity, hardly used",
    "category": "Rarities > Insects",
    "brand": "zyx",
    "country": "fr",
    "language": "fr",
    "price": 1e6,
    "attributes": [("colour", "puce"), ("size", "9000")],
}


def goods() -> list[dict[str, Any]]:
    return [
        row
        | {
            "brand": f"brand {i % 3}",
            "price": 10.0 + i,
            "currency": "EUR",
            "created_at": CUTOFF - i * DAY,
            "attributes": [("colour", COLOURS[i % 3]), ("size", str(i % 7))],
            "images": [photo(COLOURS[i % 3])],
        }
        for i, row in enumerate(products(COUNT))
    ]


def make(folder: Path, rows: list[dict[str, Any]]) -> Market:
    """A market whose pairs are of the products as they were, whatever is changed in the table."""
    seen = {"train": CUTOFF, "validation": CUTOFF + DAY}
    links = [link | {"last_seen": seen[link["split"]]} for link in pairs(products(COUNT))]
    return make_market(folder, rows, links)


def fitted(market: Market, folder: Path, *changes: str) -> list[bytes]:
    """Tokenizer, feature spec and compact CNN, as they are kept."""
    folder.mkdir()
    prepared = prepare(market, toy_recipe(*TOWER, *changes), folder)
    assert prepared.image_folder is not None
    assert len(prepared.tables.products["context_numbers"]) == COUNT  # every product has features
    files = [folder / TOKENIZER, folder / SPEC, prepared.image_folder / WEIGHTS, prepared.image_folder / MODEL]
    return [file.read_bytes() for file in files]


def held(split: str) -> int:
    """The row of a product whose catalogue pairs are of this split."""
    return next(i for i in range(COUNT) if catalogue_split(f"p{i}", 0.2) == split)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[bytes]]:
    """What the market that nobody changed fits, with pairs of its own and of the catalogue."""
    folder = tmp_path_factory.mktemp("original")
    market = make(folder / "market", goods())
    return {"market": fitted(market, folder / "own"), "catalogue": fitted(market, folder / "run", CATALOGUE)}


def test_what_held_out_products_hide_is_never_learned(tmp_path: Path, original: dict[str, list[bytes]]) -> None:
    rows = goods()
    for split in ("validation", "future"):
        rows[held(split)] |= OTHER | {"images": [photo("magenta")]}
    market = make(tmp_path / "market", rows)
    assert fitted(market, tmp_path / "run", CATALOGUE) == original["catalogue"]
    for fresh, before in zip(fitted(market, tmp_path / "own"), original["market"], strict=True):
        assert fresh != before  # a recipe that hides nothing does learn it, on the same market, and not the other's


def test_what_a_product_learned_from_says_is_learned(tmp_path: Path, original: dict[str, list[bytes]]) -> None:
    rows = goods()
    rows[held("train")] |= OTHER | {"images": [photo("magenta")]}
    found = fitted(make(tmp_path / "market", rows), tmp_path / "run", CATALOGUE)
    assert all(fresh != before for fresh, before in zip(found, original["catalogue"], strict=True))


def test_what_is_listed_after_the_train_split_is_not_learned_yet(tmp_path: Path) -> None:
    later = goods()
    later[5]["created_at"] = CUTOFF + DAY / 2
    found = fitted(make(tmp_path / "market", later), tmp_path / "run")
    later[5] |= OTHER | {"images": [photo("magenta")]}
    assert fitted(make(tmp_path / "changed", later), tmp_path / "other") == found


def test_the_rows_of_those_who_may_teach_are_told(tmp_path: Path) -> None:
    rows = goods()
    rows[1]["created_at"] = CUTOFF + timedelta(microseconds=1)
    recipe = toy_recipe('product_tower.channels=["title_text"]')
    found = prepare(make(tmp_path / "market", rows), recipe, tmp_path)
    assert found.learnable.tolist() == [row for row in range(COUNT) if row != 1]


def test_who_may_teach(tmp_path: Path) -> None:
    rows = goods()
    rows[1]["created_at"] = CUTOFF + timedelta(microseconds=1)
    rows[2]["created_at"] = None  # nobody knows: as ever
    market = make(tmp_path / "market", [*rows, rows[3] | {"created_at": CUTOFF + DAY}])  # an id's first row counts
    by_time = [row["product_id"] for row in rows if row is not rows[1]]
    assert learnable_products(market, toy_recipe().pairs).to_list() == by_time
    both = [product for product in by_time if catalogue_split(product, 0.2) == "train"]
    assert 0.4 * COUNT < len(both) < 0.8 * COUNT
    assert learnable_products(market, toy_recipe(CATALOGUE, "pairs.market=true").pairs).to_list() == both


def test_a_market_listed_after_all_of_its_training_pairs_is_an_error(tmp_path: Path) -> None:
    market = make(tmp_path / "market", [row | {"created_at": CUTOFF + DAY} for row in goods()])
    with pytest.raises(MercatoError, match="created_at: every product is listed after 2025-03-01 09:00"):
        learnable_products(market, toy_recipe().pairs)
