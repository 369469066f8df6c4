from __future__ import annotations

import json
from dataclasses import asdict, replace

import mmh3
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mercato.data.normalize import clean, normalize
from mercato.errors import MercatoError
from mercato.features.featurizer import FeatureSpec, Featurizer
from mercato.features.tokenizer import SPECIAL, load_tokenizer, train_tokenizer
from mercato.features.trigrams import trigram_ids

TEXTS = ["red sofa", "blue sofa", "sofá rojo", "a wooden table and six chairs", "bicicleta azul", "blue table"] * 3
ANYTHING = st.text(st.characters(), max_size=60)  # lone surrogates too


@pytest.fixture(scope="module")
def featurizer() -> Featurizer:
    tokenizer = train_tokenizer(TEXTS, 120)
    spec = FeatureSpec(
        query_channels=("text", "trigrams", "country"),
        product_channels=(
            "title_text", "title_trigrams", "description_text", "description_trigrams", "language", "country", "images"
        ),
        pad_id=0,
        vocabulary=tokenizer.get_vocab_size(),
        buckets=1000,
        query_tokens=6,
        query_characters=10,
        title_tokens=5,
        description_tokens=7,
        countries=("mx", "us"),
        languages=("en",),
        max_images=3,
        image_dimension=4,
    )  # fmt: skip
    return Featurizer(spec, tokenizer)


def test_normalising():
    assert normalize("  Sofá\t ROJO ﬁn ") == "sofá rojo fin"
    assert normalize("STRASSE") == normalize("straße")


@given(ANYTHING)
def test_normalising_is_idempotent(text):
    once = normalize(text)
    assert normalize(once) == once or normalize(normalize(once)) == normalize(once)
    assert "  " not in once and once == once.strip()
    once.encode()


def test_half_a_surrogate_pair_is_a_question_mark():
    assert clean("a \ud800  b") == "a ? b"


def test_trigrams_slide_over_the_text_and_its_ends():
    expected = [mmh3.hash(window, signed=False) % 1000 + 1 for window in (" so", "sof", "ofa", "fa ")]
    assert trigram_ids("sofa", 1000, 99) == expected
    assert trigram_ids("sofa", 1000, 2) == expected[:2]
    assert trigram_ids("x", 7, 99) == [mmh3.hash(" x ", signed=False) % 7 + 1]
    assert trigram_ids("", 1000, 99) == []


def test_a_known_murmur_hash():
    assert trigram_ids("ab", 2**31, 1) == [mmh3.hash(" ab", 0, signed=False) % 2**31 + 1]
    assert mmh3.hash("foo", signed=True) == -156908512  # the reference implementation's


@given(st.text(max_size=50), st.integers(1, 50), st.integers(0, 60))
def test_trigram_ids_stay_in_their_buckets(text, buckets, limit):
    text = normalize(text)
    ids = trigram_ids(text, buckets, limit)
    assert len(ids) == min(len(text), limit)
    assert all(1 <= i <= buckets for i in ids)


CORPUS = [f"{a}{c} {b}{c} {i}" for i in range(99) for a in ("red", "blue") for b in ("sofa", "mesa") for c in ("", "s")]


def test_a_tokenizer_is_the_same_each_time():
    first = train_tokenizer(CORPUS, 300).to_str()
    assert all(train_tokenizer(texts, 300).to_str() == first for texts in (CORPUS, CORPUS[::-1], set(CORPUS)))


def test_a_tokenizer_splits_what_it_has_learned(tmp_path):
    tokenizer = train_tokenizer(CORPUS, 300)
    assert [tokenizer.token_to_id(token) for token in SPECIAL] == [0, 1, 2, 3]
    assert tokenizer.encode("red sofa").tokens[0] == "<s>" and tokenizer.encode("red sofa").tokens[-1] == "</s>"
    assert tokenizer.encode("sofas mesas").tokens[1:-1] == ["▁sofa", "s", "▁mesa", "s"]
    assert SPECIAL.index("<unk>") in tokenizer.encode("漢").ids
    tokenizer.save(str(tmp_path / "t.json"))
    assert load_tokenizer(tmp_path / "t.json").encode("sofá").ids == tokenizer.encode("sofá").ids


def test_a_vocabulary_must_hold_the_alphabet():
    with pytest.raises(MercatoError, match=r"text\.vocabulary.*100 pieces"):
        train_tokenizer([chr(0x4E00 + i) for i in range(3_000)], 100)


def test_a_long_text_keeps_its_ends(featurizer):
    tokens = featurizer.queries(["red sofa " * 50, "x"], [None, None])["tokens"]
    assert tokens.shape == (2, 6) and tokens.dtype == np.int64
    assert tokens[0, 0] == 1 and tokens[0, -1] == 2
    assert tokens[1, -1] == 0, "the shorter one is padded"


def test_queries(featurizer):
    features = featurizer.queries(["red sofa", "", "  "], ["us", "atlantis", None])
    assert set(features) == {"tokens", "trigrams", "country"}
    assert features["country"].tolist() == [2, 0, 0]
    assert not features["tokens"][1:].any() and not features["trigrams"][1:].any()
    assert features["trigrams"].shape == (3, 8)
    assert featurizer.queries(["a" * 99], [None])["trigrams"].shape == (1, 10)


def test_tokens_are_of_the_normal_form(featurizer):
    one, other = featurizer.queries(["RED  ﬁsh"], [None]), featurizer.queries(["red fish"], [None])
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_padding_that_somebody_typed_is_not_padding(featurizer):
    (row,) = featurizer.queries(["red <pad> sofa"], [None])["tokens"]
    assert 0 not in row and row[-1] == 2


def test_a_megabyte_of_query_costs_no_more_than_its_cap(featurizer):
    features = featurizer.queries(["sofa " * 200_000], ["us"])
    assert features["tokens"].shape == (1, 6) and features["trigrams"].shape == (1, 10)


def test_missing_fields_are_all_padding(featurizer):
    features = featurizer.products([{}, {"title": None, "description": "", "language": None, "country": "zz"}])
    for name, array in features.items():
        assert len(array) == 2 and not array.any(), name
    assert features["title_tokens"].shape == (2, 1)


def test_products(featurizer):
    features = featurizer.products(
        [{"title": "a wooden table and six chairs", "description": "blue", "language": "en", "country": "mx"}]
    )
    assert features["title_tokens"].shape == (1, 5) and features["title_tokens"][0, -1] == 2
    assert features["title_trigrams"].shape == (1, 29)
    assert features["language"].tolist() == [1] and features["country"].tolist() == [1]


def test_images(featurizer):
    own = [np.ones((5, 4), np.float32), None, np.zeros((0, 4), np.float32), 2 * np.ones((1, 4), np.float32)]
    features = featurizer.products([{}] * 4, own)
    assert features["images"].shape == (4, 3, 4) and features["images"].dtype == np.float32
    assert features["image_mask"].tolist() == [[True] * 3, [False] * 3, [False] * 3, [True, False, False]]
    assert features["images"][3].tolist() == [[2.0] * 4, [0.0] * 4, [0.0] * 4]


def test_patches(featurizer):
    channels = ("title_text", "patches")
    spec = replace(featurizer.spec, product_channels=channels, image_dimension=2, image_patches=2)
    own = [np.arange(20, dtype=np.float32).reshape(5, 2, 2), None, np.zeros((0, 2, 2), np.float32)]
    features = Featurizer(spec, featurizer.tokenizer).products([{}] * 3, own)
    assert list(features) == ["title_tokens", "patches", "patch_mask"]
    assert features["patches"].shape == (3, 3, 2, 2) and features["patches"].dtype == np.float32
    assert features["patches"][0].ravel().tolist() == list(range(12)) and not features["patches"][1:].any()
    assert features["patch_mask"].tolist() == [[True] * 3, [False] * 3, [False] * 3]


@given(ANYTHING, st.one_of(st.none(), ANYTHING))
def test_no_text_breaks_it(featurizer, text, country):
    features = featurizer.queries([text, "sofa"], [country, "us"])
    features |= featurizer.products([{"title": text, "description": text, "country": country}, {}])
    assert all(len(array) == 2 for array in features.values())
    assert (features["tokens"] < featurizer.spec.vocabulary).all() and (features["tokens"] >= 0).all()
    present = features["tokens"] != 0
    assert (np.diff(present.astype(int), axis=1) <= 0).all(), "padding comes last"
    assert features["tokens"][0].any() == bool(normalize(text))


@given(countries=st.lists(st.text(max_size=3), unique=True), prefix=st.text(), normalized=st.booleans())
def test_the_spec_survives_its_file(featurizer, tmp_path_factory, countries, prefix, normalized):
    spec = replace(featurizer.spec, countries=tuple(countries), query_prefix=prefix, normalized=normalized)
    file = tmp_path_factory.getbasetemp() / "spec.json"
    spec.save(file)
    assert FeatureSpec.load(file) == spec


def test_a_spec_of_a_run_before_patches_is_read(featurizer, tmp_path):
    older = {name: value for name, value in asdict(featurizer.spec).items() if name != "image_patches"}
    (tmp_path / "features.json").write_text(json.dumps(older))
    spec = FeatureSpec.load(tmp_path / "features.json")
    assert spec == featurizer.spec and spec.image_shape == (4,)


def test_a_prefix_is_no_text(featurizer):
    prefixed = Featurizer(replace(featurizer.spec, query_prefix="query: "), featurizer.tokenizer)
    tokens = prefixed.queries(["", "sofa"], [None, None])["tokens"]
    assert not tokens[0].any() and tokens[1].any()
