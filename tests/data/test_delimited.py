"""CSV and TSV: rows that are right are read as they are, and a stray quote costs no other row unsaid."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mercato.data.delimited import INSIDE, SEVERAL, STRAY, Delimited, Quote, Row
from mercato.errors import MercatoError

HEADER = "id,title,price\n"


def split(
    text: str, quote: Quote | None = None, escape: bool = False, delimiter: str = ","
) -> tuple[Delimited, list[Row]]:
    table = Delimited(text.encode(), delimiter.encode(), quote, escape)
    header, first = table.header()
    return table, list(table.rows(len(header), first))


def told(text: str, quote: Quote | None = None, escape: bool = False, delimiter: str = ",") -> list[str]:
    """Each row: its first line where it is right, else why it is not."""
    table, rows = split(text, quote, escape, delimiter)
    return [row.why or table.line(row.first).decode() for row in rows]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (["1,Lamp,2", '2,"Radio,20', "3,Chair,30", "4,Table,40"], ["1,Lamp,2", STRAY, "3,Chair,30", "4,Table,40"]),
        (['2,"Radio,20', "3,Chair,30", '4,"Pine",40', "5,Rug,6"], [STRAY, "3,Chair,30", '4,"Pine",40', "5,Rug,6"]),
        (['2,"Radio,20', "3,Chair,30", '5,Shelf "tall",50'], [STRAY, "3,Chair,30", '5,Shelf "tall",50']),
        (['2,"Radio,20', "3,Chair,30", '5,Screen 27",50'], [SEVERAL, "3,Chair,30", SEVERAL]),
        (['2,"Radio,20', '5,Screen 27",50', "6,Rug,1"], [SEVERAL, SEVERAL, "6,Rug,1"]),
        (['2,",,20', '3,27",30', "4,Rug,1"], [SEVERAL, SEVERAL, "4,Rug,1"]),
        (['2,"Radio,20', "3,Chair,30", '5,27",x,50'], [STRAY, "3,Chair,30", INSIDE]),
        (['2,"Radio,20', "3,Chair,30,x", '5,27",50'], [SEVERAL, SEVERAL, SEVERAL]),
        (['2,"Radio,20', "", "3,Chair,30", '5,Screen 27",50'], [SEVERAL, "3,Chair,30", SEVERAL]),
        (['2,"Radio,20', '3,""x,30', '5,Screen 27",50'], [SEVERAL, SEVERAL, SEVERAL]),
        (['2,"Radio,20', '4,"Pine",40', '5,27",50'], [STRAY, '4,"Pine",40', '5,27",50']),
        (['1,"Retro" clock,3', "2,Rug,4"], [STRAY, "2,Rug,4"]),
        (['1,"Retro" clock,3', '2,Screen 27",4'], [STRAY, '2,Screen 27",4']),
        (['2,27","A lamp', 'the "best" lamp', 'nice,red,new"'], [STRAY, INSIDE, INSIDE]),
        (['1,"15\\" laptop",3', "2,Rug,4"], [STRAY, "2,Rug,4"]),
        (['2,"A lamp', 'the "best" lamp', 'nice, red",20', "3,Rug,4"], [STRAY, INSIDE, INSIDE, "3,Rug,4"]),
        (['2,"A lamp', 'the "best" lamp', "1,2,3", 'nice, red",20'], [STRAY, INSIDE, INSIDE, INSIDE]),
        (['1,Monitor 27",3', '2,6" ruler,4'], ['1,Monitor 27",3', '2,6" ruler,4']),
        (['1,"two', 'lines, of ""prose""', '",3', "2,Rug,4"], ['1,"two', "2,Rug,4"]),
        (["1,Lamp", "2,Rug,4,5", "3,Bed,6"], ["has 2 fields, the header 3", "has 4 fields, the header 3", "3,Bed,6"]),
        (['1,"a,b",2,3', "2,Rug,4"], ["has 4 fields, the header 3", "2,Rug,4"]),
        (["", "1,Lamp,2", "", "2,Rug,4"], ["1,Lamp,2", "2,Rug,4"]),
    ],
)
def test_a_stray_quote_costs_its_own_row(rows: list[str], expected: list[str]) -> None:
    for end in ("\n", "\r\n", "\r"):
        assert told((HEADER + "\n".join(rows)).replace("\n", end)) == expected


def test_a_map_says_how_quotes_are_meant() -> None:
    doubtful = HEADER + '2,"Radio,20\n3,Chair,30\n5,Screen 27",50\n'
    assert told(doubtful, quote="") == ['2,"Radio,20', "3,Chair,30", '5,Screen 27",50']
    assert told(doubtful, quote='"') == ['2,"Radio,20']
    escaped = HEADER + '1,"15\\" C:\\\\ \\N ""x""",3\n2,Rug,4\n'
    table, rows = split(escaped, escape=True)
    assert [row.why for row in rows] == [None, None]
    assert next(csv.reader([table.plain(rows[0]).decode()])) == ["1", '15" C:\\ \\N "x"', "3"]


def test_two_columns_tell_too_little_to_keep_what_may_be_prose() -> None:
    assert told('id,title\n1,"Potatoes\n1,5 kg\n2,5 kg"\n2,Rug\n') == [SEVERAL] * 3 + ["2,Rug"]
    assert told('id,title\n1,"Potatoes\n1, red\n2, new"\n2,Rug\n') == ['1,"Potatoes', "2,Rug"]


@pytest.mark.parametrize("header", ['id,"title\n1,Lamp\n2,27",5\n', 'id,"title" x\n1,2\n', 'id,"title\n1,2\n'])
def test_a_header_with_a_stray_quote_is_refused(header: str) -> None:
    with pytest.raises(MercatoError, match="line 1, the header"):
        split(header)


def test_a_header_may_have_line_breaks_where_the_map_says_so() -> None:
    table = Delimited(b'\n"the ""id""","a\nb"\n1,2\n', b",", '"')
    assert table.header() == (['the "id"', "a\nb"], 3)
    assert Delimited(b"\n\r\n", b",").header() == ([], 0)


VALUES = st.text(st.sampled_from('ab1 ,\t"\\\r\n\0é'), max_size=8)


@given(
    rows=st.lists(st.lists(VALUES, min_size=3, max_size=3), max_size=6),
    end=st.sampled_from(["\n", "\r\n"]),
    delimiter=st.sampled_from([",", "\t"]),
    every=st.booleans(),
)
def test_legal_rows_are_read_as_they_are(rows: list[list[str]], end: str, delimiter: str, every: bool) -> None:
    out = io.StringIO(newline="")
    quoting = csv.QUOTE_ALL if every else csv.QUOTE_MINIMAL
    if not every:  # the writer leaves a carriage return without quotes
        rows = [[value.replace("\r", "") for value in row] for row in rows]
    writer = csv.writer(out, delimiter=delimiter, lineterminator=end, quoting=quoting)
    writer.writerows([["id", "title", "price"], *rows])
    table, read = split(out.getvalue(), quote='"', delimiter=delimiter)
    assert [row.why for row in read] == [None] * len(rows)
    texts = [table.plain(row).decode() for row in read]
    assert [next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)) for text in texts] == rows


WILD = st.text(st.sampled_from('ab1 ,"\\\r\n\0'), max_size=60) | st.lists(
    st.sampled_from(
        ['1,"a', "2,b,3", '3,c",4', '4,"d",5', '5,e "f" g,6', "", "x", '6,"",7', '7,""h,8', '"', ",,", "1, 2,3"]
    ),
    max_size=8,
).map("\n".join)


@given(text=WILD, quote=st.sampled_from([None, '"', ""]), escape=st.booleans())
def test_every_line_is_in_one_row(text: str, quote: Quote | None, escape: bool) -> None:
    table, rows = split("id,title,price\n" + text, quote, escape)
    lines = [number for row in rows for number in range(row.first, row.end)]
    assert lines == sorted(set(lines))
    assert {number for number in range(1, len(table.starts) - 1) if table.line(number)} <= set(lines)
    for row in rows:
        if row.why is None:
            plainly = csv.reader(
                io.StringIO(table.plain(row).decode(), newline=""),
                strict=True,
                quoting=csv.QUOTE_NONE if quote == "" else csv.QUOTE_MINIMAL,
            )
            assert [len(fields) for fields in plainly] == [3]
