from __future__ import annotations

import json
import math
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mercato import config
from mercato.errors import MercatoError
from mercato.features.context import MIN_PRICED, MIN_PRODUCTS, ContextSpec, columns_of
from mercato.features.featurizer import FeatureSpec, Featurizer
from mercato.features.tokenizer import train_tokenizer

NOW = datetime(2026, 5, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def fit(products: list[dict], numbers: tuple[str, ...] = (), categories: tuple[str, ...] = ()) -> ContextSpec:
    return ContextSpec.fit(config.Context(numbers=numbers, categories=categories), products, NOW)


def told(spec: ContextSpec, product: dict, now: datetime = NOW) -> tuple[list[float], list[bool]]:
    """The transformed numbers of one product, and which are missing."""
    (row,) = spec.features([product], now)["context_numbers"]
    return row[: len(spec.numbers)].tolist(), (row[len(spec.numbers) :] == 1).tolist()


def ids(spec: ContextSpec, product: dict) -> list[int]:
    return spec.features([product], NOW)["context_categories"][0].tolist()


def catalogue(n: int = 400) -> list[dict]:
    random = np.random.default_rng(0)
    return [
        {
            "title": "sofa " * int(random.integers(1, 9)),
            "description": None if i % 3 == 0 else "soft",
            "category": ("Home > Sofas", "Home > Tables", "Bikes", None)[i % 4],
            "condition": ("New", "used")[i % 2],
            "price": None if i % 10 == 0 else float(np.round(random.lognormal(5 if i % 4 < 2 else 3, 1), 2)),
            "currency": "USD" if i % 5 else "MXN",
            "created_at": NOW - float(random.exponential(30)) * DAY,
            "seller_rating": None if i % 7 == 0 else float(random.integers(1, 6)),
            "attributes": [("discount", f"{random.integers(0, 70)} %")],
            "images": [{"bytes": b"x", "path": None}] * int(random.integers(0, 5)),
        }
        for i in range(n)
    ]


NUMBERS = ("price", "relative_price", "age", "seller_rating", "image_count", "title_length", "attributes.discount")


@pytest.fixture(scope="module")
def products() -> list[dict]:
    return catalogue()


@pytest.fixture(scope="module")
def spec(products: list[dict]) -> ContextSpec:
    return fit(products, NUMBERS, ("condition", "category", "attributes.discount"))


def test_shapes_and_scale(spec, products):
    features = spec.features(products, NOW)
    numbers, categories = features["context_numbers"], features["context_categories"]
    assert numbers.shape == (400, spec.width) == (400, 14) and numbers.dtype == np.float32
    assert categories.shape == (400, 3) and categories.dtype == np.int64 and categories.flags.c_contiguous
    assert set(np.unique(numbers[:, 7:])) == {0, 1}
    for name, column, missing in zip(NUMBERS, numbers.T[:7], numbers.T[7:], strict=True):
        assert not column[missing == 1].any(), name
        assert column[missing == 0].mean() == pytest.approx(0, abs=1e-5), name
        assert column[missing == 0].std() == pytest.approx(1, abs=1e-5), name
    assert (categories >= 0).all() and (categories < spec.sizes).all()
    assert numbers[:, 7].mean() == pytest.approx(0.1)
    unplaced = np.array([not product.get("category") for product in products])
    assert np.array_equal(numbers[:, 8] == 1, (numbers[:, 7] == 1) | unplaced), "no category, nothing to be relative to"


def test_one_by_one_is_the_same_as_all_at_once(spec, products):
    whole = spec.features(products[:20], NOW)
    for i, product in enumerate(products[:20]):
        own = spec.features([product], NOW)
        assert all(np.array_equal(own[name][0], whole[name][i]) for name in whole)
    assert spec.features([], NOW)["context_numbers"].shape == (0, 14)
    assert spec.features([], NOW)["context_categories"].shape == (0, 3)


def test_a_price_is_told_in_its_own_currency():
    prices = [{"price": 10.0 * 2**i, "currency": "USD"} for i in range(9)]
    spec = fit(prices + [{"price": 20 * p["price"], "currency": "MXN"} for p in prices], ("price",))
    assert told(spec, {"price": 160, "currency": "USD"}) == told(spec, {"price": 3200, "currency": " mxn"})
    assert told(spec, {"price": 160})[0] == told(spec, {"price": 160, "currency": spec.currency})[0]
    assert told(spec, {"price": 160, "currency": "JPY"}) == ([0], [True]), "no median to compare it with"
    low, middle, high = (told(spec, {"price": price, "currency": "USD"})[0][0] for price in (20, 160, 1280))
    assert high - middle == pytest.approx(middle - low, rel=0.1), "ratios count, not differences"


def test_a_relative_price_compares_with_the_nearest_group_that_is_large_enough():
    def some(category: str | None, price: float, n: int) -> list[dict]:
        return [{"category": category, "price": price * (1 + 0.01 * i), "currency": "EUR"} for i in range(n)]

    rows = some("A > B", 100, 2 * MIN_PRICED) + some("A > C", 400, MIN_PRICED - 1) + some("D", 9, 9) + some(None, 9, 99)
    spec = fit(rows, ("relative_price",))
    known = {(m.path, m.currency) for m in spec.medians}
    assert known == {("a > b", "eur"), ("a", "eur"), ("d", "eur"), ("", "eur")}

    def ratio(category: str, price: float) -> float:
        (raw,) = spec._raw([{"category": category, "price": price, "currency": "EUR"}], NOW)[0]
        return raw

    assert ratio("A > B", 104.5) == pytest.approx(1)
    assert ratio("a>b > Anything", 104.5) == pytest.approx(1), "an unseen path has its parent's"
    assert ratio("A > C", 106.5) == pytest.approx(1), "so has a small one: all of A has the median 106.5"
    assert ratio("Z", 12) == pytest.approx(12 / np.median([row["price"] for row in rows])), "and a stranger all prices"
    assert math.isnan(ratio("A > B", -1))


def _prices(spec: ContextSpec) -> list[float]:
    return [median.price for median in spec.medians if not median.path]


def test_gifts_are_cheap_and_do_not_move_the_median():
    spec = fit([{"price": price} for price in (0, 0, 0, 0, 10, 20, 30)], ("price",))
    assert _prices(spec) == [20]
    assert told(spec, {"price": 0})[1] == [False]
    assert told(spec, {"price": 0})[0] < told(spec, {"price": 10})[0]
    assert told(fit([{"price": 0.0}] * 9, ("price",)), {"price": 0}) == ([0], [True]), "nothing to compare with"


@pytest.mark.parametrize("outlier", [{"price": 1e9}, {"created_at": "0001-01-01"}, {"images": [None] * 999}])
def test_what_was_never_seen_is_clipped(spec, products, outlier):
    largest = spec.features(products, NOW)["context_numbers"].max(0)
    numbers = spec.features([products[1] | outlier], NOW)["context_numbers"][0]
    assert (numbers <= largest).all() and (numbers == largest)[[0, 1, 2, 4]].any()


def test_a_few_absurd_values_do_not_stretch_the_scale():
    usual = [{"seller_rating": 1 + i % 5} for i in range(995)]
    absurd = [{"seller_rating": 1e6}] * 5
    assert fit(usual + absurd, ("seller_rating",)).numbers[0][1:4] == (0, 1, 5)


@pytest.mark.parametrize(
    "created_at",
    [
        NOW - 30 * DAY,
        (NOW - 30 * DAY).replace(tzinfo=None),
        (NOW - 30 * DAY).astimezone(timezone(timedelta(hours=-7))),
        "2026-04-01T00:00:00Z",
        "2026-04-01",
        date(2026, 4, 1),
        np.datetime64("2026-04-01"),
        (NOW - 30 * DAY).timestamp(),
    ],
)
def test_every_way_to_write_a_time(spec, created_at):
    expected = spec.ages(np.array([30 * 86_400.0]))[0]
    column, indicator = spec.age_columns
    numbers = spec.features([{"created_at": created_at}], NOW)["context_numbers"][0]
    assert numbers[[column, indicator]].tolist() == expected.tolist()
    assert expected[1] == 0


def test_ages(spec):
    ages = spec.ages(np.array([0, 86_400, 1e7, 1e12, np.nan, -5]))
    assert ages.shape == (6, 2) and ages.dtype == np.float32
    assert (np.diff(ages[:3, 0]) > 0).all() and ages[2, 0] <= ages[3, 0] < 10
    assert ages[4].tolist() == [0, 1] and ages[5].tolist() == ages[0].tolist(), "not listed yet: just listed"
    assert told(spec, {"created_at": NOW}, NOW + 9 * DAY)[0][2] == spec.ages(np.array([9 * 86_400.0]))[0, 0]
    assert told(spec, {"created_at": NOW}, NOW.replace(tzinfo=None)) == told(spec, {"created_at": NOW})


def test_a_context_without_age():
    spec = fit([{}], ("price",))
    assert spec.age_columns is None
    with pytest.raises(ValueError, match="no age"):
        spec.ages(np.zeros(1))


def test_listings_of_the_future_say_nothing_of_age():
    past = [{"created_at": NOW - i * DAY} for i in range(1, 50)]
    assert fit(past + [{"created_at": NOW + DAY}] * 500, ("age",)) == fit(past, ("age",))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("20 %", 20), ("20%", 20), ("$1,200", 1200), ("1,200.50", 1200.5), ("Rs. 499", 499), ("US$ 5", 5), (" -3 ", -3),
        ("5,5 cm", 5.5), ("1e3", 1000), (".5", 0.5), ("12cm", 12), ("1,234,567", 1234567), ("€20", 20),
        ("10-12", None), ("2 x 4", None), ("M", None), ("", None), ("1.2.3", None), ("nan", None), ("9" * 99, None),
        ("inf", None), (True, None), (float("nan"), None), (float("-inf"), None), (10**400, None), (None, None),
        (Decimal("1.5"), 1.5), (np.float32(0.5), 0.5), (np.int64(7), 7), ([3], None), ({}, None), (1e300, None),
    ],
)  # fmt: skip
def test_numbers_as_people_write_them(text, expected):
    spec = fit([], ("attributes.x",))
    (raw,) = spec._raw([{"attributes": {"x": text}}], NOW)[0]
    assert raw == expected or (expected is None and math.isnan(raw))


@pytest.mark.parametrize(
    "attributes", [{"size": "40"}, [("a", "1"), ("size", "40")], [{"key": "size", "value": "40"}], (("size", "40"),)]
)
def test_every_shape_of_attributes(attributes):
    spec = fit(
        [{"attributes": {"size": size}} for size in ("40", "42") * 10], ("attributes.size",), ("attributes.size",)
    )
    (number,), missing = told(spec, {"attributes": attributes})
    assert missing == [False] and number == -1
    assert ids(spec, {"attributes": attributes}) == [1]


@pytest.mark.parametrize(
    ("field", "numbers", "categories"),
    [
        ("price", [0, 1], []),
        ("category", [1], [1]),
        ("created_at", [2], []),
        ("images", [4], []),
        ("title", [5], []),
        ("attributes", [6], [2]),
        ("condition", [], [0]),
        ("brand", [], []),
    ],
)
def test_what_is_made_of_a_field(spec, field, numbers, categories):
    assert spec.read_from(field) == (numbers, categories)


def test_nothing_is_fitted_on_other_columns(products):
    context = config.Context(numbers=("relative_price", "age", "attributes.discount"), categories=("condition",))
    columns = columns_of(context)
    assert columns == {"price", "category", "currency", "created_at", "attributes", "condition"}
    some = [{name: product.get(name) for name in columns} for product in products]
    assert ContextSpec.fit(context, some, NOW) == ContextSpec.fit(context, products, NOW)


def test_a_heavy_tail_gets_a_logarithm():
    random = np.random.default_rng(1)
    samples = {"tail": random.lognormal(0, 2, 999), "flat": random.uniform(0, 9, 999), "both": random.normal(0, 1, 999)}
    rows = [{"attributes": {name: float(values[i]) for name, values in samples.items()}} for i in range(999)]
    units = {n.name: n.unit for n in fit(rows, tuple(f"attributes.{name}" for name in samples)).numbers}
    assert units["attributes.tail"] == pytest.approx(0.01 * np.median(samples["tail"]))
    assert units["attributes.flat"] == units["attributes.both"] == 0


def test_photos_are_counted_wherever_they_are():
    spec = fit([{"images": [None] * i} for i in range(9)], ("image_count",))
    three = told(spec, {"images": [None] * 3})
    assert told(spec, {"images": [], "image_embeddings": np.ones((3, 4), np.float32)}) == three
    assert told(spec, {"image_count": 3}) == told(spec, {"image_count": np.int64(3), "images": None}) == three
    assert told(spec, {}) == told(spec, {"images": None}) == told(spec, {"image_count": 0}) != three
    assert told(spec, {})[1] == [False], "no photo is a fact, not a gap"


def test_a_rare_category_is_its_nearest_common_parent():
    rows = [{"category": "Home > Sofas > Red"}] * 3 + [{"category": "Home > Sofas"}] * MIN_PRODUCTS
    rows += [{"category": "Home"}] * 50 + [{"category": "Rare"}] * (MIN_PRODUCTS - 1) + [{}] * 5
    spec = fit(rows, (), ("category",))
    assert spec.categories[0].values == ("home", "home > sofas") and spec.sizes == (3,)
    assert ids(spec, {"category": "HOME >sofas> Red"}) == ids(spec, {"category": "Home > Sofas"}) == [2]
    assert ids(spec, {"category": "Home > Lamps > Tall"}) == [1]
    assert ids(spec, {"category": "Rare"}) == ids(spec, {"category": " > "}) == ids(spec, {}) == [0]


def test_values_that_few_products_have_are_unknown():
    rows = [{"brand": " Nike "}] * MIN_PRODUCTS + [{"brand": "Puma"}] * (MIN_PRODUCTS - 1)
    spec = fit(rows, (), ("brand",))
    assert ids(spec, {"brand": "NIKE"}) == [1] and ids(spec, {"brand": "Puma"}) == [0]
    assert fit(rows * 10 + [{}] * 200_000, (), ("brand",)).sizes == (1,), "a share, in a large catalogue"
    many = [{"brand": f"brand {i}"} for i in range(500) for _ in range(MIN_PRODUCTS)]
    assert fit(many, (), ("brand",)).sizes == (301,)


def test_a_market_that_lacks_the_columns():
    spec = fit([{"title": "sofa"}] * 20, NUMBERS, ("condition", "category"))
    assert spec.sizes == (1, 1)
    numbers, missing = told(spec, {"title": "sofa"})
    assert numbers == [0] * 7
    assert missing == [True, True, True, True, False, False, True]
    numbers, _ = told(
        spec, {"title": "a longer one", "price": 3, "seller_rating": 4, "images": [None], "created_at": NOW}
    )
    assert numbers == [0] * 7, "what was never learned tells nothing"


@pytest.mark.parametrize("name", ["prices", "condition", "attributes.", "product_id", "images"])
def test_a_number_that_is_none(name):
    with pytest.raises(MercatoError, match=rf"product_tower\.context\.numbers: '{name}'.*relative_price.*attributes\."):
        fit([], ("price", name))


@pytest.mark.parametrize("name", ["age", "title", "price", "attributes."])
def test_a_category_that_is_none(name):
    with pytest.raises(MercatoError, match=rf"product_tower\.context\.categories: '{name}'.*condition.*attributes\."):
        fit([], (), (name,))


WILD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.decimals(),
    st.complex_numbers(),
    st.text(max_size=20),
    st.binary(max_size=5),
    st.dates(),
    st.datetimes(timezones=st.one_of(st.none(), st.timezones())),
    st.just(np.datetime64("NaT")),
    st.lists(
        st.one_of(st.none(), st.text(max_size=3), st.tuples(st.just("discount"), st.text(max_size=3))), max_size=3
    ),
    st.dictionaries(st.sampled_from(["discount", "key", "value"]), st.one_of(st.text(max_size=9), st.floats())),
    st.sampled_from(["A > B", "Home > ", "$1,200", "2026-01-01", "1e999", "-0", "\ud800"]),
)
FIELDS = [
    "title", "description", "category", "condition", "price", "currency", "created_at", "seller_rating", "attributes",
    "images", "image_embeddings", "image_count",
]  # fmt: skip


@given(st.dictionaries(st.sampled_from(FIELDS), WILD))
def test_no_product_breaks_it(spec, product):
    features = spec.features([product, {}], NOW)
    numbers = features["context_numbers"]
    assert np.isfinite(numbers).all() and (np.abs(numbers) < 20).all()
    assert (features["context_categories"] < spec.sizes).all() and (features["context_categories"] >= 0).all()


@given(st.lists(st.dictionaries(st.sampled_from(FIELDS), WILD), max_size=30))
def test_no_catalogue_breaks_the_fit(products):
    spec = fit(products, (*NUMBERS, "description_length"), ("condition", "category", "attributes.discount"))
    numbers = spec.features(products, NOW)["context_numbers"]
    assert np.isfinite(numbers).all() and (np.abs(numbers) < 20).all()
    json.dumps(asdict(spec), allow_nan=False)


@pytest.fixture(scope="module")
def feature_spec(spec) -> FeatureSpec:
    return FeatureSpec(
        query_channels=("text",),
        product_channels=("title_text", "context"),
        pad_id=0,
        vocabulary=40,
        buckets=10,
        query_tokens=6,
        query_characters=10,
        title_tokens=5,
        description_tokens=7,
        countries=(),
        languages=(),
        context=spec,
    )


def test_saved_and_loaded(feature_spec, products, tmp_path: Path):
    feature_spec.save(tmp_path / "features.json")
    loaded = FeatureSpec.load(tmp_path / "features.json")
    assert loaded == feature_spec and hash(loaded) == hash(feature_spec)
    assert loaded.context.sizes == feature_spec.context.sizes
    for name, array in feature_spec.context.features(products, NOW).items():
        assert np.array_equal(array, loaded.context.features(products, NOW)[name])


def test_the_featurizer_tells_the_context(feature_spec, products):
    featurizer = Featurizer(feature_spec, train_tokenizer(["red sofa", "blue sofa"] * 9, 40))
    features = featurizer.products(products[:3], as_of=NOW)
    assert set(features) == {"title_tokens", "context_numbers", "context_categories"}
    expected = feature_spec.context.features(products[:3], NOW)
    assert all(np.array_equal(features[name], expected[name]) for name in expected)
    just_now = [{"created_at": datetime.now(UTC)}, {"created_at": datetime.now(UTC) - 100 * DAY}]
    fresh, stale = featurizer.products(just_now)["context_numbers"][:, feature_spec.context.age_columns[0]]
    assert fresh == feature_spec.context.ages(np.zeros(1))[0, 0] < stale, "by the clock, where no moment is given"
