import pytest

from storage.core.errors import BadFile
from tasks.prices.csv_formats import split_rows
from tasks.prices.csv_reader import read_candles


def refusal(data: bytes) -> str:
    with pytest.raises(BadFile) as caught:
        read_candles(data, "BTC-USD", name="prices.csv")
    message = str(caught.value)
    assert message.startswith("prices.csv: ")
    assert "\n" not in message
    assert len(message) < 300
    return message


def test_columns_are_texts_by_role_and_rows_keep_their_line_numbers() -> None:
    data = b'Created,on\r\n\r\nDate;"Volume; BTC";CLOSE;note\r\n 2020-01-01 ;7; 1.5;x\r\n\r\nd;;;\r\n1\r\n'
    rows = split_rows(data, "x")
    assert list(rows.texts) == ["day", "volume:1", "close"]
    assert rows.texts["close"].to_pylist() == ["1.5", ""]
    assert rows.numbers.tolist() == [4, 6]
    assert rows.text("day", 0) == "2020-01-01"
    assert rows.fields(4) == {"Date": "2020-01-01", "Volume; BTC": "7", "CLOSE": "1.5", "note": "x"}
    assert rows.fields(7) == ["1"]
    assert rows.reasons == {7: "1 fields where the header has 4"}
    rows.reject(0, "first")
    rows.reject(0, "second")
    assert rows.reasons[4] == "first"  # the first reason stands


def test_quotes_hold_a_field_together() -> None:
    lines = ['Date,"Note, b",Close', '2020-01-01,"1,5","2,407.88"', '2020-01-02,"2,407.88"', '"a""b",c,d']
    rows = split_rows("\n".join(lines).encode(), "x")
    assert rows.texts["close"].to_pylist() == ["2,407.88", "d"]
    assert rows.texts["day"].to_pylist() == ["2020-01-01", 'a"b']
    assert rows.reasons == {3: "2 fields where the header has 3"}
    assert rows.fields(3) == ["2020-01-02", "2,407.88"]


def test_a_quote_that_is_not_closed_costs_its_line_alone() -> None:
    rows = split_rows(b'date,close\n2020-01-01,"2\n2020-01-02,"3"\n2020-01-03,4"\n2020-01-04,5\n', "x")
    assert rows.texts["close"].to_pylist() == ["3", "5"]
    assert rows.reasons == dict.fromkeys((2, 4), "a quote is not closed")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b" \r\n\n", "empty"),
        (b"\x89PNG\r\n\x1a\n\0\0", "line 1 is not: b'\\x89PNG"),
        (b"\xff\xfed,c\n", "unpack it, or save it as UTF-8"),
        (b"date,close\n2020-01-01,\0\n", "line 2 is not: b'\\x00\\n'"),
        (b"date,close\n2020-01-01,3,\xc3", "line 2 is not: b'\\xc3'"),
        ("Größe,date,close\n".encode("latin-1"), "line 1 is not: b'\\xf6"),
        (b"a,b\n1,2\n", "date and close not found in 'a,b'"),
        (b"date,open\n2020-01-01,4\n", "close not found in 'date,open'"),
        (b"open,close\n1,4\n", "date not found in 'open,close'"),
        (b"date,close\n", "nothing below the header"),
        (b"date,close\n\n \n", "none can be read (nothing below the header)"),
        (b"date,close,price\n2020-01-01,3,4\n", "the header has two: 'close' and 'price'"),
        (b'date,note,close\n2020-01-01,a"b,"c\n2020-01-02,1,2\n', "a quoted field goes over a line's end"),
        (b"<!DOCTYPE html>" + b"x" * 500, repr("<!DOCTYPE html>" + "x" * 45)),
        (b"x" * 100_000, "line 1 is longer"),
        (b"date,close\n2020-01-01,3\n" + b"2" * 70_000, "line 3 is longer"),
        (b"date,close\n2020-01-01,3" + b"," * 100, "line 2: 102 fields where the header has 2"),
        (b"date,symbol,close\n2020-01-01,B\xff,3\n", "line 2 is not: b'\\xff,3"),
    ],
)
def test_a_file_without_candles_is_refused_in_one_line(data: bytes, message: str) -> None:
    assert message in refusal(data)


def test_bytes_that_are_not_utf8_are_refused_with_their_line() -> None:
    many = b"date,close,note\n" + 100_000 * "2020-01-01,3,é\n".encode()
    assert len(split_rows(many, "x").numbers) == 100_000
    assert "line 100002 is not: b'\\xe9" in refusal(many + b"2020-01-02,3,\xe9\n")
