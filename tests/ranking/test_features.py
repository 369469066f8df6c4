"""Features of queries and products written by hand, and of wild ones: what each says, and that it says it alone."""

from __future__ import annotations

from datetime import timedelta, timezone

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mercato.ranking.features import NAMES, Asked, features, features_of
from mercato.retrieval.expression import Expression
from mercato.retrieval.protocol import record_from_product
from mercato.retrieval.samples import DIMENSION, QUERY
from mercato.retrieval.signals import SECTIONS, word_hashes
from mercato.runs.query_head import QueryHead
from tests.support.ranked_catalogue import NOW, counts_of, indexed

PRODUCTS = (
    {
        "product_id": "sofa", "title": "Red leather sofa, 3 seats", "description": "a sofa without cat hair",
        "brand": "Ektorp", "category": "Home > Sofas", "attributes": {"colour": "red"}, "price": 100.0,
        "condition": "used", "latitude": 0.0, "longitude": 0.0, "created_at": NOW - timedelta(days=10),
        "seller_id": "s1", "seller_rating": 4.5, "rating": 3.0, "images": [{}, {}],
    },
    {"product_id": "chair", "title": "leather red chair 200", "category": "Home > Chairs", "price": 50.0},
    {"product_id": "bare", "title": "🙂"},
)  # fmt: skip


@pytest.fixture(scope="module")
def index():
    with indexed(PRODUCTS) as index:
        yield index


@pytest.fixture(scope="module")
def statistics(index):
    return counts_of(index)


@pytest.fixture(scope="module")
def of(index, statistics):
    """The features of every product by name, as `{product: {feature: value}}`."""

    def found(query, **asked):
        hits = index.lookup(Expression(vector=QUERY, text=query), [product["product_id"] for product in PRODUCTS])
        rows = features(Asked(query, NOW, **asked), hits, statistics)
        assert rows.shape == (len(PRODUCTS), len(NAMES)) and rows.dtype == np.float32
        return {
            key: dict(zip(NAMES, row.tolist(), strict=True)) for key, row in zip(hits.product_ids, rows, strict=True)
        }

    return found


def test_words_are_looked_for_in_every_section(of):
    found = of("red sofa ektorp")
    sofa, chair, bare = found["sofa"], found["chair"], found["bare"]
    assert 0 < sofa["coverage_title"] < 1 and 0 < sofa["coverage_brand"] < 1
    assert sofa["coverage"] == pytest.approx(1) and sofa["coverage_all"] == 1 and chair["coverage_all"] == 0
    assert 0 < chair["coverage"] < sofa["coverage"] and bare["coverage"] == 0
    assert (sofa["coverage_category"], sofa["coverage_description"] > 0, sofa["coverage_attributes"] > 0) == (
        0,
        True,
        True,
    )
    assert sofa["title_words"] == 5 and sofa["title_unasked"] == 3 and sofa["description_words"] == 5
    assert chair["coverage"] < 1 / 3, "the commonest of three words weighs least"


def test_each_section_has_a_bm25_score_of_its_own(of, statistics):
    """By how often it says a word, against its length and the mean one of those that are filled in; each is there once
    in the titles of sofa, 5 words, and chair, 4.
    """
    found = of("red leather")
    idf_Q = statistics.words.get(word_hashes(["red", "leather"]).astype(np.uint64))[:, 0]
    for product, words in (("sofa", 5), ("chair", 4)):
        expected = (idf_Q * 2.2 / (1 + 1.2 * (0.25 + 0.75 * words / 4.5))).sum()
        assert found[product]["bm25_title"] == pytest.approx(expected, rel=1e-4)
    assert found["sofa"]["bm25_attributes"] == pytest.approx(idf_Q[0], rel=1e-4), "one word, as is the mean"
    assert found["sofa"]["bm25_description"] == found["sofa"]["bm25_brand"] == found["sofa"]["bm25_category"] == 0
    assert [found["bare"][f"bm25_{section}"] for section in SECTIONS[:-1]] == [0] * 5


def test_a_word_said_again_counts_for_more_and_less_each_time():
    once, twice, thrice = among(["lamp oak a b", "lamp lamp oak a", "lamp lamp lamp oak"], "lamp")["bm25_title"]
    assert once < twice < thrice and thrice - twice < twice - once
    short, long = among(["lamp", "lamp oak a b"], "lamp")["bm25_title"]
    assert short > long


def test_the_order_of_words_counts_within_one_section(of):
    assert of("red leather")["sofa"]["bigrams_title"] == 1 and of("red leather")["chair"]["bigrams_title"] == 0
    assert of("leather red chair")["chair"]["bigrams_title"] == 1
    assert of("seats a")["sofa"]["bigrams_title"] == 0, "the title's last word does not go on in the description"


def test_numbers_are_matched_or_contradicted(of):
    asked = of("chair 200")
    assert asked["chair"]["numbers_matched"] == 1 and asked["chair"]["numbers_contradicted"] == 0
    assert asked["sofa"]["numbers_matched"] == 0 and asked["sofa"]["numbers_contradicted"] == 1
    assert asked["bare"]["numbers_contradicted"] == 0, "a title without numbers contradicts none"
    assert np.isnan(of("chair")["chair"]["numbers_matched"]) and of("chair")["chair"]["query_numbers"] == 0


def among(titles, query):
    """The features of products of these titles, by name, in their order."""
    products = [{"product_id": str(n), "title": title} for n, title in enumerate(titles)]
    with indexed(products) as index:
        hits = index.lookup(Expression(vector=QUERY, text=query), [product["product_id"] for product in products])
        return dict(zip(NAMES, features(Asked(query, NOW), hits, counts_of(index)).T.tolist(), strict=True))


PHONES = ["iPhone 13 128 GB", "iPhone 13 128gb", "iPhone 13", "iPhone", "iPhone 12", "iPhone 13 256GB", "iPhone ١٣"]
PHONES += ["iPhone 128 GB", "iPhone 128gb"]


@pytest.mark.parametrize("query", ["iphone 13 128gb", "iPhone 13 128 GB"])
def test_a_number_is_one_with_its_unit_joined_or_apart_and_in_any_script(query):
    """It contradicts where the title names another one that nobody asked for, and lacks it."""
    found = among(PHONES, query)
    assert found["numbers_contradicted"] == [0, 0, 0, 0, 1, 1, 0, 0, 0]
    assert found["numbers_matched"] == [1, 1, 0.5, 0, 0, 0.5, 0.5, 0.5, 0.5]


@pytest.mark.parametrize("query", ["sofa without leather", "sofa without any leather", "sofa sin leather"])
def test_what_is_negated_is_not_sought(of, query):
    found = of(query)
    assert found["sofa"]["negated_matched"] == 1 and found["bare"]["negated_matched"] == 0
    assert of("sofa without wheels")["sofa"]["negated_matched"] == 0
    assert found["sofa"]["coverage"] == pytest.approx(1), "the negation and its word are no part of it"


@pytest.mark.parametrize(
    ("query", "titles", "matched"),
    [
        (
            "sofa without a stain",
            ["sofa with stain", "sofa without a stain", "sofa without stain, a lovely one"],
            [1, 0, 0],
        ),
        ("chanel no 5", ["Chanel No 5", "Chanel Chance"], [0, 0]),
        ("sin city dvd", ["Sin City DVD", "city map"], [0, 0]),
        ("non stick pan", ["non-stick pan", "cast iron pan"], [0, 0]),
        ("comic sans ms", ["Comic Sans MS", "MS Word"], [0, 1]),
        ("fauteuil sans", ["fauteuil sans accoudoirs"], [0]),
    ],
)
def test_a_negation_excludes_what_follows_it_and_not_who_excludes_it_too(query, titles, matched):
    assert among(titles, query)["negated_matched"] == matched


def test_a_word_that_looks_like_a_negation_is_sought():
    assert among(["Chanel No 5", "Chanel 5"], "chanel no 5")["coverage_all"] == [1, 0]


def test_a_long_title_is_like_itself():
    title = " ".join(f"word{n}" for n in range(24))
    assert among([title], title)["trigram_similarity"] == [1]


def test_pictures_are_counted_by_whatever_way_a_product_comes():
    """As a row with images, with vectors of them, or with their number alone; vectors may be fewer."""
    vector = np.ones(DIMENSION, np.float32)
    rows = ({"images": [{}] * 4}, {"images": None, "image_embeddings": [[0.0]] * 4}, {"image_count": 4})
    rows += ({"image_count": 4, "image_embeddings": [[0.0]] * 2}, {"images": [{}] * 4, "image_count": 0})
    told = [record_from_product({"product_id": "x", **row}, vector).signals for row in rows]
    assert len({each.packed() for each in told}) == 1


def test_trigrams_forgive_a_spelling(of):
    found = of("lether sofa")
    assert found["sofa"]["trigram_similarity"] > found["chair"]["trigram_similarity"] > 0
    assert found["bare"]["trigram_similarity"] == 0
    assert of("red leather sofa, 3 seats")["sofa"]["trigram_similarity"] == 1


def test_a_listing_is_as_old_as_far_and_as_full_as_it_is(of):
    found = of("sofa", latitude=0.0, longitude=1.0)
    sofa, bare = found["sofa"], found["bare"]
    assert sofa["age_days"] == pytest.approx(10, abs=0.01) and sofa["distance_km"] == pytest.approx(111.19, abs=0.1)
    told = [sofa[name] for name in ("seller_rating", "rating", "images", "missing")]
    assert told == [4.5, 3, 2, 0], "a latitude of 0 is one"
    assert bare["missing"] == 7
    assert np.isnan([bare["age_days"], bare["distance_km"], bare["price_of_market"], bare["rating"]]).all()
    assert np.isnan(of("sofa")["sofa"]["distance_km"])


queries = st.text(st.sampled_from("red sofa 200 no 红色 ék🙂\0-") | st.characters(), max_size=40)


@given(query=queries, place=st.none() | st.tuples(st.floats(-90, 90), st.floats(-180, 180)))
def test_a_feature_depends_on_no_other_candidate(index, statistics, query, place):
    """Nor on their order, for any query; and none is infinite."""
    asked = Asked(query, NOW, *(place or (None, None)))
    ids = [product["product_id"] for product in PRODUCTS]
    expression = Expression(vector=QUERY, text=query)
    together = features(asked, index.lookup(expression, ids), statistics)
    assert not np.isinf(together).any()
    for row, product_id in zip(together, ids, strict=True):
        np.testing.assert_array_equal(row, features(asked, index.lookup(expression, [product_id]), statistics)[0])
    backwards = features(asked, index.lookup(expression, ids[::-1]), statistics)
    np.testing.assert_array_equal(together, backwards[::-1])


def test_a_search_and_a_lookup_give_the_same(index, statistics):
    """Offline products are looked up, online they are found."""
    asked, expression = Asked("red sofa", NOW), Expression(vector=QUERY, text="red sofa")
    hits = index.search(expression, 10)
    named = index.lookup(expression, hits.product_ids)
    np.testing.assert_array_equal(features(asked, hits, statistics), features(asked, named, statistics))


def test_the_head_tells_of_the_queries_that_it_knows(index, statistics):
    """Its logit for each product's vector; nothing where there is no head."""
    random = np.random.default_rng(1)
    head = QueryHead(["red sofa", "lamp"], random.normal(size=(2, DIMENSION)).astype(np.float32), np.ones(2, "f"))
    hits = index.search(Expression(vector=QUERY, text="sofa"), 10)
    vectors = np.stack([hits.cosines(axis) for axis in np.eye(DIMENSION, dtype=np.float32)], axis=1)

    def told(query, head):
        return features(Asked(query, NOW), hits, statistics, head)[:, NAMES.index("head")]

    np.testing.assert_allclose(told("Red  Sofa", head), vectors @ head.weight_YD[0] + 1, rtol=1e-4)
    assert np.isnan(told("sofa", head)).all() and np.isnan(told("red sofa", None)).all()


def test_of_nothing_there_are_no_features(index, statistics):
    hits = index.lookup(Expression(vector=QUERY, text="sofa"), [])
    assert features(Asked("sofa", NOW), hits, statistics).shape == (0, len(NAMES))
    assert features_of(Asked("", NOW), hits, hits.signals(), statistics, None).shape == (0, len(NAMES))
    assert len(SECTIONS) == 6


def test_a_time_without_a_zone_is_utc():
    """Wherever the server stands."""
    vector = np.ones(DIMENSION, np.float32)
    times = NOW, NOW.replace(tzinfo=None), NOW.astimezone(timezone(timedelta(hours=9)))
    signals = [record_from_product({"product_id": "x", "created_at": time}, vector).signals for time in times]
    assert len({each.packed() for each in signals}) == 1
