from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mercato.data.checking import Problem, check
from mercato.data.market import MarketConfig, write_market_toml
from mercato.data.schema import TABLES

NOW = datetime.now(UTC)


def photo() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")
    return buffer.getvalue()


def market(folder: Path, **tables: list[dict[str, Any]] | pa.Table) -> Path:
    folder.mkdir(exist_ok=True)
    write_market_toml(folder, MarketConfig())
    for name, rows in tables.items():
        if isinstance(rows, list):
            names = dict.fromkeys(key for row in rows for key in row)
            schema = pa.schema([TABLES[name].field(key) for key in names])
            rows = pa.Table.from_pylist(rows, schema=schema)
        pq.write_table(rows, folder / f"{name}.parquet")
    return folder


def found(problems: list[Problem], severity: str = "error") -> set[tuple[str, int | None, str | None]]:
    return {(p.table, p.row, p.column) for p in problems if p.severity == severity}


P = {"product_id": "1", "title": "lamp"}
LOGGED = {"query_id": "q", "product_id": "1", "position": 1, "features": [0.5, None], "features_version": "3 run"}


def test_a_sound_market_has_no_problem(tmp_path: Path) -> None:
    events = [
        {"timestamp": NOW, "session_id": "s", "action_name": action, "product_id": "1"}
        for action in ("search", "click", "message", "seller_reply")
    ]
    folder = market(
        tmp_path,
        products=[{**P, "price": 0.0, "country": "us", "images": [{"bytes": photo(), "path": None}]}],
        events=events,
        judgments=[{"query": "lamp", "product_id": "1", "grade": 1.0, "split": "validation"}],
        pairs=[{"query": "lamp", "product_id": "1", "label": 1, "split": "train", "clicks": 1, "impressions": 0}],
        lists=[
            {"list_id": "a", "query": "lamp", "country": None, "product_id": "1", "position": 1, "depth": 0},
            {"list_id": "b", "query": "lamp", "country": "us", "product_id": "1", "position": 1, "depth": None},
        ],
        features=[LOGGED],
        intents=[
            {"query": "lamp", "country": None, "intent": "lamp"},
            {"query": "lamp", "country": "us", "intent": "another"},
        ],
    )
    assert check(folder) == []


@pytest.mark.parametrize(
    ("column", "value"),
    [("impressions", -1), ("clicks", -1), ("depth", -1), ("position", -1.0), ("position", float("nan"))],
)
def test_impossible_numbers_of_a_pair_are_found(tmp_path: Path, column: str, value: float) -> None:
    folder = market(tmp_path, products=[P], pairs=[{"query": "lamp", "product_id": "1", "label": 0, column: value}])
    assert found(check(folder)) == {("pairs", 0, column)}


def test_a_list_shows_a_product_once_for_one_query(tmp_path: Path) -> None:
    row = {"list_id": "a", "query": "lamp", "product_id": "1", "position": 1, "depth": 0, "split": "train"}
    other = {**row, "list_id": "b", "query": "chair"}
    folder = market(
        tmp_path,
        products=[P, {**P, "product_id": "2"}],
        lists=[row, other, {**row, "product_id": "2", "query": "chair"}, {**row, "position": 2}, row],
    )
    assert found(check(folder)) == {("lists", 2, "query"), ("lists", 3, "product_id"), ("lists", 4, "product_id")}
    strange = [{**row, "product_id": "3"}, {**row, "position": -1}, {**other, "depth": -1}, {**other, "split": "test"}]
    folder = market(tmp_path, products=[P], lists=[{**each, "list_id": str(i)} for i, each in enumerate(strange)])
    assert found(check(folder)) == {
        *(("lists", 0, "product_id"), ("lists", 1, "position"), ("lists", 2, "depth"), ("lists", 3, "split")),
    }


def test_a_query_has_one_intent_in_a_country(tmp_path: Path) -> None:
    row = {"query": "lamp", "country": "us", "intent": "lamp"}
    folder = market(tmp_path, products=[P], intents=[row, {**row, "country": "mx"}, {**row, "intent": "bulb"}])
    assert found(check(folder)) == {("intents", 2, "query")}
    nowhere = [{"query": "lamp", "intent": "lamp"}, {"query": "lamp", "intent": "bulb"}]  # no country at all
    assert found(check(market(tmp_path, products=[P], intents=nowhere))) == {("intents", 1, "query")}


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("price", float("nan")),
        ("price", float("inf")),
        ("price", -1.0),
        ("latitude", 90.5),
        ("longitude", -181.0),
        ("rating", float("nan")),
        ("country", "US"),
        ("country", "usa"),
        ("country", ""),
        ("title", " "),
        ("title", None),
        ("product_id", None),
        ("created_at", NOW + timedelta(days=30)),
        ("created_at", datetime(1900, 1, 1, tzinfo=UTC)),
        ("images", [{"bytes": b"broken", "path": None}]),
        ("images", [{"bytes": None, "path": None}]),
        ("images", [{"bytes": None, "path": "../secret.png"}]),
        ("image_embeddings", [[1.0, 2.0, 3.0]]),
        ("image_embeddings", [[1.0, float("nan")]]),
        ("image_embeddings", [[1.0, None]]),
    ],
)
def test_a_bad_value_of_a_product_is_found_at_its_row(tmp_path: Path, column: str, value: Any) -> None:
    good = [{"product_id": str(i), "title": "t", "price": 1.0, "image_embeddings": [[1.0, 2.0]]} for i in range(3)]
    problems = check(market(tmp_path, products=[*good, {**P, "product_id": "9", column: value}]))
    assert found(problems) == {("products", 3, column)}
    assert problems[0].file == "products.parquet"


def test_duplicates_and_unknown_products_are_found(tmp_path: Path) -> None:
    folder = market(
        tmp_path,
        products=[P, {**P, "product_id": "2"}, P],
        events=[
            {"timestamp": NOW, "session_id": "s", "action_name": "click", "product_id": p} for p in ("1", None, "x")
        ],
        judgments=[{"query": "q", "product_id": "x", "grade": 1.0}],
        pairs=[{"query": "q", "product_id": "x", "label": 2, "split": "test", "weight": -1.0}],
        features=[LOGGED, LOGGED | {"product_id": "x", "features": None}],
    )
    problems = check(folder)
    assert found(problems) == {
        ("products", 2, "product_id"),
        ("judgments", 0, "product_id"),
        ("pairs", 0, "product_id"),
        ("pairs", 0, "label"),
        ("pairs", 0, "split"),
        ("pairs", 0, "weight"),
        ("events", None, "action_name"),
        ("features", 1, "features"),
    }
    assert {p.why.split("'")[1] for p in problems if p.column == "action_name"} == {"search", "message", "seller_reply"}
    assert {("events", 2, "product_id"), ("features", 1, "product_id")} <= found(problems, "warning")


def test_a_weight_that_training_refuses_is_found(tmp_path: Path) -> None:
    pairs = [{"query": "q", "product_id": "1", "label": 1, "weight": weight} for weight in (1.0, 0.0, None, -1.0)]
    assert found(check(market(tmp_path, products=[P], pairs=pairs))) == {("pairs", 1, "weight"), ("pairs", 3, "weight")}


def test_a_query_on_both_sides_of_the_judgments_is_warned_of(tmp_path: Path) -> None:
    judged = [
        ("lamp", "test"),
        ("LAMP ", "validation"),
        ("chair", "validation"),
        ("Chair", None),
        ("sofa", "validation"),
    ]
    rows = [{"query": query, "product_id": "1", "grade": 1.0, "split": split} for query, split in judged]
    problems = check(market(tmp_path, products=[P], judgments=rows))
    assert found(problems) == set()
    assert found(problems, "warning") == {("judgments", 1, "query"), ("judgments", 2, "query")}


def test_judgments_of_several_files_with_and_without_a_split(tmp_path: Path) -> None:
    folder = market(tmp_path, products=[P])
    (folder / "judgments").mkdir()
    row = {"query": "lamp", "product_id": "1", "grade": 1.0}
    for name, rows in (("a", []), ("b", [row, row]), ("c", [{**row, "split": "validation"}])):
        schema = pa.schema([TABLES["judgments"].field(key) for key in (rows or [{**row, "split": None}])[0]])
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "judgments" / f"{name}.parquet")
    assert found(check(folder), "warning") == {("judgments", 2, "query")}


def test_wrong_types_missing_and_unknown_columns_and_empty_columns(tmp_path: Path) -> None:
    table = pa.table({"product_id": ["1"], "price": ["cheap"], "colour": ["red"], "brand": pa.nulls(1), "images": [3]})
    problems = check(market(tmp_path, products=table))
    assert found(problems) == {("products", None, name) for name in ("title", "price", "images")}
    assert found(problems, "warning") == {("products", None, "colour"), ("products", None, "brand")}


def test_rows_are_numbered_over_all_the_files_of_a_table(tmp_path: Path) -> None:
    folder = market(tmp_path)
    (folder / "products").mkdir()
    for number in range(3):
        rows = [
            {"product_id": f"{number}{i}", "title": "t", "price": -1.0 if (number, i) == (2, 1) else 1.0}
            for i in range(4)
        ]
        pq.write_table(pa.Table.from_pylist(rows), folder / "products" / f"part-{number}.parquet")
    assert [(p.row, p.file) for p in check(folder)] == [(9, "part-2.parquet")]


def test_many_problems_of_one_kind_are_listed_for_a_few_rows_and_counted(tmp_path: Path) -> None:
    products = [
        {"product_id": str(i), "title": "t", "price": -1.0, "images": [{"bytes": b"x", "path": None}]}
        for i in range(1245)
    ]
    problems = check(market(tmp_path, products=products))
    assert len(problems) == 12
    assert {p.row for p in problems} == {0, 1, 2, 3, 4, None}
    assert all("and 1,240 more rows" in p.why for p in problems if p.row is None)


@pytest.mark.parametrize(
    "break_it",
    [
        lambda folder: (folder / "market.toml").unlink(),
        lambda folder: (folder / "market.toml").write_text("name = "),
        lambda folder: (folder / "market.toml").write_bytes(b"\xff\xfe"),
        lambda folder: (folder / "market.toml").write_text("nome = 'x'"),
        lambda folder: (folder / "products.parquet").unlink(),
        lambda folder: (folder / "products.parquet").write_bytes(b"PAR1 no"),
        lambda folder: (folder / "products.parquet").write_bytes((folder / "products.parquet").read_bytes()[:-9]),
        lambda folder: pq.write_table(
            pa.table({"product_id": pa.array([], pa.string()), "title": pa.array([], pa.string())}),
            folder / "products.parquet",
        ),
    ],
)
def test_a_broken_folder_is_a_problem_not_a_crash(tmp_path: Path, break_it: Any) -> None:
    folder = market(tmp_path, products=[P])
    break_it(folder)
    assert found(check(folder))


def test_of_many_products_that_only_rules_name_the_first_are_listed(tmp_path: Path) -> None:
    folder = market(tmp_path, products=[P])
    (folder / "rules.toml").write_text(f'[[rules]]\nquery = "lamp"\nbury = {[f"x{n}" for n in range(9)]}')
    warnings = [str(problem) for problem in check(folder) if "rules.toml" in str(problem)]
    assert len(warnings) == 6 and warnings[-1].endswith("and 4 more products that the rules name")


def test_rules_are_checked_and_what_they_name_that_is_not_there_is_warned_of(tmp_path: Path) -> None:
    """The API may have written it."""
    folder = market(tmp_path, products=[P])
    (folder / "rules.toml").write_text('[[rules]]\nquery = "lamp"\npin = ["1", "2"]\nbury = ["3"]')
    warnings = [str(problem) for problem in check(folder) if "rules.toml" in str(problem)]
    assert warnings == [
        "warning: market, (rules.toml): rule 1, field pin: '2' is not in the products table",
        "warning: market, (rules.toml): rule 1, field bury: '3' is not in the products table",
    ]
    (folder / "rules.toml").write_text('[[rules]]\nquery = "lamp"\npin = "1"')
    (problem,) = [problem for problem in check(folder) if "rules.toml" in str(problem)]
    assert problem.severity == "error" and "rule 1, field pin: " in problem.why


def test_a_problem_says_where_and_why() -> None:
    text = str(Problem("products", 1234, "price", "is negative: -5.0", "error", "products.parquet"))
    assert text == "error: table products, row 1,234, column price, (products.parquet): is negative: -5.0"
