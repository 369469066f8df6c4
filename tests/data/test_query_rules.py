"""`rules.toml`: which searches a rule is of, and what is said of a wrong one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mercato.data.query_rules import MOST_PINS, RULES, read_rules
from mercato.errors import MercatoError


def written(folder: Path, text: str) -> Path:
    (folder / RULES).write_text(text, encoding="utf-8")
    return folder


def test_a_market_without_the_file_has_no_rules(tmp_path):
    assert read_rules(tmp_path) == {}
    assert read_rules(written(tmp_path, "")) == {}


def test_rules_are_known_by_the_query_s_normal_form_and_the_country(tmp_path):
    rules = read_rules(
        written(
            tmp_path,
            """
            [[rules]]
            query = "  Sofá  ROJO "
            pin = ["b", "a"]

            [[rules]]
            query = "sofá rojo"
            country = "es"
            bury = ["c"]
            """,
        )
    )
    assert rules.keys() == {("sofá rojo", None), ("sofá rojo", "es")}
    assert (rules["sofá rojo", None].pin, rules["sofá rojo", None].bury) == (("b", "a"), ())
    assert rules["sofá rojo", "es"].bury == ("c",)


GOOD = '[[rules]]\nquery = "lamp"\npin = ["a"]\n'


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("[[rules]", "not valid TOML"),
        ("\0", "not valid TOML"),
        ("[[rule]]", "field rule: "),
        ("rules = 3", "field rules: "),
        ('[[rules]]\npin = ["a"]', "rule 1, field query: Field required"),
        ('[[rules]]\nquery = " \\t"\npin = ["a"]', "rule 1, field query: is blank"),
        (f"{GOOD}pins = []", "rule 1, field pins: "),
        (f"{GOOD}[[rules]]\nquery = 5\npin = ['a']", "rule 2, field query: .*string"),
        (f"{GOOD}country = 'GB'", "rule 1, field country: "),
        (f"{GOOD}bury = 'a'", "rule 1, field bury: "),
        (f"{GOOD}bury = ['b', '']", "rule 1, field bury: .*at least 1 character"),
        (f"{GOOD}bury = ['b', 'c', 'b']", "rule 1, field bury: names 'b' twice"),
        (f"{GOOD}bury = ['a']", "rule 1: 'a' is in pin and in bury"),
        ('[[rules]]\nquery = "lamp"', "rule 1: has neither pin nor bury"),
        (f"{GOOD}{GOOD.replace('lamp', ' LAMP')}", "rule 2, field query: ' LAMP' in any country has an earlier rule"),
        (f'[[rules]]\nquery = "lamp"\npin = {[*map(str, range(MOST_PINS + 1))]}', "rule 1, field pin: .*at most 100"),
        (
            f"{GOOD}pins = 1\n[[rules]]\nquery = ''\npin = ['a']",
            "rule 1, field pins: .*; rule 2, field query: is blank",
        ),
    ],
)
def test_a_wrong_rule_is_named_by_its_number_and_field(tmp_path, text, wrong):
    with pytest.raises(MercatoError, match=rf"rules\.toml: {wrong}"):
        read_rules(written(tmp_path, text))


def test_a_folder_in_place_of_the_file_is_said_to_be_wrong(tmp_path):
    (tmp_path / RULES).mkdir()
    with pytest.raises(MercatoError, match=r"rules\.toml"):
        read_rules(tmp_path)


@pytest.mark.parametrize("broken", ["a = " + "[" * 5000 + "]" * 5000, "a = " + "9" * 5000], ids=["nested", "digits"])
def test_what_no_toml_reader_takes_is_an_error_of_the_file(tmp_path: Path, broken: str) -> None:
    (tmp_path / RULES).write_text(broken)
    with pytest.raises(MercatoError, match="not valid TOML"):
        read_rules(tmp_path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / RULES)
    with pytest.raises(MercatoError, match="not a regular file"):
        read_rules(tmp_path)


def test_a_byte_order_mark_is_no_statement(tmp_path: Path) -> None:
    (tmp_path / RULES).write_text('[[rules]]\nquery = "sofa"\npin = ["a"]\n', encoding="utf-8-sig")
    assert [*read_rules(tmp_path)] == [("sofa", None)]


def test_of_many_wrong_rules_the_first_are_told(tmp_path: Path) -> None:
    (tmp_path / RULES).write_text('[[rules]]\nquery = "sofa"\n' * 9)
    with pytest.raises(MercatoError, match=r"rule 5: .*; and 4 more$"):
        read_rules(tmp_path)
