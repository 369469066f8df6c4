"""The contract can be signed by a second engine, with and without text; and the two agree on what they find."""

from __future__ import annotations

from uuid import uuid4

import numpy as np
import pytest
from hypothesis import Phase, given, settings

from mercato.retrieval.expression import Expression
from mercato.retrieval.open import ENGINES, build_index, open_index
from mercato.retrieval.samples import WORDS, drawn_record
from mercato.retrieval.testing import IndexContract
from tests.support import reference_engine
from tests.support.catalogues import DIMENSION, catalogues, expressions


@pytest.fixture(scope="module", autouse=True)
def memory():
    """Register the engine: its one line in `mercato.retrieval.open`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENGINES, "memory", reference_engine.MODULE)
        yield


class TestReference(IndexContract):
    @pytest.fixture
    def url(self):
        return f"memory://{uuid4()}"


class TestReferenceWithoutText(IndexContract):
    @pytest.fixture
    def url(self):
        return f"memory://{uuid4()}?text=no"


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The embedded engine and the reference, empty, with one mean text length."""
    urls = str(tmp_path_factory.mktemp("congruence") / "index"), f"memory://{uuid4()}"
    for url in urls:
        build_index(url, [], DIMENSION)
    with open_index(urls[0]) as embedded, open_index(urls[1]) as reference:
        yield embedded, reference


@settings(max_examples=60, phases=[Phase.explicit, Phase.generate])  # shrinking would cost minutes
@given(catalogue=catalogues(), expression=expressions())
def test_the_embedded_engine_and_the_reference_agree(both, catalogue, expression):
    limit = len(catalogue)  # so that no tie is cut off
    answers = []
    for index in both:
        index.upsert(catalogue)
        answers.append({hit.product_id: hit for hit in index.search(expression, limit)})
        index.delete(record.product_id for record in catalogue)
    ours, theirs = answers
    if expression.min_cosine is not None:  # a product that lies on the bound may fall either side
        edge = {key for hits in answers for key, hit in hits.items() if abs(hit.cosine - expression.min_cosine) < 1e-5}
        ours, theirs = ({key: hit for key, hit in hits.items() if key not in edge} for hits in answers)
    assert ours.keys() == theirs.keys()
    for key, hit in ours.items():
        other = theirs[key]
        assert abs(hit.cosine - other.cosine) < 1e-5
        assert (hit.bm25 > 0, hit.found_by, hit.exact) == (other.bm25 > 0, other.found_by, other.exact)


def test_they_score_words_alike(tmp_path):
    """On indexes built whole: the embedded engine's IDF goes on counting what was deleted."""
    random = np.random.default_rng(0)
    records = [drawn_record(random, number) for number in range(40)]
    urls = str(tmp_path / "index"), f"memory://{uuid4()}"
    for url in urls:
        build_index(url, records, DIMENSION)
    with open_index(urls[0]) as embedded, open_index(urls[1]) as reference:
        for _ in range(60):
            expression = Expression(text=" ".join(random.choice(WORDS, random.integers(1, 4))))
            ours, theirs = (
                {hit.product_id: hit.bm25 for hit in i.search(expression, 40)} for i in (embedded, reference)
            )
            assert ours == pytest.approx(theirs, rel=1e-4)
