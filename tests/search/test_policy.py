"""How hard the index is searched, and what a run says of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mercato.errors import MercatoError
from mercato.runs.folder import RETRIEVAL
from mercato.search.policy import Effort, RetrievalPolicy


def test_an_effort_digs_deeper_where_it_may_find_what_another_has_not():
    effort = Effort(ef_search=8, candidates=10, text_candidates=4, min_cosine=0.5)
    for deeper in ({"candidates": 11}, {"text_candidates": 5}, {"text_candidates": None}, {"min_cosine": 0.4}):
        assert replace(effort, **deeper).digs_deeper_than(effort)
    for no_deeper in ({}, {"candidates": 9}, {"text_candidates": 0}):
        assert not replace(effort, **no_deeper).digs_deeper_than(effort)


def test_a_run_says_how_its_index_is_searched(tmp_path):
    file = tmp_path / RETRIEVAL
    file.write_text('{"min_cosine": 0.25}')
    usual = RetrievalPolicy.of_run(tmp_path, 1_000)
    assert {effort.min_cosine for effort in usual.pages} == {0.25} and len(usual.pages) == len(RetrievalPolicy().pages)
    file.write_text('{"min_cosine": 0.25, "pages": [{"ef_search": 8, "candidates": 50, "min_cosine": 0.5}]}')
    assert RetrievalPolicy.of_run(tmp_path, 1_000).pages == (Effort(ef_search=8, candidates=50, min_cosine=0.5),)


def test_a_larger_index_is_searched_harder_unless_the_run_says_how(tmp_path):
    """`ef_search` alone grows, with the root of the number of products."""
    plain, large = (RetrievalPolicy.usual(products, 0.25) for products in (100_000, 400_000))
    assert RetrievalPolicy.usual(10, 0.25) == plain
    assert large.pages == tuple(replace(each, ef_search=2 * each.ef_search) for each in plain.pages)
    assert max(each.ef_search for each in RetrievalPolicy.usual(10**12, None).pages) == 10_000, "what an index takes"
    (tmp_path / RETRIEVAL).write_text('{"min_cosine": 0.25}')
    assert RetrievalPolicy.of_run(tmp_path, 400_000) == large
    (tmp_path / RETRIEVAL).write_text('{"min_cosine": 0.25, "pages": [{"ef_search": 8, "candidates": 50}]}')
    assert RetrievalPolicy.of_run(tmp_path, 400_000).pages == (Effort(ef_search=8, candidates=50),)


@pytest.mark.parametrize(
    ("pages", "wrong"),
    [
        ("[]", r"pages: .* at least 1 item"),
        ("null", r"pages: "),
        ('"deep"', r"pages: "),
        ("[{GOOD}, 7]", r"pages\.1: "),
        ("[{GOOD}, {}]", r"pages\.1\.ef_search: .*required"),
        ('[{"ef_search": 8, "candidates": 0}]', r"pages\.0\.candidates: .*greater than or equal to 1"),
        ('[{"ef_search": "8", "candidates": 9}]', r"pages\.0\.ef_search: .*integer"),
        ('[{"ef_search": true, "candidates": 9}]', r"pages\.0\.ef_search: .*integer"),
        ('[{"ef_search": 8.5, "candidates": 9}]', r"pages\.0\.ef_search: .*integer"),
        ('[{GOOD}, {"ef_search": 8, "candidates": 9, "min_cosine": 25}]', r"pages\.1\.min_cosine: .*less than"),
        ('[{"ef_search": 8, "candidates": 9, "min_cosine": NaN}]', r"pages\.0\.min_cosine: .*finite"),
        ('[{"ef_search": 8, "candidates": 9, "ef": 8}]', r"pages\.0\.ef: "),
    ],
)
def test_pages_that_are_no_efforts_are_named(tmp_path, pages, wrong):
    good = '{"ef_search": 8, "candidates": 50, "min_cosine": null}'
    (tmp_path / RETRIEVAL).write_text(f'{{"min_cosine": 0.25, "pages": {pages.replace("{GOOD}", good)}}}')
    with pytest.raises(MercatoError, match=rf"retrieval\.json: {wrong}"):
        RetrievalPolicy.of_run(tmp_path, 1_000)


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        ('{"min_cosine": "high"}', "min_cosine: must be a number"),
        ('{"min_cosine": 25}', "min_cosine: must be a number"),
        ('{"min_cosine": NaN}', "min_cosine: must be a number"),
        ('{"radius": true}', "min_cosine: must be a number"),
        ("[0.25]", "is no JSON object"),
        ('{"min_cosine": 0.25', "cannot be read"),
    ],
)
def test_a_least_cosine_that_is_none_is_named(tmp_path, content, wrong):
    (tmp_path / RETRIEVAL).write_text(content)
    with pytest.raises(MercatoError, match=wrong):
        RetrievalPolicy.of_run(tmp_path, 1_000)
