"""Files as programs write them: packed, in other encodings, with other delimiters, wrapped, as sheets and as feeds."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mercato.data.importing import import_market
from mercato.data.json_records import json_records
from mercato.data.market import Market
from mercato.data.reading import Format, Source, named_columns, read_source
from mercato.errors import MercatoError

CSV = "product_id,title\n1,Sofá rojo\n2,Lámpara\n"
ROWS = [{"product_id": "1", "title": "Sofá rojo"}, {"product_id": "2", "title": "Lámpara"}]


def written(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def source(folder: Path, name: str, content: bytes, **how: Any) -> Source:
    return read_source(written(folder, name, content), Format(**how))


def zipped(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def spreadsheet(sheets: dict[str, list[list[Any]]]) -> bytes:
    """The least that is an .xlsx file."""
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    offices = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    packages = "http://schemas.openxmlformats.org/package/2006/relationships"

    def cell(place: str, value: Any) -> str:
        if value is None:
            return ""
        if isinstance(value, str):
            return f'<c r="{place}" t="inlineStr"><is><t>{value}</t></is></c>'
        return f'<c r="{place}"><v>{value}</v></c>'

    def sheet(rows: list[list[Any]]) -> bytes:
        lines = [
            f'<row r="{r}">' + "".join(cell(f"{chr(65 + c)}{r}", value) for c, value in enumerate(row)) + "</row>"
            for r, row in enumerate(rows, 1)
        ]
        return f'<worksheet xmlns="{main}"><sheetData>{"".join(lines)}</sheetData></worksheet>'.encode()

    names = "".join(f'<sheet name="{name}" sheetId="{n}" r:id="r{n}"/>' for n, name in enumerate(sheets, 1))
    targets = "".join(
        f'<Relationship Id="r{n}" Type="{offices}/worksheet" Target="worksheets/s{n}.xml"/>'
        for n in range(1, len(sheets) + 1)
    )
    book = f'<workbook xmlns="{main}" xmlns:r="{offices}"><sheets>{names}</sheets></workbook>'
    root = f'<Relationship Id="r1" Type="{offices}/officeDocument" Target="xl/workbook.xml"/>'
    files = {
        "[Content_Types].xml": b'<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"/>',
        "_rels/.rels": f'<Relationships xmlns="{packages}">{root}</Relationships>'.encode(),
        "xl/workbook.xml": book.encode(),
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{packages}">{targets}</Relationships>'.encode(),
    }
    files |= {f"xl/worksheets/s{n}.xml": sheet(rows) for n, rows in enumerate(sheets.values(), 1)}
    return zipped(**files)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("pack", [lambda content: ("p.csv", content), lambda c: ("p.csv.gz", gzip.compress(c))])
def test_text_that_says_its_encoding(tmp_path: Path, encoding: str, pack: Any) -> None:
    assert source(tmp_path, *pack(CSV.encode(encoding))).records() == ROWS


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "mac-roman", "utf-16-be"])
def test_a_map_says_the_encoding(tmp_path: Path, encoding: str) -> None:
    assert source(tmp_path, "p.csv", CSV.encode(encoding), encoding=encoding).records() == ROWS


def test_an_encoding_that_nothing_says_is_refused_with_the_setting(tmp_path: Path) -> None:
    with pytest.raises(MercatoError, match=r'p\.csv: line 2, byte 22: is not UTF-8: .* encoding = "cp1252"'):
        source(tmp_path, "p.csv", CSV.encode("cp1252"))
    with pytest.raises(MercatoError, match=r"p\.csv: line 2, byte 22: is not ascii"):
        source(tmp_path, "p.csv", CSV.encode("cp1252"), encoding="ascii")


def test_the_bytes_of_a_text_in_another_encoding_are_not_told(tmp_path: Path) -> None:
    found = source(tmp_path, "p.csv", CSV.encode("utf-16"))
    assert found.places and found.places.of(1) == (3, None)
    found = source(tmp_path, "p.csv", CSV.encode("utf-8-sig"))
    assert found.places and found.places.of(0) == (2, 20)


def test_a_zip_of_one_file_is_that_file(tmp_path: Path) -> None:
    inside = {"export/p.csv": CSV.encode(), "__MACOSX/._p.csv": b"x", "export/": b""}
    assert source(tmp_path, "p.zip", zipped(**inside)).records() == ROWS
    with pytest.raises(MercatoError, match=r"p\.zip: holds 2 files \(a\.csv, b\.csv\)"):
        source(tmp_path, "p.zip", zipped(**{"a.csv": b"", "b.csv": b""}))
    with pytest.raises(MercatoError, match=r"cannot tell the format of p\.doc in it"):
        source(tmp_path, "p.zip", zipped(**{"p.doc": b""}))


@pytest.mark.parametrize("name", ["p.csv.gz", "p.zip", "p.xlsx"])
@pytest.mark.parametrize("broken", ["no archive", "half a .gz", "half a .zip"])
def test_a_broken_archive_is_named(tmp_path: Path, name: str, broken: str) -> None:
    halves = {"half a .gz": gzip.compress(CSV.encode())[:20], "half a .zip": zipped(a=b"x")[:20]}
    with pytest.raises(MercatoError, match=f"{name}: cannot be "):
        source(tmp_path, name, halves.get(broken, broken.encode()))


@pytest.mark.parametrize("name", ["p.doc", "p", "p.doc.gz", "p.gz"])
def test_a_file_of_no_known_kind_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(MercatoError, match=f"{name}: cannot tell its format"):
        source(tmp_path, name, b"x")


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("name", ["p.csv", "p.tsv", "p.txt"])
@pytest.mark.parametrize("sep", [False, True])
def test_the_header_shows_the_delimiter(tmp_path: Path, delimiter: str, name: str, sep: bool) -> None:
    text = f"sep={delimiter}\r\n" * sep + f'product_id{delimiter}title\n1{delimiter}a b\n2{delimiter}"c{delimiter}d"\n'
    found = source(tmp_path, name, text.encode())
    assert found.records() == [{"product_id": "1", "title": "a b"}, {"product_id": "2", "title": f"c{delimiter}d"}]
    assert found.places and found.places.of(0) == (2 + sep, len(f"sep={delimiter}\r\n" * sep + "product_id title\n"))


def test_a_header_with_two_delimiters_is_asked_about(tmp_path: Path) -> None:
    with pytest.raises(MercatoError, match=r"header has ';' and '\|': say in the map"):
        source(tmp_path, "p.csv", b"id;a|b\n1;2\n")
    assert source(tmp_path, "p.csv", b"id;a|b\n1;2\n", delimiter=";").records() == [{"id": "1", "a|b": "2"}]
    assert source(tmp_path, "p.csv", b"id,a|b\n1,2\n").records() == [{"id": "1", "a|b": "2"}]


def test_blank_and_repeated_headers_have_names(tmp_path: Path) -> None:
    found = source(tmp_path, "p.csv", b"id,title,,title,title (2)\n1,a,b,c,d\n")
    assert found.records() == [{"id": "1", "title": "a", "column 3": "b", "title (2)": "c", "title (2) (2)": "d"}]


@given(st.lists(st.sampled_from(["a", " a", "a (2)", "", None, "column 2", "a (2) (2)", 3]), max_size=8))
def test_every_column_has_a_name_of_its_own(header: list[Any]) -> None:
    assert len({*named_columns(header)}) == len(header)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[{"a": 1}, {"a": 2}]', [{"a": 1}, {"a": 2}]),
        ('{"products": [{"a": 1}, {"a": 2}], "count": 2, "page": {"next": null}}', [{"a": 1}, {"a": 2}]),
        ('{\n "products": [\n {"a": 1},\n {"a": 2}\n ]\n}', [{"a": 1}, {"a": 2}]),
        ('{"a": "x", "images": [{"src": "y"}]}', [{"a": "x", "images": [{"src": "y"}]}]),  # a product with images
        ('{"a": [{"b": 1}], "c": [{"b": 2}]}', [{"a": [{"b": 1}], "c": [{"b": 2}]}]),
        ('{\n "a": 1\n}', [{"a": 1}]),
        ('{"a": 1}\n{"a": 2}\n', [{"a": 1}, {"a": 2}]),
        ('{"index": {"_id": "1"}}\n{"a": 1}\n{"delete": {"_id": "9"}}\n{"create": {}}\n{"a": 2}\n'
         '{"update": {"_id": 3, "_index": "p"}}\n{"doc": {"a": 3}}',
         [{"_id": "1", "a": 1}, {"a": 2}, {"_id": 3, "a": 3}]),
        ('{"_index": "p", "_id": "1", "_source": {"a": 1}}', [{"_id": "1", "a": 1}]),
    ],
)  # fmt: skip
def test_json_as_programs_write_it(text: str, expected: list[Any]) -> None:
    found = json_records(text.encode(), lines=False, records=None)
    assert [line.value for line in found] == expected and not any(line.why for line in found)


def test_a_line_is_a_record_in_json_lines() -> None:
    text = b'{"products": [{"a": 1}]}\n'
    assert [line.value for line in json_records(text, lines=True, records=None)] == [{"products": [{"a": 1}]}]


def test_a_map_says_where_the_records_are(tmp_path: Path) -> None:
    text = json.dumps(
        {"hits": {"hits": [{"_id": "7", "_source": {"title": "a"}}], "total": 1}, "took": "2 ms"}
    ).encode()
    found = source(tmp_path, "p.json", text, records="hits.hits")
    assert found.records() == [{"_id": "7", "title": "a"}]
    with pytest.raises(MercatoError, match=r"p\.json: the map's records = 'hits.total' is no list in it"):
        source(tmp_path, "p.json", text, records="hits.total")
    with pytest.raises(MercatoError, match=r"p\.json: not valid JSON"):
        source(tmp_path, "p.json", text[:-1], records="hits.hits")


def test_a_bulk_request_that_goes_astray_is_told_by_its_line(tmp_path: Path) -> None:
    found = source(tmp_path, "p.ndjson", b'{"index": {"_id": "1"}}\n{"title": "a"}\n{"title": "b"}\n')
    assert found.records() == [{"_id": "1", "title": "a"}]
    (broken,) = found.broken
    assert "is no action of a bulk request" in broken.why and found.places and found.places.of(broken.row) == (3, 39)


def test_spreadsheets(tmp_path: Path) -> None:
    rows = [
        ["product_id", "title", None, "price"],
        [1, "Sofa", "x", 9.5],
        [None, None, None, None],
        [2, "Lamp", None, 20],
    ]
    content = spreadsheet({"Products": rows, "Old": [["product_id"], ["7"]]})
    first = {"product_id": 1, "title": "Sofa", "column 3": "x", "price": 9.5}
    assert source(tmp_path, "p.xlsx", content).records() == [first, {"product_id": 2, "title": "Lamp", "price": 20}]
    assert source(tmp_path, "p.xlsx", content, sheet="Old").records() == [{"product_id": "7"}]
    with pytest.raises(MercatoError, match="has no sheet 'New'; it has Products, Old"):
        source(tmp_path, "p.xlsx", content, sheet="New")
    with pytest.raises(MercatoError, match="is empty; its first row must name the columns"):
        source(tmp_path, "p.xlsx", spreadsheet({"Empty": []}))


RSS = """<?xml version="1.0"?>
<rss version="2.0" xmlns:g="http://base.google.com/ns/1.0"><channel><title>Shop</title>
<item><title>Cheap sofa!</title><g:title>Sofa</g:title><g:id>1</g:id><g:price>9.50 EUR</g:price>
<g:additional_image_link>a</g:additional_image_link><g:additional_image_link>b</g:additional_image_link>
<g:shipping><g:country>ES</g:country><g:price>0 EUR</g:price></g:shipping></item>
<item><g:id>2</g:id><g:title><![CDATA[Lamp & shade]]></g:title><g:brand/></item>
</channel></rss>"""


def test_feeds(tmp_path: Path) -> None:
    images = {"additional_image_link": ["a", "b"], "shipping": {"country": "ES", "price": "0 EUR"}}
    assert source(tmp_path, "p.xml", RSS.encode()).records() == [
        {"title": "Sofa", "id": "1", "price": "9.50 EUR"} | images,
        {"id": "2", "title": "Lamp & shade"},
    ]
    atom = '<feed xmlns="http://www.w3.org/2005/Atom"><entry><id>1</id><link href="http://x"/></entry></feed>'
    assert source(tmp_path, "p.xml", atom.encode()).records() == [{"id": "1", "link": "http://x"}]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("<rss>", "cannot be read as XML"),
        ("<html/>", "no <item> and no <entry>"),
        (
            '<!DOCTYPE r [<!ENTITY a "x">]><rss><item><id>&a;</id></item></rss>',
            "cannot be read as XML: EntitiesForbidden",
        ),
        ('<!DOCTYPE r [<!ENTITY a SYSTEM "file:///etc/passwd">]><rss><item>&a;</item></rss>', "cannot be read as XML"),
    ],
)
def test_a_feed_that_is_none_or_means_harm_is_refused(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(MercatoError, match=why):
        source(tmp_path, "p.xml", text.encode())


def test_a_map_says_how_files_are_written(tmp_path: Path) -> None:
    products = written(tmp_path, "p.csv", "id|name;x\n1|Sofá\n".encode("cp1252"))
    mapping = written(
        tmp_path,
        "map.toml",
        b'[products]\nrename = { product_id = "id", title = "name;x" }\nencoding = "cp1252"\ndelimiter = "|"\n',
    )
    import_market(tmp_path / "market", [products], mapping=mapping)
    assert Market.open(tmp_path / "market").arrow("products")["title"].to_pylist() == ["Sofá"]
    mapping.write_text('[products]\nencoding = "klingon"\n')
    with pytest.raises(MercatoError, match=r"encoding: .*klingon is no encoding"):
        import_market(tmp_path / "other", [products], mapping=mapping)
