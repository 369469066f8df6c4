"""Which colours and patterns a query names, and on which a product's texts are silent."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mercato.data.market import Market, MarketConfig, write_market_toml
from mercato.data.schema import PRODUCTS
from mercato.evaluation.looks import Looks, visual_pairs


@pytest.fixture
def market(tmp_path):
    """Make a market of some products."""

    def make(*products) -> Market:
        write_market_toml(tmp_path, MarketConfig())
        rows = [{"product_id": str(number), "title": "", **product} for number, product in enumerate(products)]
        pq.write_table(pa.Table.from_pylist(rows, schema=PRODUCTS), tmp_path / "products.parquet")
        return Market.open(tmp_path)

    return make


def named(query, looks=None):
    return [sorted(look.name for look in cue) for cue in (looks or Looks.of()).cues(query)]


@pytest.mark.parametrize(
    ("query", "looks"),
    [
        ("RED sofa", ["red"]),
        ("zapatillas rojas", ["red"]),
        ("rotes kleid", ["red"]),
        ("sofá a rayas", ["striped"]),
        ("grün gestreiftes Hemd", ["green", "striped"]),
        ("robe à pois rouge", ["dotted", "red"]),
        ("robe fleurie", ["floral"]),
        ("pot de fleurs", []),
        ("coffee table", []),
        ("infrared lamp", []),
        ("", []),
    ],
)
def test_a_query_names_a_look_by_a_word_of_any_language_that_means_little_else(query, looks):
    assert sorted(name for cue in named(query) for name in cue) == looks


def test_the_markets_own_values_of_colours_and_patterns_are_names_too(market):
    def of(**attributes):
        return {"attributes": list(attributes.items())}

    shared = [of(base_colour="Navy Blue", **{"Print or Pattern Type": "Paisley"}, material="Oak", color="NA")] * 3
    looks = Looks.of_market(market(*shared, *[of(Farbe="Rot")] * 3, *[of(colour="Puce")] * 2, {"attributes": None}))
    assert named("navy blue paisley shirt", looks) == [["navy blue"], ["paisley"]]
    assert named("rot", looks) == [["red"]], "what the general list knows goes by its name"
    assert named("oak puce na", looks) == [], "of no colour, too rare, nothing"


SILENT = [
    ("red sofa", {"title": "Sofa", "description": "As new.", "category": "Home > Sofas"}),
    ("red sofa", {"title": "Striped sofa"}),
    ("red striped sofa", {"title": "Red sofa"}),
    ("sofá rojo", {"title": "Infrared sofa", "attributes": [("material", "oak")]}),
]
NAMED = [
    ("sofa", {"title": "Sofa"}),
    ("red sofa", {"title": "Sofa, RED"}),
    ("red sofa", {"title": "Sofa", "description": "Un sofá rojo."}),
    ("red sofa", {"title": "Sofa", "attributes": [("colour", "red")]}),
    ("red sofa", {"title": "Sofa", "category": "Reds"}),
    ("red sofa", {"title": "Sofa", "brand": "Red Barn"}),
    ("red sofa", {"title": "Dunkelrotes Sofa"}),
    ("red sofa", {"title": "Burgundy sofa"}),
    ("red sofa", {"title": "Sofa bleu"}),
    ("striped sofa", {"title": "Polka dot sofa"}),
]


def test_only_the_photo_can_tell_what_no_text_of_the_product_does(market):
    """Nor is it a cue where the text says another colour: what it shows is that."""
    asked = [*SILENT, *NAMED]
    made = market(*(product for _, product in asked))
    found = visual_pairs(made, [query for query, _ in asked], list(range(len(asked))))
    assert found == [True] * len(SILENT) + [False] * len(NAMED)


def test_a_rare_colour_is_told_by_the_common_one_that_it_holds(market):
    shades = [{"attributes": [("colour", "Navy Blue")]}] * 3
    made = market(*shades, {"title": "Camisa azul"}, {"title": "Navy shirt"}, {"title": "Shirt"})
    assert visual_pairs(made, ["navy blue shirt"] * 6, list(range(6))) == [False] * 5 + [True]


def test_where_no_query_names_a_look_no_text_is_read(market, monkeypatch):
    made, read, arrow = market({"title": "Sofa"}), [], Market.arrow
    monkeypatch.setattr(Market, "arrow", lambda self, *given: read.append(given) or arrow(self, *given))
    assert visual_pairs(made, ["sofa", "oak sofa"], [0, 0]) == [False, False]
    assert read == [("products", ["attributes"])]
    assert visual_pairs(made, ["sofa", "red sofa"], [0, 0]) == [False, True]
