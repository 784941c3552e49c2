from __future__ import annotations

import gzip
import io
import json
import re
import zipfile
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.tasks.prices.reading import closes, read, refusal

TEXT = "date,close\n2024-01-01,44179.55\n2024-01-02,44946.91\n"
CLOSES = [44179.55, 44946.91]
READ = {date(2024, 1, 1): CLOSES[0], date(2024, 1, 2): CLOSES[1]}
FRAME = pd.DataFrame(
    {
        "date": pd.to_datetime(["2024-01-01", "2024-01-02"], utc=True),
        "open": [42283.58, 44179.55],
        "high": [44184.10, 45879.63],
        "low": [42180.77, 44148.34],
        "close": CLOSES,
        "volume": [27174.29, np.nan],
    }
)


def zipped(**files: str | bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_encodings_with_a_mark(encoding: str) -> None:
    mark = "\ufeff" if encoding.endswith("e") else ""
    data = (mark + TEXT).encode(encoding)
    assert closes(data) == closes(gzip.compress(data)) == READ
    if encoding == "utf-16":
        assert "begins as UTF-16, but is not" in refusal(data[:-1])


def test_packed_files() -> None:
    assert closes(zipped(BTCUSDT=TEXT)) == READ
    assert closes(zipped(**{"BTCUSDT.csv": TEXT, "__MACOSX/BTC": "x"})) == READ
    assert closes(zipped(**{"a/.DS_Store": b"x", "a/prices.csv.gz": gzip.compress(TEXT.encode())})) == READ
    assert "it has 2 (a, b); unpack it" in refusal(zipped(a=TEXT, b=TEXT))
    for data in (gzip.compress(TEXT.encode()), zipped(a=TEXT * 100)):
        assert "cannot be unpacked" in refusal(data[: len(data) // 2])
    assert "cannot be unpacked" in refusal(b"\x1f\x8bnothing")


def test_a_workbook_is_no_file_of_candles() -> None:
    assert "this is a workbook; save the sheet as CSV" in refusal(zipped(**{"xl/workbook.xml": ""}))


def test_parquet_and_feather(tmp_path: Path) -> None:
    frames = [
        FRAME,
        FRAME.assign(date=FRAME["date"].dt.tz_localize(None)),
        FRAME.assign(date=FRAME["date"].dt.tz_convert("Europe/Berlin")),
        FRAME.assign(date=FRAME["date"].dt.date),
        FRAME.assign(date=FRAME["date"].dt.strftime("%Y-%m-%d")),
        FRAME.assign(date=FRAME["date"].astype("int64") // 10**6),
    ]
    for number, frame in enumerate(frames):
        path = tmp_path / str(number)
        frame.to_parquet(path)
        assert closes(path.read_bytes()) == READ
        frame.to_feather(path)
        found = read(path.read_bytes())
        np.testing.assert_equal(found.candles.iloc[:, 1:].to_numpy(), FRAME.iloc[:, 1:].to_numpy())
        assert found.reading.kind == "feather"
        assert found.reading.unknown["volume"] == 1
    FRAME.set_index("date").rename_axis(None).to_parquet(path)
    assert closes(path.read_bytes()) == READ
    two = pd.concat(
        {"BTC-USD": FRAME.set_index("date"), "ETH-USD": FRAME.set_index("date") / 10}, axis=1
    ).swaplevel(axis=1)
    two.to_parquet(path)
    assert "choose its rows with --symbol NAME" in refusal(path.read_bytes())
    assert closes(path.read_bytes(), symbol="btc-usd") == READ
    assert "a whole Parquet or feather file" in refusal(path.read_bytes()[:200])


def test_figures_of_typed_files_are_read_as_they_are(tmp_path: Path) -> None:
    eighths = [58.125, 57.875]  # as text these could be thousands
    for kind in ("float32", "float64"):
        FRAME.assign(close=np.array(eighths, kind))[["date", "close"]].to_parquet(tmp_path / "x")
        assert list(closes((tmp_path / "x").read_bytes()).values()) == eighths
    text = '[{"date": "2024-01-01", "close": "58.125"}, {"date": "2024-01-02", "close": "57.875"}]'
    assert "can be 58125 or 58.125" in refusal(text)
    for data, options in ((text, {"decimal": "point"}), (re.sub(r'"(5\d\.\d+)"', r"\1", text), {})):
        assert list(closes(data, **options).values()) == eighths


def test_json_of_other_forms() -> None:
    records = [
        {"date": "2024-01-01", "close": 44179.55},
        {"date": "2024-01-02", "close": "44946.91", "open": None},
    ]
    assert closes("\n".join(map(json.dumps, records))) == READ  # JSON lines
    assert closes(json.dumps({"fields": [{"name": "x"}], "data": records})) == READ
    found = read(json.dumps([*records, {"date": "2024-01-03", "close": None}]))
    assert found.rejected["reason"].tolist() == ["row 3: the close is empty"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{}", "none is there"),
        (b"[]", "none is there"),
        (b"[1, 2]", "none is there"),
        (b"[[1], [1, 2]]", "all of the same form"),
        (b'[{"a": 1}, [1]]', "all of the same form"),
        (b'{"a": [[1, 2]], "b": [[1, 2]]}', "there are 2 (a, b); save that of the product alone"),
        (b'{"message": "rate limited"', "JSON is needed, but it cannot be read"),
        (b"[" * 100_000, "JSON is needed, but it cannot be read"),
        (b'[{"date": "2024-01-01", "price2": 1}]', "no close is found among date, price2"),
        (b"[[1704067200, 1]]", "this has 2 columns without header"),
    ],
)
def test_json_without_one_table_is_refused(data: bytes, message: str) -> None:
    assert message in refusal(data)


def test_yfinance_of_two_tickers() -> None:
    text = (
        b"Price,Close,Close,Open,Open\nTicker,BTC-USD,ETH-USD,BTC-USD,ETH-USD\nDate,,,,\n"
        b"2024-01-01,44179.55,2352.3,42283.58,2281.5\n2024-01-02,44946.91,2355.8,44179.55,2352.3\n"
    )
    assert "the header is of 'BTC-USD', 'ETH-USD'; choose its rows" in refusal(text)
    assert closes(text, symbol="BTC-USD") == READ
    assert "candles of LTC-USD are needed" in refusal(text, "LTC-USD", symbol="LTC-USD")
    single = b"Price,Close\nTicker,ETH-USD\nDate,\n2024-01-01,2352.3\n"
    assert "candles of BTC-USD are needed, the header is of 'ETH-USD'" in refusal(single)
