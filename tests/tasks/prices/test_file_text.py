import pytest

from closecast.storage.core.errors import BadFile
from closecast.tasks.prices.file_table import FileOptions, FileTable
from closecast.tasks.prices.file_text import read_text
from tests.tasks.prices.reading import read, refusal


def split(data: bytes, **columns: str) -> FileTable:
    return read_text(data, FileOptions(columns=columns))


def test_cells_are_trimmed_and_rows_keep_their_line_numbers() -> None:
    header = b'Created,on\r\n\r\nDate;"Volume; BTC";CLOSE;note\r\n'
    data = header + b" 2020-01-01 ;7; 1.5;x\r\n\r\nd;;;\r\n1\r\n1;2;3;4;5\r\n"
    rows = split(data)
    assert rows.header == ["Date", "Volume; BTC", "CLOSE", "note"]
    assert [column.to_pylist() for column in rows.columns] == [
        ["2020-01-01", "d", "1"],
        ["7", "", ""],
        ["1.5", "", ""],
        ["x", "", ""],
    ]
    assert rows.numbers.tolist() == [4, 6, 7]
    assert rows.fields(4) == {"Date": "2020-01-01", "Volume; BTC": "7", "CLOSE": "1.5", "note": "x"}
    assert rows.fields(7) == ["1"]
    assert rows.short == {7: 1}
    assert rows.rejections.reasons == {8: "5 fields where the header has 4"}
    assert (rows.above, rows.kind) == (2, "text separated by ;")
    rows.rejections.add(8, "second")
    assert rows.rejections.reasons[8] == "5 fields where the header has 4"  # the first reason stands


def test_quotes_hold_a_field_together() -> None:
    lines = ['Date,"Note, b",Close', '2020-01-01,"1,5", "2,407.88"', '2020-01-02,"2,407.88"', '"a""b",c,d']
    rows = split("\n".join(lines).encode())
    assert rows.columns[2].to_pylist() == ["2,407.88", "", "d"]
    assert rows.columns[0].to_pylist() == ["2020-01-01", "2020-01-02", 'a"b']
    assert rows.short == {3: 2}
    assert rows.fields(3) == ["2020-01-02", "2,407.88"]


def test_quoted_thousands_are_read_where_the_last_cells_are_missing() -> None:
    for rest in ("", ",", ",7"):
        rows = [f'2017-06-0{day},"2,40{day}.88"{rest}' for day in range(1, 4)]
        data = "\n".join(["Date,Close,Volume", *rows]).encode()
        assert read(data).candles["close"].tolist() == [2401.88, 2402.88, 2403.88]


@pytest.mark.parametrize(
    "rows",
    [
        ["2017-06-01,2,407.88", "2017-06-02,2,488.55", "2017-06-03,2,515.35"],
        ["2017-06-01,999.5", "2017-06-02,1,012.20"],
        ["2017-06-01,2,12", "2017-06-02,2,07", "2017-06-03,2,15"],
        ["2017-06-01,2407,88"],
        ["2017-06-01,2,407.88,100", "2017-06-02,2,488.55,100"],
        ["2017-06-01,'2,407.88'", "2017-06-02,'2,488.55'"],
    ],
)
def test_figures_that_commas_may_cut_are_refused(rows: list[str]) -> None:
    header = "Date,Close" if rows == ["2017-06-01,2407,88"] else "Date,Close,Volume"
    assert "with --columns date=" in refusal("\n".join([header, *rows]))


def test_a_heading_with_a_comma_needs_quotes() -> None:
    rows = [f"2017-06-0{day},7,{day}.5" for day in range(1, 4)]
    assert read("\n".join(['Date,"Open, first",Close', *rows])).candles["close"][0] == 1.5
    cut = refusal("\n".join(["Date,Open, first,Close", *rows]))
    assert "Open, first can be one heading or two; put quotes around" in cut
    for row in ("2017-06-01,2,875", "2017-06-01,2\u00a0875,5"):
        assert "Price, USD can be one heading or two" in refusal(f"Date,Price, USD\n{row}\n")
    assert read("Date, Close, Note\n2017-06-01,2,875\n").candles["close"][0] == 2


def test_an_unclosed_quote_loses_only_its_line() -> None:
    rows = split(b'date,close\n2020-01-01,"2\n2020-01-02,"3"\n2020-01-03,4"\n2020-01-04,5\n')
    assert rows.columns[1].to_pylist() == ["3", "5"]
    assert rows.rejections.reasons == dict.fromkeys((2, 4), "a quote is not closed")


def test_the_header_that_the_user_names() -> None:
    data = b"from a site\nTag;Kurs;Stand\n2020-01-01;7;1.5\n"
    rows = split(data, date="Tag", close="kurs")
    assert (rows.header, rows.above) == (["Tag", "Kurs", "Stand"], 1)
    assert split(b"2020-01-01;7;1.5\n", date="1", close="3").has_header is False
    assert split(b"Tag;Kurs;Stand\n2020-01-01;7;1.5\n", date="1", close="3").header[0] == "Tag"
    with pytest.raises(BadFile, match="'Schluss' not found"):
        split(data, date="Tag", close="Schluss")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b" \r\n\n", "empty"),
        (b"\x89PNG\r\n\x1a\n\0\0", "line 1 is not: b'\\x89PNG"),
        (b"a\xff\xfed,c\n", "unpack it, or save it as UTF-8"),
        (b"date,close\n2020-01-01,\0\n", "line 2 is not: b'\\x00\\n'"),
        (b"date,close\n2020-01-01,3,\xc3", "line 2 is not: b'\\xc3'"),
        ("Größe,date,close\n".encode("latin-1"), "line 1 is not: b'\\xf6"),
        (b"a,b\n1,2\n", "date and close not found in 'a,b'"),
        (b"date,open\n2020-01-01,4\n", "close not found in 'date,open'"),
        (b"open,close\n1,4\n", "date not found in 'open,close'"),
        (b"date,close\n", "nothing below the header"),
        (b"date,close\n\n \n", "none can be read (nothing below the header)"),
        (b"date,close,closing price\n2020-01-01,3,4\n", "the header has two: 'close' and 'closing price'"),
        (b'date,note,close\n2020-01-01,a"b,"c\n2020-01-02,1,2\n', "a quoted field goes over a line's end"),
        (b"<!DOCTYPE html>" + b"x" * 500, "this is a web page"),
        (b"x" * 100_000, "line 1 is longer"),
        (b"date,close\n2020-01-01,3\n" + b"2" * 70_000, "line 3 is longer"),
        (b"date,close\n2020-01-01,3" + b",4" * 100, "line 2: 102 fields where the header has 2"),
        (b"date,symbol,close\n2020-01-01,B\xff,3\n", "line 2 is not: b'\\xff,3"),
    ],
)
def test_a_file_without_candles_is_refused_in_one_line(data: bytes, message: str) -> None:
    found = refusal(data)
    assert found.startswith("prices.csv: ")
    assert message in found
