"""Any file at all: each of its rows is kept or in `rejected.jsonl`, with its place, or the file is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mercato.data.importing import ImportReport, import_market
from mercato.data.market import Market
from mercato.errors import MercatoError
from tests.support.chaos import times

pytestmark = pytest.mark.chaos

wild = settings(max_examples=times(60, 2_500), suppress_health_check=[HealthCheck.function_scoped_fixture])


def taken(work: Path, file: Path, plan: str = "") -> tuple[ImportReport, list[dict[str, Any]], list[dict[str, Any]]]:
    """What an import of these products says, keeps and rejects; MercatoError where it leaves nothing behind."""
    market = work / "market"
    shutil.rmtree(market, ignore_errors=True)
    (work / "map.toml").write_text(plan)
    try:
        report = import_market(market, [file], mapping=work / "map.toml")
    except MercatoError as error:
        assert file.name in str(error) and not market.exists()
        raise
    kept = Market.open(market).arrow("products").to_pylist()
    log = market / "rejected.jsonl"
    lost = [json.loads(line) for line in log.read_text().split("\n")[:-1]] if log.exists() else []
    return report, kept, [loss for loss in lost if not loss["row_kept"]]


PIECES = [
    ',"',
    '"',
    '""',
    '",',
    "\\",
    '\\"',
    " ",
    "\r",
    "\n",
    "\r\n",
    "\n\n",
    "\0",
    "\ufeff",
    "x,",
    "\t",
    "é",
    "\u2028",
]


@st.composite
def broken_tables(draw: st.DrawFn) -> tuple[str, str]:
    """A table of rows #0, #1, … with some legal line breaks and any damage, and its delimiter."""
    count, delimiter = draw(st.integers(1, 12)), draw(st.sampled_from([",", "\t"]))
    titles = st.sampled_from(
        ["Lamp", 'Screen 27"', '"Radio', '"Retro" clock', '"two\nlines"', f'"a{delimiter}b"', '"15\\" laptop"', "", '"']
    )
    rows = [f"#{row}{delimiter}{draw(titles)}{delimiter}{row}" for row in range(count)]
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    text = delimiter.join(("product_id", "title", "price")) + end + end.join(rows) + draw(st.sampled_from(["", end]))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(len("product_id,title,price,"), len(text)))
        text = text[:at] + draw(st.sampled_from(PIECES)) + text[at:]
    return text, delimiter


@wild
@given(table=broken_tables(), plan=st.sampled_from(["", "quote = ''", "escape = '\\'"]), mark=st.booleans())
def test_every_row_of_a_broken_table_is_kept_or_rejected(
    tmp_path: Path, table: tuple[str, str], plan: str, mark: bool
) -> None:
    text, delimiter = table
    file = tmp_path / ("p.csv" if delimiter == "," else "p.tsv")
    file.write_bytes(b"\xef\xbb\xbf" * mark + text.encode())
    try:
        report, kept, lost = taken(tmp_path, file, f"[products]\n{plan}\n")
    except MercatoError:
        return
    assert report.read["products"] == len(kept) + len(lost) + report.repeated_in_file
    content = file.read_bytes()
    for loss in lost:
        before = content[: loss["byte"]].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        assert loss["line"] == before.count(b"\n") + 1 and before.endswith(b"\n")
        if loss["field"] is None:
            assert content[loss["byte"] :].decode().startswith(loss["value"].removesuffix("…"))


@pytest.mark.parametrize("delimiter", [",", "\t"])
@wild
@given(data=st.data())
def test_a_stray_quote_swallows_no_row(tmp_path: Path, delimiter: str, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 12))
    stray = ["Lamp", 'Screen 27"', '"Radio', 'Shelf "tall"', '27" wide', '"Retro" clock', '"', '6" ruler, "red']
    titles = [data.draw(st.sampled_from(stray)).replace(",", "," * (delimiter != ",")) for _ in range(count)]
    rows = [delimiter.join((f"#{row}", title, str(row))) for row, title in enumerate(titles)]
    file = tmp_path / ("p.csv" if delimiter == "," else "p.tsv")
    file.write_text("\n".join((delimiter.join(("product_id", "title", "price")), *rows)) + "\n")
    try:
        report, kept, lost = taken(tmp_path, file)
    except MercatoError as error:
        assert "rows can be kept" in str(error)
        return
    assert len(kept) + len(lost) == report.read["products"] == count
    assert {product["product_id"]: product["title"] for product in kept} == {
        f"#{loss}": titles[loss] for loss in set(range(count)) - {loss["line"] - 2 for loss in lost}
    }
    report, kept, lost = taken(tmp_path, file, '[products]\nquote = ""\n')
    assert [product["title"] for product in kept] == titles and not lost


@wild
@given(
    lines=st.lists(
        st.sampled_from(['{"product_id": "1", "title": "a"}', '{"product_id": 2}', "[]", "null", "{", '"', "{}", "é"])
        | st.text(st.characters(codec="utf-8", exclude_characters="\n\r"), max_size=5),
        max_size=8,
    ),
    end=st.sampled_from(["\n", "\r\n"]),
    mark=st.booleans(),
)
def test_every_line_of_json_is_kept_or_rejected(tmp_path: Path, lines: list[str], end: str, mark: bool) -> None:
    file = tmp_path / "p.jsonl"
    first = '{"product_id": "0", "title": "b"}'
    file.write_bytes(b"\xef\xbb\xbf" * mark + end.join([first, *lines]).encode())
    report, kept, lost = taken(tmp_path, file)
    assert len(kept) + len(lost) + report.repeated_in_file == 1 + sum(bool(line.encode().strip()) for line in lines)
    content = file.read_bytes()
    for loss in lost:
        line = ([first, *lines])[loss["line"] - 1].encode()
        assert content[loss["byte"] :].startswith(line) and len(line.strip())


def test_a_file_in_another_encoding_is_refused_with_the_place(tmp_path: Path) -> None:
    for mark in (b"", b"\xef\xbb\xbf"):
        text = mark + b"product_id,title\n" + b"1,lamp\n" * 5000 + b"2,caf\xe9\n"
        (tmp_path / "p.csv").write_bytes(text)
        with pytest.raises(MercatoError, match=rf"p\.csv: line 5002, byte {len(text) - 2}: is not UTF-8"):
            taken(tmp_path, tmp_path / "p.csv")


def test_a_row_longer_than_any_buffer_is_read(tmp_path: Path) -> None:
    title = "lamp " * 700_000
    (tmp_path / "p.csv").write_text(f'product_id,title\n1,"{title}"\n2,rug\n')
    assert [len(product["title"]) for product in taken(tmp_path, tmp_path / "p.csv")[1]] == [len(title) - 1, 3]


def test_a_map_says_how_a_file_means_its_quotes(tmp_path: Path) -> None:
    file = tmp_path / "p.csv"
    file.write_text('product_id,title\n1,"15\\" laptop"\n2,"C:\\\\"\n')
    assert [product["title"] for product in taken(tmp_path, file, "[products]\nescape = '\\'\n")[1]] == [
        '15" laptop',
        "C:\\",
    ]
    assert [product["title"] for product in taken(tmp_path, file, "[products]\nquote = ''\n")[1]] == [
        '"15\\" laptop"',
        '"C:\\\\"',
    ]
