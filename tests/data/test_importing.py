from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from mercato.data.checking import check
from mercato.data.coercion import coerce, parse_time
from mercato.data.importing import ImportReport, import_market
from mercato.data.market import Market
from mercato.data.schema import PRODUCTS
from mercato.errors import MercatoError
from mercato.files import market_lock


def written(path: Path, content: str | list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, list):
        content = "".join(json.dumps(row) + "\n" for row in content)
    path.write_text(content)
    return path


def products(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = Market.open(folder).arrow("products").to_pylist(maps_as_pydicts="strict")
    return rows


def rejected(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rejected.jsonl").read_text().splitlines()]


@pytest.fixture
def two(tmp_path: Path) -> Path:
    return written(tmp_path / "two.csv", "product_id,title\n1,lamp\n2,chair\n")


def test_a_csv_with_our_names_needs_no_map(tmp_path: Path) -> None:
    csv = written(
        tmp_path / "shop.csv",
        "\ufeffproduct_id,title,price,country,created_at,attributes,unheard\n"
        '007, A "lamp" ,"$1,299.50",US,2026-01-02,"{""colour"": ""red"", ""size"": 3}",x\n'
        '8,"two\nlines",,,1700000000,,\n',
    )
    report = import_market(tmp_path / "market", [csv])
    first, second = products(tmp_path / "market")
    assert (first["product_id"], first["title"], first["price"]) == ("007", 'A "lamp"', 1299.5)
    assert (first["country"], first["attributes"]) == ("us", {"colour": "red", "size": "3"})
    assert first["created_at"] == datetime(2026, 1, 2, tzinfo=UTC)
    assert (second["title"], second["price"]) == ("two\nlines", None)
    assert second["created_at"] == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    assert (report.read["products"], report.kept["products"], report.losses) == (2, 2, [])
    assert Market.open(tmp_path / "market").config.name == "market"
    assert not [problem for problem in check(tmp_path / "market") if problem.severity == "error"]


def test_a_map_renames_digs_scales_gathers_filters_and_fills(tmp_path: Path) -> None:
    offers = written(
        tmp_path / "offers.jsonl",
        [
            {
                "sku": 1,
                "text": {"name": {"en": "lamp"}},
                "offer": {"cents": 1250, "state": "U"},
                "colour": "red",
                "shop": "a",
            },
            {
                "sku": 2,
                "text": {"name": {"en": "chair"}},
                "offer": {"cents": "90"},
                "specs": {"wood": ["oak", "ash"]},
                "shop": "a",
            },
            {"sku": 3, "text": {"name": {"en": "other shop"}}, "shop": "b"},
        ],
    )
    plan = written(
        tmp_path / "map.toml",
        """
        [market]
        name = "Offers"
        currency = "EUR"
        [market.engagement]
        chain = ["click", "purchase"]

        [products]
        rename = { product_id = "sku", title = "text.name.en", price = "offer.cents", condition = "offer.state" }
        scale = { price = 0.01 }
        values = { condition = { U = "used" } }
        attributes = ["colour", "specs.wood"]
        where = { shop = "a" }
        constant = { country = "de", condition = "new" }
        """,
    )
    report = import_market(tmp_path / "market", [offers], mapping=plan)
    first, second = products(tmp_path / "market")
    assert (first["product_id"], first["title"], first["price"], first["condition"]) == ("1", "lamp", 12.5, "used")
    assert (second["price"], second["condition"], second["country"]) == (0.9, "new", "de")
    assert (first["attributes"], second["attributes"]) == ({"colour": "red"}, {"wood": "oak, ash"})
    config = Market.open(tmp_path / "market").config
    assert (config.name, config.currency, config.engagement.chain) == ("Offers", "EUR", ("click", "purchase"))
    assert report.left_out["products"] == 1


def test_bad_values_are_dropped_bad_rows_set_aside_and_all_is_written_down(tmp_path: Path) -> None:
    rows = [
        {"product_id": "1", "title": "lamp", "price": -5, "country": "USA", "latitude": 99},
        {"product_id": "2", "title": "  "},
        {"product_id": None, "title": "chair"},
        {"product_id": "3", "title": "table", "price": "cheap", "created_at": "soon"},
    ]
    source = written(tmp_path / "p.jsonl", rows)
    source.write_text(source.read_text() + '{"product_id": "4", "title": "bed", "price": NaN}\nnot json\n[1]\n')
    report = import_market(tmp_path / "market", [source])
    assert [(row["product_id"], row["price"]) for row in products(tmp_path / "market")] == [
        ("1", None),
        ("3", None),
        ("4", None),
    ]
    lost = {(loss["row"], loss["field"], loss["row_kept"]) for loss in rejected(tmp_path / "market")}
    assert lost == {
        (0, "price", True),
        (0, "country", True),
        (0, "latitude", True),
        (1, "title", False),
        (2, "product_id", False),
        (3, "price", True),
        (3, "created_at", True),
        (4, "price", True),
        (5, None, False),
        (6, None, False),
    }
    assert (report.read["products"], report.kept["products"]) == (7, 3)
    assert report.as_dict()["tables"]["products"]["rejected"] == 4
    assert {loss["value"] for loss in rejected(tmp_path / "market")} >= {"-5.0", "usa", "cheap", "soon"}


def test_ragged_csv_lines_are_set_aside_by_their_row(tmp_path: Path) -> None:
    csv = written(tmp_path / "p.csv", "product_id,title\n1,lamp\n2,chair,extra\n3\n4,,\n5,bed\n6,\n")
    report = import_market(tmp_path / "market", [csv])
    assert [row["product_id"] for row in products(tmp_path / "market")] == ["1", "5"]
    assert [(loss.row, loss.field) for loss in report.losses] == [(1, None), (2, None), (3, None), (5, "title")]


def test_the_first_file_to_name_a_product_wins_and_repeats_are_counted(tmp_path: Path) -> None:
    first = written(tmp_path / "a.csv", "product_id,title\n1,a1\n2,a2\n1,again\n")
    second = written(tmp_path / "b.csv", "product_id,title\n2,b2\n3,b3\n3,again\n")
    report = import_market(tmp_path / "market", [first, second])
    assert [row["title"] for row in products(tmp_path / "market")] == ["a1", "a2", "b3"]
    assert (report.repeated_in_file, report.repeated_across_files) == (2, 1)


def test_ubi_json_is_taken_as_it_is(tmp_path: Path, two: Path) -> None:
    query = {"user_query": "lamp", "query_id": "q", "client_id": "b", "timestamp": "2026-01-01T00:00:00Z"}
    click: dict[str, Any] = {
        "action_name": "click",
        "query_id": "q",
        "session_id": "s",
        "timestamp": "2026-01-01T00:00:01Z",
    }
    click["event_attributes"] = {"object": {"object_id": "1"}, "position": {"ordinal": 1}}
    log = written(tmp_path / "log.json", json.dumps([query, click, {"action_name": "click", "client_id": "b"}]))
    report = import_market(tmp_path / "market", [two], events=[log])
    rows = Market.open(tmp_path / "market").arrow("events").to_pylist()
    assert [(row["action_name"], row["session_id"], row["product_id"]) for row in rows] == [
        ("search", "s", None),
        ("click", "s", "1"),
    ]
    assert [(loss.row, loss.field, loss.reason) for loss in report.losses] == [(2, "timestamp", "is missing")]


def test_a_flat_log_keeps_its_clients_and_its_products(tmp_path: Path, two: Path) -> None:
    names = ("timestamp", "client_id", "session_id", "query_id", "action_name", "user_query", "product_id", "position")
    row = dict(zip(names, ("2026-01-01T00:00:00Z", "c", "s", "q", "click", "lamp", "1", 2), strict=True))
    logs = [
        written(tmp_path / "log.csv", f"{','.join(names)}\n{','.join(map(str, row.values()))}\n"),
        written(tmp_path / "log.jsonl", json.dumps(row)),
    ]
    report = import_market(tmp_path / "market", [two], events=logs)
    rows = Market.open(tmp_path / "market").arrow("events").to_pylist()
    assert [(r["client_id"], r["session_id"], r["product_id"], r["position"]) for r in rows] == [("c", "s", "1", 2)] * 2
    assert not report.losses


def test_flat_events_of_any_format(tmp_path: Path, two: Path) -> None:
    csv = written(tmp_path / "e.csv", "timestamp,session_id,action_name,position\n1767225600000,s,click,3\n")
    lines = written(
        tmp_path / "e.jsonl", [{"timestamp": "2026-01-01 00:00:00", "session_id": 5, "action_name": "click"}]
    )
    parquet = tmp_path / "e.parquet"
    pq.write_table(
        pa.table({"timestamp": [datetime(2026, 1, 1)], "session_id": ["s"], "action_name": ["click"]}), parquet
    )
    import_market(tmp_path / "market", [two], events=[csv, lines, parquet])
    events = Market.open(tmp_path / "market").arrow("events")
    assert set(events["timestamp"].to_pylist()) == {datetime(2026, 1, 1, tzinfo=UTC)}
    assert events["session_id"].to_pylist() == ["s", "5", "s"]
    assert events["position"].to_pylist() == [3, None, None]


def test_one_file_of_judged_queries_becomes_products_pairs_and_validation_judgments(tmp_path: Path) -> None:
    """The shape of the ESCI samples: product text inside the judgments, some products in the catalogue already."""
    catalogue = written(tmp_path / "catalogue.csv", "product_id,title,country\nP0,from the catalogue,us\n")
    judged = [
        {
            "query": f"query {q}",
            "product_id": f"P{q % 50}",
            "title": "t",
            "esci_label": "ES"[q % 2],
            "grade": [1, 0.1][q % 2],
        }
        for q in range(200)
    ]
    judged += [{**row, "query": row["query"].upper(), "product_id": "P7"} for row in judged[:20]]
    samples = written(tmp_path / "samples.jsonl", judged)
    recipe = Path(__file__).parents[2] / "recipes" / "maps" / "esci.toml"
    plan = written(
        tmp_path / "map.toml",
        recipe.read_text()
        .replace("train_judgments.parquet", "samples.jsonl")
        .replace('"judgments.parquet"', '"none*"')
        .replace('[judgments."none*"]', '[judgments."*.jsonl"]'),
    )
    report = import_market(
        tmp_path / "market", [catalogue, samples], judgments=[samples], pairs=[samples], mapping=plan
    )
    market = Market.open(tmp_path / "market")
    titles = {row["product_id"]: row["title"] for row in products(tmp_path / "market")}
    assert len(titles) == 50 and titles["P0"] == "from the catalogue"
    pairs, judgments = market.arrow("pairs").to_pylist(), market.arrow("judgments").to_pylist()
    assert len(pairs) + len(judgments) == len(judged) == 220
    assert not {row["query"].lower() for row in pairs} & {row["query"].lower() for row in judgments}
    assert 0.08 < len({row["query"].lower() for row in judgments}) / 200 < 0.22
    assert {(row["label"], row["weight"], row["split"], row["country"]) for row in pairs} == {
        (1, 1.0, "train", "us"),
        (0, 1.0, "train", "us"),
    }
    assert {row["split"] for row in judgments} == {"validation"}
    assert report.losses == []
    again = import_market(tmp_path / "again", [catalogue, samples], judgments=[samples], pairs=[samples], mapping=plan)
    assert again.kept == report.kept


def test_photos_given_as_paths_are_copied_in_and_traversal_is_not(tmp_path: Path) -> None:
    written(tmp_path / "shop" / "photos" / "lamp.png", "png")
    written(tmp_path / "secret.png", "secret")
    rows = [
        {"product_id": "1", "title": "t", "images": ["photos/lamp.png", "../secret.png"]},
        {"product_id": "2", "title": "t", "images": str(tmp_path / "secret.png")},
        {"product_id": "3", "title": "t", "images": "https://example.org/a.png"},
        {"product_id": "4", "title": "t", "images": '["photos/lamp.png"]'},
        {"product_id": "5", "title": "t", "images": "photos/gone.png"},
    ]
    report = import_market(tmp_path / "market", [written(tmp_path / "shop" / "p.jsonl", rows)])
    images = {row["product_id"]: row["images"] for row in products(tmp_path / "market")}
    copy = [{"bytes": None, "path": "images/0/photos/lamp.png"}]
    assert images == {"1": copy, "2": [], "3": None, "4": copy, "5": []}
    assert (tmp_path / "market" / "images" / "0" / "photos" / "lamp.png").read_text() == "png"
    assert {(loss.row, loss.field) for loss in report.losses} == {(row, "images") for row in (0, 1, 2, 4)}
    assert not list((tmp_path / "market").rglob("secret.png"))


def test_an_image_of_neither_bytes_nor_path_is_dropped_and_said(tmp_path: Path) -> None:
    given = [[{"bytes": None, "path": None}, {"bytes": b"png", "path": None}]]
    table = pa.table({"product_id": ["1"], "title": ["t"], "images": pa.array(given, PRODUCTS.field("images").type)})
    pq.write_table(table, tmp_path / "p.parquet")
    report = import_market(tmp_path / "market", [tmp_path / "p.parquet"])
    assert products(tmp_path / "market")[0]["images"] == [{"bytes": b"png", "path": None}]
    assert [(loss.row, loss.field, loss.reason) for loss in report.losses] == [
        (0, "images", "has neither bytes nor a path")
    ]


BAD_MAPS = [
    ("not toml [", "cannot be read"),
    ("[produkts]\n", "unknown section produkts"),
    ("[lists]\n", "unknown section lists"),
    ("[products]\nrenames = 3\n", "unknown field renames"),
    ('[products]\nrename = { titel = "name" }\n', "no column titel"),
    ('[products]\nrename = { title = "name" }\n', "'name' of .*two.csv; the file has product_id, title"),
    ("[products]\nscale = { title = 2 }\n", "title is not a number"),
    ('[products]\nconstant = { images = "a.png" }\n', "images is a list"),
    ('[products]\nattributes = ["colour"]\n', "'colour'"),
    ('[products]\nwhere = { shop = "a" }\n', "'shop'"),
    ('[products]\nconstant = { price = "cheap" }\n', "constant price"),
    ('[products."three.csv"]\nconstant = { brand = "x" }\n', "three.csv"),
    ("[products]\nsample = { by = 'title', from = 2 }\n", "sample.from"),
    ("[market]\ncurency = 'EUR'\n", "curency"),
    ("[market.engagement]\nchain = ['click', 'click']\n", "twice"),
]


@pytest.mark.parametrize(("text", "why"), BAD_MAPS)
def test_a_slip_in_the_map_is_named_and_nothing_is_written(tmp_path: Path, two: Path, text: str, why: str) -> None:
    with pytest.raises(MercatoError, match=why):
        import_market(tmp_path / "market", [two], mapping=written(tmp_path / "map.toml", text))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["map.toml", "two.csv"]


BAD_FILES = [
    ("p.xlsx", "x", "format"),
    ("p.csv", "", "empty"),
    ("p.csv", "product_id,name\n1,lamp\n", "column title: there is none"),
    ("p.csv", "product_id,title\n", "no rows"),
    ("p.csv", "product_id,title\n,lamp\n", "row 0, product_id"),
    ("p.json", "[1, 2", "not valid JSON"),
    ("p.jsonl", "oops\n", "row 0, record: is not valid JSON"),
    ("p.parquet", "PAR1", "p.parquet"),
]


@pytest.mark.parametrize(("name", "content", "why"), BAD_FILES)
def test_a_bad_file_is_named_and_nothing_is_written(tmp_path: Path, name: str, content: str, why: str) -> None:
    with pytest.raises(MercatoError, match=why):
        import_market(tmp_path / "market", [written(tmp_path / name, content)])
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_missing_file_and_invalid_text_are_named(tmp_path: Path) -> None:
    with pytest.raises(MercatoError, match="no such file"):
        import_market(tmp_path / "market", [tmp_path / "none.csv"])
    (tmp_path / "latin.csv").write_bytes("product_id,title\n1,caf\xe9\n".encode("latin-1"))
    with pytest.raises(MercatoError, match=r"latin\.csv"):
        import_market(tmp_path / "market", [tmp_path / "latin.csv"])


def test_only_a_market_is_ever_replaced_and_never_with_a_source_inside(tmp_path: Path, two: Path) -> None:
    home = tmp_path / "home"
    precious = written(home / "thesis.txt", "years of work")
    with pytest.raises(MercatoError, match=r"no market\.toml"):
        import_market(home, [two])
    assert precious.read_text() == "years of work"
    import_market(tmp_path / "market", [two])
    assert import_market(tmp_path / "market", [two], name="Second").kept["products"] == 2
    assert Market.open(tmp_path / "market").config.name == "Second"
    inner = written(tmp_path / "market" / "new.csv", "product_id,title\n1,lamp\n")
    with pytest.raises(MercatoError, match="inside"):
        import_market(tmp_path / "market", [inner])
    assert inner.exists()


@pytest.mark.parametrize(
    "file",
    [
        "catalogue.sqlite",
        "catalogue.sqlite-wal",
        "events/live-ab-1-2.parquet",
        "features/live-ab-1-2.parquet",
        "products/live-api-000001.parquet",
        "rules.toml",
    ],
)
def test_what_the_api_acknowledged_and_a_merchandiser_wrote_is_never_replaced(
    tmp_path: Path, two: Path, file: str
) -> None:
    import_market(tmp_path / "market", [two])
    kept = written(tmp_path / "market" / file, "an order")
    with pytest.raises(MercatoError, match="nothing would make again"):
        import_market(tmp_path / "market", [two])
    assert kept.read_text() == "an order"


def test_a_market_that_is_served_is_never_replaced(tmp_path: Path, two: Path) -> None:
    import_market(tmp_path / "market", [two])
    with market_lock(tmp_path / "market"), pytest.raises(MercatoError, match="mercato serve"):
        import_market(tmp_path / "market", [two])
    import_market(tmp_path / "market", [two])


def test_a_failed_import_leaves_an_empty_folder_usable(tmp_path: Path, two: Path) -> None:
    (tmp_path / "market").mkdir()
    with pytest.raises(MercatoError):
        import_market(tmp_path / "market", [written(tmp_path / "none.csv", "product_id,title\n")])
    assert import_market(tmp_path / "market", [two]).kept["products"] == 2


def test_a_line_nested_too_deeply_is_a_rejected_row(tmp_path: Path) -> None:
    for depth in (100, 500, 5_000, 200_000):
        deep = '{"product_id": "2", "title": "t", "attributes": ' + '{"a":' * depth + "1" + "}" * depth + "}"
        lines = '{"product_id": "1", "title": "lamp"}\n' + deep + "\n"
        report = import_market(tmp_path / "market", [written(tmp_path / "deep.jsonl", lines)])
        assert "1" in [row["product_id"] for row in products(tmp_path / "market")]
        assert report.losses or depth == 100
    with pytest.raises(MercatoError, match="nested"):
        import_market(tmp_path / "market", [written(tmp_path / "deep.json", "[" + deep + "]")])


def test_words_of_the_users_are_no_markup(tmp_path: Path) -> None:
    csv = written(tmp_path / "shop.csv", "product_id,title,images\n1,lamp,../../[/x].jpg\n")
    report = import_market(tmp_path / "[/market]", [csv])
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(report)
    said = console.export_text()
    assert "[/x].jpg" in said and "[/market]" in said


def test_reports_print(tmp_path: Path, two: Path) -> None:
    report = import_market(tmp_path / "market", [two, two])
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(report)
    assert "2 rows repeat a product of an earlier file" in console.export_text()
    assert isinstance(report, ImportReport) and json.dumps(report.as_dict())


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("title", 5, "5"),
        ("title", 5.0, "5"),
        ("title", 5.25, "5.25"),
        ("title", True, "true"),
        ("title", ["one", "two"], "one\ntwo"),
        ("category", ["A", "B"], "A > B"),
        ("title", b"bytes", "bytes"),
        ("country", " DE ", "de"),
        ("price", "1,234,567.5", 1234567.5),
        ("price", "€ 12", 12.0),
        ("price", 7, 7.0),
        ("attributes", [{"key": "a", "value": 1}, {"name": "b", "value": None}], [("a", "1")]),
        ("attributes", [["a", "b"]], [("a", "b")]),
        ("attributes", {"a": ["x", "y"], "b": None}, [("a", "x, y")]),
        ("images", b"photo", [{"bytes": b"photo", "path": None}]),
        ("images", [{"bytes": b"photo", "path": "x.png"}, None], [{"bytes": b"photo", "path": "x.png"}]),
        ("image_embeddings", [1, 2.5], [[1.0, 2.5]]),
        ("image_embeddings", "[[1, 2], [3, 4]]", [[1.0, 2.0], [3.0, 4.0]]),
        ("created_at", "2026-01-01T01:00:00+01:00", datetime(2026, 1, 1, tzinfo=UTC)),
    ],
)
def test_values_are_understood_leniently(column: str, value: Any, expected: Any) -> None:
    result, bad = coerce(column, PRODUCTS.field(column).type, [value, None])
    assert (result.to_pylist(), bad) == ([expected, None], [])


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("title", {"en": "lamp"}),
        ("price", "12;5"),
        ("seller_rating", "4,5"),
        ("price", [3]),
        ("attributes", "colour"),
        ("attributes", [1, 2]),
        ("images", 5),
        ("images", {"bytes": "text"}),
        ("image_embeddings", [["a"]]),
        ("created_at", "next week"),
        ("created_at", True),
        ("created_at", 1e40),
    ],
)
def test_values_that_mean_nothing_are_dropped_with_their_row(column: str, value: Any) -> None:
    result, bad = coerce(column, PRODUCTS.field(column).type, [None, value])
    assert result.to_pylist() == [None, None]
    assert [one.row for one in bad] == [1]


@pytest.mark.parametrize("scale", [1, 1e3, 1e6, 1e9])
def test_an_epoch_is_read_in_any_unit(scale: float) -> None:
    assert parse_time(1_767_225_600 * scale) == datetime(2026, 1, 1, tzinfo=UTC)


def test_a_market_without_a_map_has_the_currency_of_its_products(tmp_path):
    file = tmp_path / "products.csv"
    file.write_text("product_id,title,price,currency\na,Lamp,3,INR\nb,Chair,5,INR\nc,Table,5,EUR\n")
    import_market(tmp_path / "market", [file])
    assert Market.open(tmp_path / "market").config.currency == "INR"


def test_a_map_says_what_is_no_value(tmp_path: Path) -> None:
    file = tmp_path / "products.csv"
    file.write_text("product_id,title,brand,colour\na,Lamp,NULL,-\nb,Rug,-,NULL\n")
    text = '[products]\nattributes = ["colour"]\n{}\n["products"."products.csv"]\n{}\n'
    read = {}
    for name, of_all, of_file in (
        ("usual", "", ""),
        ("own", 'missing = ["-"]', ""),
        ("none", "missing = []", ""),
        ("file", 'missing = ["NULL"]', 'missing = ["-"]'),
        ("file_none", 'missing = ["NULL"]', "missing = []"),
    ):
        plan = tmp_path / f"{name}.toml"
        plan.write_text(text.format(of_all, of_file))
        import_market(tmp_path / name, [file], mapping=plan)
        rows = pq.read_table(tmp_path / name / "products.parquet").to_pylist()
        read[name] = [(row.get("brand"), dict(row["attributes"] or ()).get("colour")) for row in rows]
    assert read["usual"] == [(None, "-"), ("-", None)]
    assert read["own"] == read["file"] == [("NULL", None), (None, "NULL")]
    assert read["none"] == read["file_none"] == [("NULL", "-"), ("-", "NULL")]


def test_a_file_of_which_nothing_is_kept_is_refused(tmp_path: Path) -> None:
    """Beside files of which something is; one without rows has lost nothing."""
    products = tmp_path / "p.csv"
    products.write_text("product_id,title\n1,lamp\n")
    good, bad, empty = (tmp_path / f"{name}.csv" for name in ("good", "bad", "empty"))
    good.write_text("timestamp,session_id,action_name\n2026-01-01,s,click\n")
    bad.write_text("timestamp,session_id,action_name\nsoon,s,click\nlate,s,click\n")
    empty.write_text("timestamp,session_id,action_name\n")
    with pytest.raises(MercatoError, match=r"bad.csv: none of its 2 rows .* row 0, timestamp: .*'soon' .*\[events\]"):
        import_market(tmp_path / "m", [products], [good, bad])
    assert not (tmp_path / "m").exists()
    assert import_market(tmp_path / "m", [products], [good, empty]).kept["events"] == 1
    given = tmp_path / "map.toml"
    given.write_text('[events]\nwhere = { action_name = "purchase" }\n')
    with pytest.raises(MercatoError, match=r"good.csv: the map's \[events\] .* all of its 1 rows"):
        import_market(tmp_path / "m", [products], [good], mapping=given)
