"""Logs on their way in: UBI or flat, with a map or without; a wrong value costs itself, not its event."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from mercato.data.importing import ImportReport, import_market
from mercato.data.market import Market
from mercato.errors import MercatoError

TIME = "2026-01-01T00:00:00Z"
WHO = {"timestamp": TIME, "query_id": "q", "session_id": "s", "client_id": "c", "user_query": "lamp"}


def ubi(**attributes: Any) -> dict[str, Any]:
    return {**WHO, "action_name": "click", "event_attributes": {"object": {"object_id": "1"}, **attributes}}


def taken(
    folder: Path, log: Path | str | list[Any], plan: str | None = None
) -> tuple[ImportReport, list[dict[str, Any]]]:
    """The report and the events of an import with this log and map."""
    (folder / "products.csv").write_text("product_id,title\n1,lamp\n")
    if isinstance(log, list):
        log = "".join(json.dumps(record) + "\n" for record in log)
    if isinstance(log, str):
        (folder / "log.jsonl").write_text(log)
        log = folder / "log.jsonl"
    mapping = None
    if plan is not None:
        mapping = folder / "map.toml"
        mapping.write_text(plan)
    report = import_market(folder / "market", [folder / "products.csv"], events=[log], mapping=mapping)
    table = Market.open(folder / "market").arrow("events").to_pylist()
    return report, table


def rejected(folder: Path) -> list[dict[str, Any]]:
    file = folder / "market" / "rejected.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.mark.parametrize(
    ("given", "column", "value"),
    [
        ({"position": {"ordinal": 3.0}}, "position", 3),
        ({"position": {"ordinal": "3"}}, "position", 3),
        ({"latitude": "52.5"}, "latitude", 52.5),
        ({"country": " DE "}, "country", "de"),
        ({"object": {"object_id": 1.0}}, "product_id", "1"),
        ({"object": {"object_id": 17}}, "product_id", "17"),
    ],
)
def test_ubi_values_are_read_as_leniently_as_those_of_tables(
    tmp_path: Path, given: dict[str, Any], column: str, value: Any
) -> None:
    report, rows = taken(tmp_path, [ubi(**given)])
    assert (rows[0][column], report.losses) == (value, [])


@pytest.mark.parametrize(
    ("given", "field", "why", "value"),
    [
        ({"position": {"ordinal": "third"}}, "position", "is not a number", "third"),
        ({"position": {"ordinal": -1}}, "position", "is negative", "-1"),
        ({"position": {"ordinal": 1, "placed_by": "luck"}}, "placed_by", "is none of pin, exploration", "luck"),
        ({"latitude": 900}, "latitude", "is outside -90 … 90", "900.0"),
        ({"longitude": [1]}, "longitude", "is not a number", "[1]"),
        ({"country": "USA"}, "country", "is not a two-letter lower-case ISO 3166-1 code", "usa"),
        ({"position": 3}, "event_attributes.position", "is not an object", "3"),
    ],
)
def test_a_wrong_value_costs_itself_and_is_told(
    tmp_path: Path, given: dict[str, Any], field: str, why: str, value: str
) -> None:
    report, rows = taken(tmp_path, [ubi(), ubi(**given)])
    assert [(row["product_id"], row["user_query"]) for row in rows] == [("1", "lamp")] * 2
    (lost,) = rejected(tmp_path)
    assert (lost["field"], lost["reason"], lost["value"], lost["row_kept"]) == (field, why, value, True)
    assert (lost["row"], lost["line"]) == (1, 2)
    assert report.as_dict()["tables"]["events"] == {"read": 2, "left_out_by_map": 0, "kept": 2, "rejected": 0}


@pytest.mark.parametrize(
    ("wrong", "value"),
    [({"timestamp": "yesterday"}, "yesterday"), ({"action_name": {"a": 1}}, "{'a': 1}"), ({"session_id": {}}, "{}")],
)
def test_an_event_whose_required_value_is_wrong_is_left_out_with_it(
    tmp_path: Path, wrong: dict[str, Any], value: str
) -> None:
    report, rows = taken(tmp_path, [ubi(), ubi(latitude=900) | wrong])
    (lost,) = rejected(tmp_path)
    assert (len(rows), lost["field"], lost["value"], lost["row_kept"]) == (1, next(iter(wrong)), value, False)
    assert report.kept["events"] == 1


def test_values_that_are_aside_count_only_where_their_event_is_kept(tmp_path: Path) -> None:
    wrong = {"position": 3, "shop": "a"}
    records = [ubi(**wrong), ubi(**wrong) | {"timestamp": None}, ubi(position=3, shop="b")]
    report, rows = taken(tmp_path, records, '[events]\nwhere = { "event_attributes.shop" = "a" }\n')
    assert len(rows) == 1 and report.left_out["events"] == 1
    assert [(lost["row"], lost["field"]) for lost in rejected(tmp_path)] == [
        (1, "timestamp"),
        (0, "event_attributes.position"),
    ]


def test_a_huge_number_is_one_wrong_value(tmp_path: Path) -> None:
    log = json.dumps(ubi()) + "\n" + json.dumps(ubi()).replace(f'"{TIME}"', "1" + "0" * 400)
    _, rows = taken(tmp_path, log)
    assert len(rows) == 1 and rejected(tmp_path)[0]["field"] == "timestamp"


MAPS = [
    ("", {}),
    ('rename = { country = "event_attributes.geo" }', {"country": "de"}),
    ('rename = { product_id = "event_attributes.sku" }', {"product_id": "5"}),
    ('rename = { session_id = "client_id" }', {"session_id": "c"}),
    ('rename = { user_query = "query_id", query_id = "user_query" }', {"user_query": "q", "query_id": "lamp"}),
    ('constant = { country = "fr", action_name = "view" }', {"country": "fr"}),
    ('values = { action_name = { click = "purchase" } }', {"action_name": "purchase"}),
    ('where = { action_name = "click" }', {}),
    ('where = { client_id = "c" }\nsample = { by = "product_id" }', {}),
]


@pytest.mark.parametrize(("plan", "changed"), MAPS)
def test_a_map_adds_to_the_reading_of_ubi(tmp_path: Path, plan: str, changed: dict[str, Any]) -> None:
    report, rows = taken(tmp_path, [ubi(geo="DE", sku=5, position={"ordinal": 2})], f"[events]\n{plan}\n")
    usual = {"product_id": "1", "action_name": "click", "position": 2, "session_id": "s", "country": None}
    usual |= {"user_query": "lamp", "query_id": "q", "client_id": "c"}
    assert {name: rows[0].get(name) for name in usual} == usual | changed
    assert report.losses == [] and list(report.read_as.values()) == ["UBI"]


def test_what_a_map_names_of_ubi_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(MercatoError, match=r"'event_attributes\.geo' of .*log\.jsonl"):
        taken(tmp_path, [ubi()], '[events]\nrename = { country = "event_attributes.geo" }\n')


def test_a_renamed_column_is_read_there_alone(tmp_path: Path) -> None:
    records = [ubi(sku="7"), ubi()]
    _, rows = taken(tmp_path, records, '[events]\nrename = { product_id = "event_attributes.sku" }\n')
    assert [row["product_id"] for row in rows] == ["7", None]


def test_query_records_stay_searches_where_a_map_renames_the_action(tmp_path: Path) -> None:
    records = [WHO, {**ubi(), "action_name": None, "what": "click"}]
    _, rows = taken(tmp_path, records, '[events]\nrename = { action_name = "what" }\n')
    assert [row["action_name"] for row in rows] == ["search", "click"]


def test_a_constant_action_goes_before_that_of_query_records(tmp_path: Path) -> None:
    _, rows = taken(tmp_path, [WHO, ubi() | {"action_name": None}], '[events]\nconstant = { action_name = "click" }\n')
    assert [row["action_name"] for row in rows] == ["click", "click"]


FLAT = {**WHO, "action_name": "click", "product_id": "1", "position": 2}


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "json", "parquet"])
@pytest.mark.parametrize(
    ("row", "plan"),
    [
        (FLAT, ""),
        (
            {name: value for name, value in FLAT.items() if name != "action_name"},
            '[events]\nconstant = { action_name = "click" }',
        ),
        (
            {"sku" if name == "product_id" else name: value for name, value in FLAT.items() if name != "action_name"},
            '[events]\nrename = { product_id = "sku" }\nconstant = { action_name = "click" }',
        ),
    ],
    ids=["whole", "constant", "renamed"],
)
def test_a_flat_log_with_clients_is_flat(tmp_path: Path, kind: str, row: dict[str, Any], plan: str) -> None:
    log = tmp_path / f"log.{kind}"
    mark = "\t" if kind == "tsv" else ","
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist([row]), log)
    elif kind in ("csv", "tsv"):
        log.write_text(f"{mark.join(row)}\n{mark.join(map(str, row.values()))}\n")
    else:
        log.write_text(json.dumps([row] if kind == "json" else row))
    report, (read,) = taken(tmp_path, log, plan)
    assert report.losses == [] and list(report.read_as.values()) == ["flat columns"]
    assert {name: read[name] for name in FLAT if name != "timestamp"} == {
        name: value for name, value in FLAT.items() if name != "timestamp"
    }


def test_ubi_of_a_file_without_nested_values(tmp_path: Path) -> None:
    attributes = json.dumps({"object": {"object_id": "1"}, "geo": "de"}).replace('"', '""')
    log = tmp_path / "log.csv"
    log.write_text(
        "timestamp,query_id,session_id,action_name,event_attributes\n"
        f'{TIME},q,s,click,"{attributes}"\n{TIME},q,s,click,none\n'
    )
    _, rows = taken(tmp_path, log, '[events]\nrename = { country = "event_attributes.geo" }\n')
    assert [(row["product_id"], row["country"]) for row in rows] == [("1", "de"), (None, None)]
    assert [(lost["field"], lost["value"], lost["byte"]) for lost in rejected(tmp_path)] == [
        ("event_attributes", "none", log.read_bytes().rindex(TIME.encode()))
    ]


def test_flat_and_ubi_events_in_one_file(tmp_path: Path) -> None:
    _, rows = taken(tmp_path, [FLAT, ubi(position={"ordinal": 3}), ubi(position={"ordinal": 3}) | {"position": 9}])
    assert [(row["product_id"], row["position"]) for row in rows] == [("1", 2), ("1", 3), ("1", 9)]


def test_what_a_log_was_read_as_is_said(tmp_path: Path) -> None:
    report, _ = taken(tmp_path, [ubi()])
    console = Console(width=1000, record=True, file=io.StringIO())
    console.print(report)
    assert "log.jsonl: read as UBI" in console.export_text()
    assert report.as_dict()["events_read_as"] == {str(tmp_path / "log.jsonl"): "UBI"}


@pytest.mark.parametrize("received", ["", "2026-05-04", "signed"])
def test_what_a_server_says_of_senders_is_taken_of_a_server_alone(tmp_path: Path, received: str) -> None:
    """Exports of phones know a network too."""
    (tmp_path / "p.csv").write_text("product_id,title\na,Lamp\n")
    rows = "timestamp,session_id,action_name,product_id,received,network\n2026-05-04,s,click,a,{},wifi\n"
    (tmp_path / "e.csv").write_text(rows.format(received))
    report = import_market(tmp_path / "market", [tmp_path / "p.csv"], [tmp_path / "e.csv"])
    (row,) = Market.open(tmp_path / "market").arrow("events").to_pylist()
    ours = received == "signed"
    assert (row["received"], row["network"]) == (("signed", "wifi") if ours else (None, None)) and not report.losses


def test_a_map_says_how_an_export_of_a_servers_log_calls_it(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("product_id,title\na,Lamp\n")
    (tmp_path / "e.csv").write_text(
        "timestamp,session_id,action_name,product_id,how,addr\n2026-05-04,s,click,a,anon,n\n"
    )
    said = 'rename = { received = "how", network = "addr" }\nvalues = { received = { anon = "unsigned" } }'
    (tmp_path / "map.toml").write_text(f"[events]\n{said}\n")
    import_market(tmp_path / "market", [tmp_path / "p.csv"], [tmp_path / "e.csv"], mapping=tmp_path / "map.toml")
    (row,) = Market.open(tmp_path / "market").arrow("events").to_pylist()
    assert (row["received"], row["network"]) == ("unsigned", "n")
