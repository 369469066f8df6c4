"""IDs as features: which are known, their rows, and what they are where a field is dropped."""

from __future__ import annotations

from dataclasses import replace

import mmh3
import numpy as np
import pytest

from mercato.errors import MercatoError
from mercato.features.drop import drop_features, drop_fields, fields_read
from mercato.features.featurizer import FeatureSpec, Featurizer
from mercato.features.ids import QUERY, fit_ids, hashes, id_rows, load_ids, save_ids
from mercato.features.tokenizer import train_tokenizer

FIELDS = ("product_id", "seller_id", "category", "brand")
SOFA = {"product_id": "p1", "seller_id": "s1", "category": "Home > Sofas", "brand": "ACME", "title": "red sofa"}


def row(text: str, buckets: int) -> int:
    return mmh3.hash64(text, signed=False)[0] % buckets + 1


@pytest.fixture(scope="module")
def featurizer() -> Featurizer:
    tokenizer = train_tokenizer(["red sofa", "blue sofa"] * 9, 40)
    spec = FeatureSpec(
        query_channels=("text", "ids"), product_channels=("title_text", "ids"), pad_id=0,
        vocabulary=tokenizer.get_vocab_size(), buckets=100, query_tokens=8, query_characters=32, title_tokens=8,
        description_tokens=8, countries=(), languages=(), query_ids=50,
        product_ids=tuple((field, 1000 if field == "product_id" else 10) for field in FIELDS),
    )  # fmt: skip
    known = {field: fit_ids(field, [SOFA[field]], 1) for field in FIELDS}
    return Featurizer(spec, tokenizer, known | {QUERY: fit_ids(QUERY, ["red sofa"], 1)})


def test_an_id_is_known_from_as_many_values_as_it_takes():
    values = ["a", "b", "b", "c", "c", "c", None, "", None]
    assert set(fit_ids("seller_id", values, 2)) == set(hashes("seller_id", ["b", "c"]))
    assert set(fit_ids("seller_id", values, 3)) == set(hashes("seller_id", ["c"]))
    assert not len(fit_ids("seller_id", values, 4)), "not even what is missing four times"
    known = fit_ids("seller_id", [str(i) for i in range(99)], 1)
    assert known.dtype == np.uint64 and (np.diff(known.astype(object)) > 0).all()


def test_a_row_is_the_hash_modulo_the_buckets_plus_one():
    known = fit_ids("seller_id", ["s1", "s2"], 1)
    assert id_rows("seller_id", ["s1", "s2", "s3", None, ""], known, 10).tolist() == [
        row("s1", 10),
        row("s2", 10),
        0,
        0,
        0,
    ]
    assert id_rows("seller_id", ["s1"], known[:0], 10).tolist() == [0], "a run may know none at all"
    assert id_rows("seller_id", ["s1"], known, 1).tolist() == [1]


def test_brands_and_categories_are_known_however_they_are_written_but_keys_are_exact():
    for field, same in [("brand", True), ("category", True), ("product_id", False), ("seller_id", False)]:
        assert bool(id_rows(field, [" aCme "], fit_ids(field, ["Acme"], 1), 9)[0]) == same
        assert id_rows(field, [" Acme "], fit_ids(field, ["Acme"], 1), 9)[0]


def test_features(featurizer):
    ids = featurizer.products([SOFA, SOFA | {"product_id": "new", "brand": None}, {}])["ids"]
    whole = [row("p1", 1000), row("s1", 10), row("home > sofas", 10), row("acme", 10)]
    assert ids.dtype == np.int64 and ids.tolist() == [whole, [0, *whole[1:3], 0], [0] * 4]
    queries = featurizer.queries(["  RED  sofa ", "red sofas"], [None, None])["query_ids"]
    assert queries.dtype == np.int64 and queries.tolist() == [[row("red sofa", 50)], [0]]


@pytest.mark.parametrize("fields", [("brand",), ("seller_id", "category"), ("title",)])
def test_a_dropped_field_is_an_unknown_one(featurizer, fields):
    dropped = featurizer.products([SOFA, SOFA])
    drop_features(dropped, fields, featurizer.spec, np.array([True, False]))
    expected = featurizer.products([drop_fields(SOFA, fields), SOFA])
    assert all((dropped[name] == expected[name]).all() for name in expected)
    assert {"title", "seller_id", "category", "brand"} == set(fields_read(featurizer.spec))


def test_what_is_known_is_kept_with_the_spec(featurizer, tmp_path):
    featurizer.spec.save(tmp_path / "features.json")
    save_ids(featurizer.known_ids, tmp_path / "ids.safetensors")
    assert FeatureSpec.load(tmp_path / "features.json") == featurizer.spec
    known = load_ids(tmp_path / "ids.safetensors")
    assert known.keys() == featurizer.known_ids.keys()
    assert all(
        (known[name] == own).all() and known[name].dtype == own.dtype for name, own in featurizer.known_ids.items()
    )
    assert (tmp_path / "ids.safetensors").stat().st_size < 1000


def test_a_spec_from_before_there_were_ids_reads_none(featurizer, tmp_path):
    old = replace(
        featurizer.spec, query_channels=("text",), product_channels=("title_text",), product_ids=(), query_ids=0
    )
    old.save(tmp_path / "features.json")
    lines = (tmp_path / "features.json").read_text().splitlines()
    kept = "\n".join(line for line in lines if "_ids" not in line).replace("[],\n}", "[]\n}")
    (tmp_path / "features.json").write_text(kept.replace('"other_categories": [],', '"other_categories": []'))
    assert FeatureSpec.load(tmp_path / "features.json") == old
    assert "ids" not in Featurizer(old, featurizer.tokenizer).products([SOFA])


def test_ids_that_are_lost_are_said(tmp_path):
    with pytest.raises(MercatoError, match=r"ids\.safetensors: the ids that this run knows cannot be read"):
        load_ids(tmp_path / "ids.safetensors")
    (tmp_path / "ids.safetensors").write_bytes(b"not a tensor")
    with pytest.raises(MercatoError, match="cannot be read"):
        load_ids(tmp_path / "ids.safetensors")
