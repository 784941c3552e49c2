import pytest

from storage.core.errors import BadFile
from tasks.prices.csv_formats import split_rows


def refusal(data: bytes) -> str:
    with pytest.raises(BadFile) as caught:
        split_rows(data, "prices.csv")
    message = str(caught.value)
    assert message.startswith("prices.csv: ")
    assert "\n" not in message
    assert len(message) < 300
    return message


def test_columns_are_texts_by_role_and_rows_keep_their_lines() -> None:
    data = b"Created,on\r\n\r\nDate;Volume BTC;CLOSE;note\r\n 2020-01-01 ;7; 1.5;x\r\n\r\nd;;;\r\n"
    rows = split_rows(data, "x")
    assert list(rows.texts) == ["day", "volume:1", "close"]
    assert rows.texts["close"].to_pylist() == ["1.5", ""]
    assert rows.numbers.tolist() == [4, 6]
    assert rows.text("day", 0) == "2020-01-01"
    assert rows.heading("volume:1") == "volume_btc"
    assert rows.fields(4) == {"Date": "2020-01-01", "Volume BTC": "7", "CLOSE": "1.5", "note": "x"}
    assert rows.reasons == {}


def test_rows_that_do_not_fit_the_header_are_named_by_line() -> None:
    rows = split_rows(b"date,close\n1\n\n2020-01-01,2\n1,2,3\n", "x")
    assert rows.numbers.tolist() == [4]
    assert rows.reasons == {2: "1 fields where the header has 2", 5: "3 fields where the header has 2"}
    assert rows.fields(5) == ["1", "2", "3"]


def test_the_first_reason_stands() -> None:
    rows = split_rows(b"date,close\n2020-01-01,2\n", "x")
    rows.reject(0, "one")
    rows.reject(0, "two")
    assert rows.reasons == {2: "one"}


@pytest.mark.parametrize(
    ("data", "said"),
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
        (b"date,close,price\n2020-01-01,3,4\n", "two came: 'close' and 'price'"),
        (b"<!DOCTYPE html>" + b"x" * 500, repr("<!DOCTYPE html>" + "x" * 45)),
        (b"x" * 100_000, "line 1 is longer"),
        (b"date,close\n2020-01-01,3\n" + b"2" * 70_000, "line 3 is longer"),
        (b",".join([b"date"] * 101), "line 1 has 101"),
        (b"date,close\n2020-01-01,3" + b"," * 100, "line 2 has 102"),
        (b"date,symbol,close\n2020-01-01,B\xff,3\n", "line 2 is not: b'\\xff,3"),
    ],
)
def test_what_is_no_file_of_candles_is_refused_in_one_line(data: bytes, said: str) -> None:
    assert said in refusal(data)


def test_bytes_that_are_not_utf8_are_found_anywhere() -> None:
    row = "2020-01-01,3,é\n".encode()
    many = b"date,close,note\n" + row * (2**21 // len(row))  # two pieces, which cut a character somewhere
    assert len(split_rows(many, "x").numbers) == 2**21 // len(row)
    assert f"line {2**21 // len(row) + 2} is not: b'\\xe9" in refusal(many + b"2020-01-02,3,\xe9\n")
    for shift in range(4):
        cut = b"x" * (2**20 - 2 - shift) + "€".encode()
        assert "is longer" in refusal(cut)
        assert "line 2 is not: b'\\xe2\\n'" in refusal(b"\n" + cut[:-2] + b"\n")
