from __future__ import annotations

import csv
import io
import json
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from closecast.storage.core.candle_schema import REJECTED_COLUMNS, candle_frame
from closecast.storage.core.errors import BadFile, BadProduct
from closecast.tasks.prices.file_table import OnDuplicate
from tests.helpers import SHARED, needs_prices
from tests.tasks.prices.reading import read, refusal

HEADER = "Date,Symbol,Open,High,Low,Close,Volume BTC,Volume USD"
ROWS = [
    "2020-10-24,BTCUSD,12900.5,13200,12850,13100.25,10.5,137552.63",
    "2020-10-23,BTCUSD,12800,13000,12700,12900.5,20,258010",
    "2020-10-22,BTCUSD,12700,12950,12650,12800,30,384000",
]
THREE = candle_frame(
    {
        "day_utc": pd.to_datetime(["2020-10-22", "2020-10-23", "2020-10-24"]),
        "open": [12700.0, 12800.0, 12900.5],
        "high": [12950.0, 13000.0, 13200.0],
        "low": [12650.0, 12700.0, 12850.0],
        "close": [12800.0, 12900.5, 13100.25],
        "volume": [30.0, 20.0, 10.5],
    }
)


def text(*lines: str, end: str = "\n") -> bytes:
    return (end.join(lines) + end).encode()


def days(frame: pd.DataFrame) -> list[str]:
    return frame["day_utc"].dt.strftime("%Y-%m-%d").tolist()


def check_three(data: bytes) -> None:
    found = read(data)
    pd.testing.assert_frame_equal(found.candles, THREE)
    assert found.rejected.empty
    assert list(found.rejected) == REJECTED_COLUMNS


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("banner", [[], ["Created on 10-22-2020,https://www.CryptoDataDownload.com"]])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_banner_line_ends_and_byte_order_mark(end: str, banner: list[str], mark: bytes) -> None:
    check_three(mark + text(*banner, HEADER, *ROWS, end=end))


def test_either_order_blank_lines_quotes_and_no_last_line_end() -> None:
    check_three(text(HEADER, *reversed(ROWS)))
    check_three(text("", HEADER, ROWS[0], "", *ROWS[1:], "   ", "").rstrip(b"\n"))
    check_three(text(HEADER, *ROWS).replace(b"BTCUSD", b'"BTCUSD"'))
    check_three(text(HEADER, *ROWS).replace(b",", b";"))
    check_three(text(HEADER, *ROWS).replace(b",", b" , "))


@pytest.mark.parametrize(
    "form",
    [
        "{:%Y-%m-%d}",
        "{:%Y-%m-%d} 07-AM",
        "{:%Y-%m-%d} 12-AM",
        "{:%Y-%m-%d} 00:00:00",
        "{:%Y-%m-%d} 00:00",
        "{:%Y-%m-%d}T00:00:00Z",
        "{:%Y-%m-%d}T00:00:00.000+00:00",
        "{0}",
        "{0}.0",
        "{0}000",
        "{0}000.0",
        "{0}000000",
    ],
)
@pytest.mark.parametrize("heading", ["Date", "Unix Timestamp"])
def test_forms_of_the_day(form: str, heading: str) -> None:
    lines = [heading + HEADER.removeprefix("Date")]
    for row in ROWS:
        day = pd.Timestamp(row[:10])
        lines.append((form.format(int(day.timestamp())) if "0}" in form else form.format(day)) + row[10:])
    check_three(text(*lines))


def test_date_and_time_stamp_must_agree() -> None:
    stamps = ["1603497600.0", "1603411200000", "1603324800"]
    lines = [f"{stamp},{row}" for stamp, row in zip(stamps, ROWS, strict=True)]
    check_three(text(f"Unix Timestamp,{HEADER}", *lines))
    lines[1] = lines[1].replace("1603411200000", "1603324800")
    older = [f"{86_400 * n},{np.datetime64('1970-01-01') + n},{ROWS[2][11:]}" for n in range(20)]
    found = read(text(f"Unix Timestamp,{HEADER}", *lines, *older))
    assert days(found.candles)[-2:] == ["2020-10-22", "2020-10-24"]
    assert found.rejected["day_utc"].tolist() == ["2020-10-23"]
    assert found.rejected["reason"].tolist() == [
        "line 3: its date is 2020-10-23, its time stamp '1603324800' is 2020-10-22"
    ]


def test_hourly_time_stamps_are_refused() -> None:
    midnight = int(pd.Timestamp("2020-10-24").timestamp())
    for closes in ((1, 1), (1, 2)):  # also where the figures are the same, which would be one row
        rows = [f"{midnight + 3600 * i}.0,2020-10-24,{close}" for i, close in enumerate(closes)]
        assert "lines 2 and 3 are two hours of 2020-10-24" in refusal(
            text("Unix Timestamp,Date,Close", *rows), on_duplicate="last"
        )
    assert len(read(text("Unix Timestamp,Date,Close", rows[1])).candles) == 1


def test_the_order_of_columns_without_a_header_is_that_of_the_figures() -> None:
    days = range(1417132800, 1417132800 + 86_400 * 40, 86_400)
    orders = {
        "ccxt, freqtrade": "{t}000,{o},{h},{l},{c},8617.15",
        "Bitfinex": "{t}000,{o},{c},{h},{l},8617.15",
        "Coinbase Exchange": "{t},{l},{h},{o},{c},8617.15",
    }
    for name, form in orders.items():
        lines = [form.format(t=day, o=363 + n, h=381 + n, l=360 + n, c=376 + n) for n, day in enumerate(days)]
        for count in (40, 1):
            found = read(text(*lines[:count]))
            assert found.reading.formats == (name,)
            assert found.reading.settled_by == "the figures"
            assert found.candles.iloc[0, 1:].tolist() == [363.0, 381.0, 360.0, 376.0, 8617.15]


@pytest.mark.parametrize(
    "form",
    [
        "{t},{o},{h},{c},{l},5",  # no export has these orders
        "{t},{c},{h},{l},{o},5",
        "{t},{h},{l},{o},{c},5",
        "{t},{o},{o},{o},{o},5",  # rows that say nothing
        "{t},{o},{h},{l},{c}",
        "{t},{c}",
    ],
)
def test_columns_without_a_header_in_no_known_order_are_refused(form: str) -> None:
    closes = np.random.default_rng(4).uniform(300, 400, 40).round(2)
    lines = [
        form.format(t=86_400 * n, o=closes[n - 1], h=450 + n % 7, l=250 - n % 5, c=closes[n])
        for n in range(40)
    ]
    message = refusal(text(*lines))
    assert message.startswith("prices.csv: ")
    assert "number the columns with --columns date=1,open=2,high=3,low=4,close=5, with end=1" in message
    close = form.split(",").index("{c}") + 1 if "{c}" in form else 2
    found = read(text(*lines), columns={"date": "1", "close": str(close)})
    assert found.candles["close"][39] == closes[38 if "{c}" not in form else 39]
    assert found.candles["open"].isna().all()


def test_prices_that_contradict_their_columns_are_refused() -> None:
    good = [f"{86_400 * n},100,108,104,106,7" for n in range(500)]
    header = "time,low,high,open,close,volume"
    for count in (3, 10):
        bad = [f"{86_400 * (500 + n)},104,108,100,106,7" for n in range(count)]
        for head in ([], [header]):
            assert len(read(text(*head, *good, *bad)).candles) == 500 + count
    bad.append("44064000,104,108,100,106,7")
    assert "add a header line" in refusal(text(*good, *bad))
    message = refusal(text(header, *good, *bad))
    assert (
        "in 11 of 511 rows (first line 502) they are not; tried: open from 'open', high from 'high'"
        in message
    )
    # Headings that are wrong are the same.
    wrong = [f"{86_400 * n},4,9,1,5,7" for n in range(40)]
    assert "in 40 of 40 rows" in refusal(text("time,open,low,high,close,volume", *wrong))
    only = {"date": "time", "close": "close"}
    assert len(read(text(header, *good, *bad), columns=only).candles) == 511


def test_figures_out_of_range_by_rounding_are_unknown_and_the_close_stays() -> None:
    rows = [
        "2020-01-01,100,110,101.9,105",  # the open
        "2020-01-02,100,110,90,112.1",  # the close
        "2020-01-03,101.2,101,101.5,101.2",  # low above high
        "2020-01-04,100,110,90,105",
        "2020-01-05,88,110,90,105",  # by more than 2 %: the rules for candles decide
    ]
    found = read(text("date,open,high,low,close", *rows))
    nan = np.nan
    np.testing.assert_equal(
        found.candles[["open", "high", "low", "close"]].to_numpy(),
        [
            [nan, 110, 101.9, 105],
            [100, nan, nan, 112.1],
            [nan, nan, nan, 101.2],
            [100, 110, 90, 105],
            [88, 110, 90, 105],
        ],
    )
    assert found.reading.rounded == 3


def test_other_columns_are_unknown_with_only_date_and_close() -> None:
    for header in ("date,close", "DAY,Close_USD", "timestamp,Price"):
        candles = read(text(header, "2020-10-22,12800")).candles
        assert candles["close"].tolist() == [12800.0]
        assert candles[["open", "high", "low", "volume"]].isna().all(axis=None)


def test_another_product_is_refused_by_name() -> None:
    message = refusal(text(HEADER, *ROWS), "ETH-USD")
    assert "candles of ETH-USD are needed, line 2 is of 'BTCUSD'" in message
    assert "--symbol BTCUSD" in message
    mixed = text(HEADER, *ROWS).replace(b"22,BTCUSD", b"22,BTC/EUR")
    assert "it is of 'BTCUSD', 'BTC/EUR'; choose its rows with --symbol NAME" in refusal(mixed)
    with pytest.raises(BadProduct):
        read(text(HEADER, *ROWS), "../x")


@pytest.mark.parametrize(
    ("names", "base_first"),
    [
        ("Volume BTC,Volume USD", True),
        ("Volume USD,Volume BTC", False),
        ("volume_btc,volume", True),
        ("VolumeFrom,VolumeTo", True),
        ("quote_volume,volume", False),
        # Contents and names swapped: the figures decide.
        ("Volume USD,Volume BTC", True),
        ("Volume BTC,Volume USD", False),
        ("volume,volume_btc", True),
        ("volume_x,volume_y", False),
    ],
)
def test_the_volume_is_the_one_in_the_base_currency(names: str, base_first: bool) -> None:
    lines = [HEADER.replace("Volume BTC,Volume USD", names)]
    for row in ROWS:
        *rest, base, quote = row.split(",")
        lines.append(",".join([*rest, *((base, quote) if base_first else (quote, base))]))
    check_three(text(*lines))


def test_a_volume_in_an_unknown_currency_is_nan() -> None:
    for heading, volume in (("Volume USD", np.nan), ("volume", 7.0)):
        candles = read(text(f"date,close,{heading}", "2020-10-22,2,7")).candles
        np.testing.assert_equal(candles["volume"].tolist(), [volume])
    # At a price of one the figures cannot tell: the names do.
    pegged = text("date,close,Volume USD,Volume USDC", "2020-10-22,1,700,701")
    assert read(pegged, "USDC-USD").candles["volume"].tolist() == [701.0]


def many(count: int = 200) -> list[str]:
    """Rows of `date,open,high,low,close`, after those of a test."""
    return [f"{np.datetime64('2021-01-01') + n},1,2,1,1.5" for n in range(count)]


def test_one_broken_close_costs_one_row() -> None:
    words = ["inf", "1e999", "abc", "0x10", "1_0", "=1+1", "--1", "1e", "€5", "1 00", "١٢٣", "007", "8.07K"]
    lines = [f"2020-11-{10 + i},1,2,1,{figure}" for i, figure in enumerate(["", "7,993", "NaN", *words])]
    found = read(text("date,open,high,low,close", "2020-11-01,,,,1.5", *lines, *many()))
    assert days(found.candles)[:2] == ["2020-11-01", "2021-01-01"]
    assert found.rejected["reason"].tolist() == [
        "line 3: the close is empty",
        "line 4: 6 fields where the header has 5",
        "line 5: the close is unknown ('NaN')",
        *(f"line {line}: close {word!r} is not a number" for line, word in enumerate(words, 6)),
    ]
    assert json.loads(found.rejected["raw"][5]) == {
        "date": "2020-11-15", "open": "1", "high": "2", "low": "1", "close": "abc"
    }  # fmt: skip
    assert found.rejected["day_utc"].tolist()[:3] == ["2020-11-10", None, "2020-11-12"]


def test_partly_unknown_rows_keep_their_close() -> None:
    words = ["NaN", "NA", "-", "null", "", "n/a", "abc", "None", "#N/A", "1,2,3"]
    for column in ("open", "high", "low", "volume"):
        names = ["date", "open", "high", "low", "close", "volume"]
        lines = []
        for n, word in enumerate(words):
            row = dict(zip(names, [f"2020-11-{10 + n}", "1", "2", "1", "1.5", "7"], strict=True)) | {
                column: f'"{word}"'
            }
            lines.append(",".join(row.values()))
        found = read(text(",".join(names), *lines))
        assert found.rejected.empty
        assert (found.candles["close"] == 1.5).all()
        assert found.candles[column].isna().all()
        assert found.candles.drop(columns=column).notna().all(axis=None)
        assert found.reading.unknown == dict.fromkeys(names[1:], 0) | {column: len(words)}


def test_malformed_days_and_short_rows_are_rejected() -> None:
    rows = ["2020-02-30,1", "soon,1", "2020-10", "2020-10-22 13-PM,1", ",1", "2020-10-23T25:00,1"]
    good = [row[:10] + ",5" for row in many()]
    found = read(text("date,close", *rows, *good))
    assert len(found.candles) == 200
    assert len(found.rejected) == len(rows)
    assert found.rejected["reason"][0] == "line 2: date '2020-02-30' is not a UTC day such as 2020-10-24"
    assert "line 4: 1 fields where the header has 2" in found.rejected["reason"].tolist()


def test_a_file_of_which_much_cannot_be_read_is_refused() -> None:
    good, bad = [row[:10] + ",5" for row in many(90)], ["2019-01-01,x"] * 10
    assert len(read(text("date,close", *bad, *good)).candles) == 90
    message = refusal(text("date,close", *bad, "2019-01-01,y", *good))
    assert "11 of 101 rows cannot be read, the first in line 2: close 'x' is not a number" in message
    assert "--columns date=…,close=…" in message


@pytest.mark.parametrize(
    "newest", ["2022-01-01,x", "Januar 2022,5", "2022-01-01", "2022-01-01,5,7", '2022-01-01,"5']
)
def test_a_file_whose_newest_row_cannot_be_read_is_refused(newest: str) -> None:
    good = [row[:10] + ",5" for row in many(90)]
    for rows in ([*good, newest], [newest, *good[::-1]]):
        message = refusal(text("date,close", *rows))
        assert "the newest rows are needed, but after 2021-03-31 1 cannot be read" in message
    # Rows without any figure are no candles: a footer.
    assert len(read(text("date,close", *good, "Source: a site")).candles) == 90


def test_days_at_the_end_without_a_close_are_only_a_few() -> None:
    good = [row[:10] + ",5" for row in many(90)]
    empty = [f"2022-01-0{n},." for n in range(1, 7)]
    found = read(text("date,close", *good, *empty[:5]))
    assert len(found.rejected) == 5
    assert "after 2021-03-31 6 cannot be read" in refusal(text("date,close", *good, *empty))


def test_duplicate_days() -> None:
    same = [*ROWS, ROWS[1]]
    check_three(text(HEADER, *same))
    other = ROWS[1].replace("12900.5,", "12999,")
    assert refusal(text(HEADER, *ROWS, other)) == (
        "prices.csv: each day is needed once, but 2020-10-23 has different figures:"
        " line 3 (open 12800.0, high 13000.0, low 12700.0, close 12900.5, volume 20.0)"
        " and line 5 (open 12800.0, high 13000.0, low 12700.0, close 12999.0, volume 20.0);"
        " days like this: 1; choose with --on-duplicate last|first"
    )
    choices: list[tuple[OnDuplicate, float, str]] = [
        ("first", 12900.5, "line 5: line 3 has other figures for this day and is kept"),
        ("last", 12999.0, "line 3: line 5 has other figures for this day and is kept"),
    ]
    for choice, close, reason in choices:
        found = read(text(HEADER, *ROWS, other, other), on_duplicate=choice)
        assert found.candles["close"].tolist() == [12800.0, close, 13100.25]
        assert found.rejected["reason"].tolist() == [reason.replace("line 5 has", "line 6 has")]
    # a, b, a: the last row of the file is kept, though an earlier one has its figures.
    found = read(text(HEADER, *ROWS, other, ROWS[1]), on_duplicate="last")
    assert found.candles["close"][1] == 12900.5


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["2020-01-01 01:00,3"], "line 2 is of '2020-01-01 01:00', which is 01:00 UTC"),
        (["2020-01-01T00:00:00-05:00,3"], "which is 05:00 UTC; export days in UTC"),
        (["2020-01-01T00:00+01:00,3"], "which is 23:00 UTC"),
        (["1603324801,3"], "line 2 is of '1603324801'"),
        (["43831,3"], "line 2 is of '43831'"),  # the number of a day in a spreadsheet
        (["2020-01-01 07-AM,3", "2020-01-01 07-PM,3"], "lines 2 and 3 are two hours of 2020-01-01"),
    ],
)
def test_files_that_are_not_daily_are_refused(rows: list[str], message: str) -> None:
    assert message in refusal(text("date,close", *rows))


@settings(max_examples=200)
@given(st.binary(max_size=300) | st.text(alphabet='date,close\n\r"2019-0;.e ', max_size=300).map(str.encode))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for content in (data, b"date,close\n" + data, b"date,close\n2020-01-01,2\n" + data):
        try:
            found = read(content, on_duplicate="last")
        except BadFile as error:
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert np.isfinite(found.candles["close"]).all()
            assert found.candles["day_utc"].is_monotonic_increasing
            assert found.candles["day_utc"].is_unique


@settings(max_examples=50)
@given(st.lists(st.floats(1e-8, 1e12), min_size=1, max_size=30))
def test_figures_are_the_nearest_floats(closes: list[float]) -> None:
    lines = [f"{86_400 * i},{close!r}" for i, close in enumerate(closes)]
    assert read(text("time,close", *lines)).candles["close"].tolist() == closes


def test_a_quarter_of_a_million_rows_in_seconds() -> None:
    closes = np.random.default_rng(7).uniform(1, 50_000, 250_000).round(2)
    days = np.datetime64("1300-01-01", "D") + np.arange(len(closes)).astype("timedelta64[D]")
    frame = pd.DataFrame({"date": days, "close": closes, "open": closes, "volume": 1.5})
    data = frame.iloc[::-1].to_csv(index=False).encode()
    begun = time.process_time()
    found = read(data)
    assert time.process_time() - begun < 5  # of the CPU; some 0.5 s
    assert (found.candles["close"].to_numpy() == closes).all()


@needs_prices
@pytest.mark.parametrize(
    ("name", "product", "rows", "rejected"),
    [
        ("article_bitcoin", "BTC-USD", 2001, 0),
        ("coinbase_btc-usd_daily", "BTC-USD", 2327, 0),
        ("messy_banner_crlf_gap_btc-usd", "BTC-USD", 2141, 0),
        # 12 rows repeat the candle of 2019-03-19 under later dates; their time stamps give them away.
        ("coinbase_eth-usd_daily_cdd", "ETH-USD", 1627, 12),
        ("coinbase_ltc-usd_daily_cdd", "LTC-USD", 1539, 12),
    ],
)
def test_real_files(name: str, product: str, rows: int, rejected: int) -> None:
    data = (SHARED / f"{name}.csv").read_bytes()
    found = read(data, product)
    assert (len(found.candles), len(found.rejected)) == (rows, rejected)
    lines = data.decode().splitlines()
    table = list(csv.DictReader(io.StringIO("\n".join(lines[lines[0].startswith("Created") :]))))
    written = sorted(float(row.get("Close") or row["close"]) for row in table)
    taken_out = [float(json.loads(raw)["Close"]) for raw in found.rejected["raw"]]
    assert sorted([*found.candles["close"], *taken_out]) == written
    assert found.candles["close"].median() < 50_000
    assert found.candles["volume"].median() < 300_000  # not the volume in the quote currency
