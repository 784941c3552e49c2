"""Kinds of files that were once read wrongly, or refused although they say all that is needed."""

from __future__ import annotations

import calendar
import io
import json
from collections.abc import Callable
from datetime import date, timedelta
from decimal import Decimal

import pyarrow as pa
import pytest
from pyarrow import parquet

from closecast.tasks.prices.file_summary import remarks
from tests.tasks.prices.reading import CLOSES, DAYS, RECORDS, ROWS, TABLE, closes, lines, read, refusal

HEADER = "Date,Open,High,Low,Close,Volume"


def candle(close: float) -> list[float]:
    """Open, high, low, close, volume."""
    return [close - 5.5, close + 20.25, close - 30.75, close, 12.5]


def full(day: object, close: float) -> str:
    return ",".join([str(day), *map(str, candle(close))])


# Wrong days


@pytest.mark.parametrize("last", ["T23:59:59.9999999Z", " 23:59:59.999999999"])
def test_the_last_moment_of_a_day_is_not_rounded_to_the_next_day(last: str) -> None:
    assert closes(lines("Date,Close", lambda day, close: f"{day}{last},{close}")) == dict(ROWS)


def test_the_last_nanosecond_of_a_day_is_not_rounded_to_the_next_day() -> None:
    ends = [calendar.timegm((day + timedelta(days=1)).timetuple()) * 10**9 - 1 for day in DAYS]
    text = "".join(f"{end},{close}\n" for end, close in zip(ends, CLOSES, strict=True))
    assert closes("time,close\n" + text) == dict(ROWS)
    records = [{"time": end, "close": close} for end, close in zip(ends, CLOSES, strict=True)]
    assert closes(json.dumps(records)) == dict(ROWS)


@pytest.mark.parametrize("days", [7, 1 / 24, -1])
def test_a_candle_that_does_not_end_with_its_day_is_refused(days: float) -> None:
    def row(day: date, close: float) -> str:
        start = calendar.timegm(day.timetuple()) * 1000
        return f"{start},{close},{start + int(days * 86_400_000) - 1}"

    assert "is not that day's" in refusal(lines("open_time,close,close_time", row))


@pytest.mark.parametrize("end", ["{day}", "{day} 23:59", "23:59:59", "00:00", "{after} 00:00"])
def test_ends_of_the_day_in_many_forms(end: str) -> None:
    def row(day: date, close: float) -> str:
        return f"{day},{close},{end.format(day=day, after=day + timedelta(days=1))}"

    assert closes(lines("date,close,close_time", row)) == dict(ROWS)


@pytest.mark.parametrize("end", ["16:00", "4 PM ET"])
def test_a_market_that_closes_in_the_afternoon_has_no_utc_days(end: str) -> None:
    refusal(lines("date,close,close_time", lambda day, close: f"{day},{close},{end}"))


def test_days_of_cryptowatch_begin_with_their_end() -> None:
    days = [
        [calendar.timegm((day + timedelta(days=1)).timetuple()), *candle(close), 1.0] for day, close in ROWS
    ]
    assert closes(json.dumps({"result": {"86400": days}, "allowance": {}})) == dict(ROWS)


@pytest.mark.parametrize("clock", ["4:00 PM", "4 PM", "16:00 ET", "16:00:00.000"])
def test_a_time_of_day_in_a_column_of_its_own_is_midnight(clock: str) -> None:
    """Also where it cannot be read; an empty one is none."""
    text = lines("Date,Time,Close", lambda day, close: f"{day},{clock if day.day % 2 else ''},{close}")
    assert "export days in UTC" in refusal(text)
    assert closes(text.replace(clock, "12:00 AM")) == dict(ROWS)
    hours = lines("Date,Hour,Close", lambda day, close: f"{day},0,{close}")
    assert closes(hours) == dict(ROWS)
    refusal(hours.replace(",0,", ",16,"))


@pytest.mark.parametrize("form", ["{serial}", "{serial}.0", "{day:%d%m%Y}", "{day:%Y%j}"])
def test_small_numbers_are_no_time_stamps(form: str) -> None:
    def row(day: date, close: float) -> str:
        written = form.format(day=day, serial=(day - date(1899, 12, 30)).days)
        return f"{written},{close}"

    assert "which is no time stamp; export days such as 2020-10-24" in refusal(lines("time,close", row))


# Other products, other currencies


def test_the_heading_of_the_close_names_its_currency_best() -> None:
    meta = {"2. Digital Currency Code": "BTC", "4. Market Code": "EUR"}
    by_day = {
        str(day): {"4a. close (EUR)": str(close / 2), "4b. close (USD)": str(close)} for day, close in ROWS
    }
    assert closes(json.dumps({"Meta Data": meta, "Daily": by_day})) == dict(ROWS)


def test_signs_of_currencies_in_headings() -> None:
    text = lines("Date,Close (€),Volume ($)", lambda day, close: f"{day},{close},{close * 9}")
    assert "closes in USD are needed, the header has 'Close (€)'" in refusal(text)
    assert closes(text, "BTC-EUR") == dict(ROWS)
    both = lines("Date,Close (€),Close ($)", lambda day, close: f"{day},{close / 2},{close}")
    assert closes(both) == dict(ROWS)
    volume = lines("Date,Close,Volume ($)", lambda day, close: f"{day},{close},{close * 9}")
    assert read(volume).candles["volume"].isna().all()
    qlib = lines("datetime,$close,$volume", lambda day, close: f"{day},{close},9")
    assert closes(qlib, "BTC-EUR") == dict(ROWS)


def test_percentages_and_prices_of_a_pool_are_no_closes() -> None:
    percent = lines("Date,Close %,Close", lambda day, close: f"{day},1.5,{close}")
    assert closes(percent) == dict(ROWS)
    pool = lines(
        "date,close,token0Price,token1Price",
        lambda day, close: f"{day},{1 / close},{1 / close},{close}",
    )
    assert "one column is needed for the close" in refusal(pool)
    named = closes(pool, columns={"date": "date", "close": "token1Price"})
    assert named == dict(ROWS)


# Wrong closes


@pytest.mark.parametrize("end", ["", ",", ",,"])
def test_figures_cut_on_some_days_only_are_refused(end: str) -> None:
    """Closes pass 1,000 on some days, or a program began to write commas."""
    header = "Date,Close,Volume,Cap,Note"
    passing = lines(header, lambda day, close: f"{day},{close / 8:,.2f}{end}")
    assert "can be one figure that its comma cuts in two" in refusal(passing)
    begun = lines(header, lambda day, close: f"{day},{close:,.2f}" if day > DAYS[36] else f"{day},{close},7")
    assert "8,373.71 in line 40" not in refusal(begun)
    assert "can be one figure that its comma cuts in two" in refusal(begun)
    true = lines(header, lambda day, close: f"{day},{close:.0f},{100 + day.day}.25{end}")
    assert closes(true)[DAYS[3]] == round(CLOSES[3])


@pytest.mark.parametrize(
    "form",
    [
        lambda close: f"{close:.2f}".rstrip("0").replace(".", ","),  # some have no cents
        lambda close: f"{int(close)},{10 + int(close) % 90}",  # none has the cents 01 to 09
        lambda close: f"{close:.2f}".replace(".", "," if close > 8000 else "."),
    ],
)
def test_cents_cut_from_closes_are_refused(form: Callable[[float], str]) -> None:
    text = lines("Date,Close,Volume", lambda day, close: f"{day},{form(close)}")
    assert "can be one figure that its comma cuts in two; put quotes around such figures" in refusal(text)


def test_columns_by_number_lose_no_row_whatever_the_first_row_is() -> None:
    forms = [
        lambda day, close: f"{day:%Y.%m.%d},00:00,{close}",  # no known order of columns
        lambda day, close: f'"{day:%b %d, %Y}",x,{close}',
        lambda day, close: f"{day},-,{close}",
    ]
    for form in forms:
        for above in ("", "Day,Time,Last\n", "an export, of a site\n\n", "an export,a,b\nDay,Time,Last\n"):
            assert closes(above + lines("", form), columns={"date": "1", "close": "3"}) == dict(ROWS)
    assert "a day is needed in column 2" in refusal(lines("", forms[2]), columns={"date": "2", "close": "3"})


def test_numbers_of_columns_are_no_candle() -> None:
    text = lines("0,1,2,3,4,5", lambda day, close: full(f"{day:%Y%m%d}", close))
    assert closes(text) == dict(ROWS)


@pytest.mark.parametrize(
    "header", ["snapped_at,price", "snapped_at,price,total_volume", "timestamp,price,total_volume"]
)
def test_a_part_of_the_columns_of_coingecko_ends_days_too(header: str) -> None:
    end = ",7" * header.count("total")
    text = lines(header, lambda day, close: f"{day + timedelta(1)} 00:00:00 UTC,{close}{end}")
    assert closes(text) == closes(text, columns={"date": "1", "close": "2"}) == dict(ROWS)


def test_days_and_months_that_are_exchanged_where_possible_are_refused() -> None:
    for form in ("%Y-%d-%m", "%m/%d/%Y"):
        text = lines("Date,Close", lambda day, close, form=form: (  # type: ignore[misc]
            f"{day.strftime(form if day.day < 13 else '%d/%m/%Y')},{close}"
        ))  # fmt: skip
        assert "have day and month exchanged; export days such as 2020-10-24" in refusal(text)
    # In order as they are, but with months between days that are a day apart when they are read right.
    turn = [date(2023, 12, 25) + timedelta(row) for row in range(15)]
    for days in (turn, turn[::-1]):
        text = "\n".join(
            ["Date,Close", *(f"{day:%m/%d/%Y},1" if day.day > 12 else f"{day:%d/%m/%Y},1" for day in days)]
        )
        assert "have day and month exchanged" in refusal(text)
    by_excel = sorted(day.replace(month=day.day, day=day.month) if day.day < 13 else day for day in DAYS)
    assert "exchanged" in refusal("\n".join(["Date,Close", *(f"{day},1" for day in by_excel)]))
    monthly = [f"2019-{month:02}-01,{month}" for month in range(1, 13)]
    assert list(closes("\n".join(["Date,Close", *monthly])).values()) == list(range(1, 13))
    shuffled = "Date,Close\n2019-05-03,3\n2019-05-01,1\n2019-05-02,2\n"
    assert list(closes(shuffled).values()) == [1, 2, 3]


def test_an_open_of_another_size_than_the_close_contradicts_it() -> None:
    text = lines("Date;Open;Close", lambda day, close: f"{day};{close};{close:,.0f}".replace(",", "."))
    assert "tried: open from 'Open', close from 'Close'" in refusal(text)


def test_thousands_are_separated_in_all_figures_or_in_none() -> None:
    """A redenomination by 1,000 is no change of the decimal mark."""
    text = lines(
        "Date;Close", lambda day, close: f"{day};{close:.0f}" if day < DAYS[20] else f"{day};8.{day:%j}"
    )
    assert "say which with --decimal" in refusal(text)
    assert closes(text, decimal="point")[DAYS[20]] == 8.141
    grouped = lines("Date;Close", lambda day, close: f"{day};{close / 8.2:,.0f}".replace(",", "."))
    assert closes(grouped) == {day: round(close / 8.2) for day, close in ROWS}


def test_times_that_end_the_day_are_named_as_such() -> None:
    """CoinGecko's candles have five columns, as those of other sites, and the time of their end."""
    for form, ends in (("{:%Y-%m-%d}T00:00:00Z", 1), ("{:%Y-%m-%d}", 1), ("{:%Y-%m-%d} 23:59:59", 0)):
        text = lines("", lambda day, close, form=form, ends=ends: (  # type: ignore[misc]
            f"{form.format(day + timedelta(ends))},{close},{close},{close},{close}"
        ))  # fmt: skip
        assert "with end=1 in place of date=1 where a time of 00:00 ends the day" in refusal(text)
        assert closes(text, columns={"end": "1", "close": "5"}) == dict(ROWS)
    assert "date=…, or end=…" in refusal(text, columns={"close": "5"})


def test_figures_grouped_as_in_india() -> None:
    text = lines("Date,Close", lambda day, close: f'{day},"2,97,{day:%d},058.94"')
    assert closes(text, "BTC-INR")[DAYS[2]] == 29_703_058.94


# Volumes and unknown figures


def test_an_open_of_zero_is_unknown() -> None:
    candles = read(lines(HEADER, lambda day, close: f"{day},0,0,0.0,{close},0")).candles
    assert candles["close"].tolist() == CLOSES
    assert candles[["open", "high", "low"]].isna().all(axis=None)
    assert (candles["volume"] == 0).all()


@pytest.mark.parametrize(
    "header",
    [
        "Date,Open,High,Low,Close,Volume,Market Cap",
        "Date,Open,High,Low,Close,Volume,Dividends,Stock Splits",
        "Date,Close,High,Low,Open,Volume",
        "Date,Open,High,Low,Close,Adj Close Adjusted close price for splits,Volume",
    ],
)
def test_neighbouring_columns_decide_the_currency_of_volumes(header: str) -> None:
    prices = ("Open", "High", "Low", "Close")

    def row(day: date, close: float) -> str:
        cells = {"Date": str(day), **dict.fromkeys(prices, str(close))}
        return ",".join(cells.get(name, "9") for name in header.split(","))

    candles = read(lines(header, row)).candles
    assert candles["close"].tolist() == CLOSES
    assert candles["volume"].isna().all()


def test_volumes_of_other_names() -> None:
    for name in ("v", "volume_traded", "Vol."):
        candles = read(lines(f"date,c,{name}", lambda day, close: f"{day},{close},12.5")).candles
        assert candles["volume"].tolist() == [12.5] * 40


def test_volumes_with_a_suffix_settle_the_decimal_mark() -> None:
    for mark, scale in (".", 1.0), (",", 1000.0):
        text = lines("Date,Price,Vol.", lambda day, close, m=mark: f'"{day}","5.{day:%j}","68{m}29K"')  # type: ignore[misc]
        assert closes(text) == {day: round(scale * float(f"5.{day:%j}"), 3) for day in DAYS}
    small = lines("Date,Price,Vol.", lambda day, close: f"{day},{close},0.00001K")
    assert read(small).candles["volume"].tolist() == [0.01] * 40


# Days


@pytest.mark.parametrize(
    "form",
    [
        *("%m/%d/%y", "%d.%m.%y", "%d-%b-%y", "%a %d %b %Y", "%A, %B %d, %Y", "%a, %d %b %Y 00:00:00 GMT"),
        *("%Y-%b-%d", "%Y%m%d 00:00:00", "%Y%m%dT000000Z", "%Y-%m-%dZ", "%Y-%m-%d 00:00:00 +0000 UTC"),
        *("%Y年%m月%d日", "%Y년 %m월 %d일", "%Y- %m- %d"),
    ],
)
def test_forms_of_days(form: str) -> None:
    assert closes(lines("Date,Close", lambda day, close: f'"{day.strftime(form)}",{close}')) == dict(ROWS)


def test_days_with_the_year_first_in_two_digits_are_refused() -> None:
    for form in ("%y/%m/%d", "%y-%b-%d"):
        text = lines("Date,Close", lambda day, close, form=form: f"{day.strftime(form)},{close}")  # type: ignore[misc]
        assert "is not a UTC day" in refusal(text)


# Text


def test_columns_of_another_kind_are_no_candles_without_a_header() -> None:
    """Volume, open, adjusted close, low, close: each between the two before it, but far from them."""
    text = lines(
        "", lambda day, close: f"{day},{close / 99:.2f},{close + 9},{close / 2:.2f},{close - 30},{close}"
    )
    assert "or the open is far from the close before" in refusal(text)


def test_rows_without_a_header_begin_with_any_day_and_figure() -> None:
    german = lines("", lambda day, close: ";".join(
        [f"{day:%d.%m.%Y}", *(f"{one:,.2f}".translate({44: 46, 46: 44}) for one in candle(close))]
    ))  # fmt: skip
    assert closes(german) == dict(ROWS)
    unknown = lines(
        "", lambda day, close: full(day, close) if day > DAYS[0] else full(day, close)[:-4] + "None"
    )
    assert closes(unknown) == dict(ROWS)
    assert closes(lines("", lambda day, close: full(f'"{day:%b %d, %Y}"', close))) == dict(ROWS)


def test_empty_cells_behind_the_last_one_and_footers_cost_nothing() -> None:
    footers = (
        *("Average,8000.5", "Source: Exchange, downloaded 2024-01-02", "Licence: CC BY-NC 4.0", "100 rows"),
        *(
            "© 2019-2024 Site24, Inc.",
            "2 * adjusted",
            "https://site.example/terms/v2, section 3",
            "Page 1 of 1",
        ),
    )
    for footer in (f"{one}\n" for one in footers):
        text = lines(HEADER, lambda day, close: full(day, close) + ",,") + footer
        assert closes(text) == dict(ROWS)
        assert len(read(text).rejected) == 1
    assert "the newest rows are needed" in refusal(lines(HEADER, full) + "2019-06-32,1,1,1,1,1\n")


@pytest.mark.parametrize("form", ["{} USD", "USD {}", "US${}", "${}", "{} $", "{}\u00a0$"])
def test_closes_with_their_currency(form: str) -> None:
    text = lines("Date;Close", lambda day, close: f"{day};{form.format(f'{close:,.2f}')}")
    assert closes(text) == dict(ROWS)
    assert "is not a number" in refusal(text, "BTC-EUR")
    if "$" in form:
        assert read(text, None).candles["close"].tolist() == CLOSES


@pytest.mark.parametrize(
    "header",
    [
        "Datum;Zuletzt;Eröffn.;Hoch;Tief",
        "Date;Dernier;Ouv.; Plus Haut;Plus Bas",
        "Fecha;Último;Apertura;Máximo;Mínimo",
        "Data;Ultimo;Apertura;Massimo;Minimo",
        "Data;Último;Abertura;Máxima;Mínima",
        "Tarih;Şimdi;Açılış;Yüksek;Düşük",
    ],
)
def test_headings_of_investing_com_in_other_languages(header: str) -> None:
    def row(day: date, close: float) -> str:
        opened, high, low, *_ = candle(close)
        return f"{day:%d.%m.%Y};{close:.2f};{opened:.2f};{high:.2f};{low:.2f}"

    found = read(lines(header, row))
    assert found.candles["close"].tolist() == CLOSES
    assert list(found.reading.columns) == ["date", "close", "open", "high", "low"]


def test_a_column_for_each_product() -> None:
    for form in ("{}", "Close_{}", "\"('Close', '{}')\""):
        header = ",".join(["Date", *(form.format(product) for product in ("BTC-USD", "ETH-USD"))])
        text = lines(header, lambda day, close: f"{day},{close},7")
        assert closes(text) == dict(ROWS)
        assert set(closes(text, "ETH-USD").values()) == {7.0}
        assert "closes of LTC are needed" in refusal(text, "LTC-USD")
        assert "closes in EUR are needed" in refusal(text, "BTC-EUR")


def test_decimals_of_parquet_are_the_nearest_floats() -> None:
    out = io.BytesIO()
    parquet.write_table(pa.table({"date": DAYS, "close": [Decimal(str(close)) for close in CLOSES]}), out)
    assert closes(out.getvalue()) == dict(ROWS)


def test_rows_of_separators_alone_are_none() -> None:
    text = lines("Date;Close;;", lambda day, close: f"{day};{close};;") + ";;;\n" * 20 + '"";"";"";""\n'
    assert closes(text) == dict(ROWS)
    assert read(text).rejected.empty


def test_coins_that_no_known_column_tells_apart() -> None:
    """The word for two rows of a day would take the closes of one of the coins by chance."""
    text = lines("Date,Which,Close", lambda day, close: f"{day},a,{close}\n{day},b,7")
    assert "or where these are coins, one with --columns date=…,close=…,symbol=…" in refusal(text)
    columns = {"date": "Date", "close": "Close", "symbol": "Which"}
    assert closes(text, columns=columns, symbol="a") == dict(ROWS)
    assert "choose its rows with --symbol NAME" in refusal(text.replace("Which", "coin_id"))


# JSON and packed files


@pytest.mark.parametrize("coin", ["ETH/USD", "BTC/EUR"])
def test_the_coin_that_json_names_beside_its_candles(coin: str) -> None:
    rows = [[str(day), *candle(close)] for day, close in ROWS]
    key = coin.replace("/", "")
    for content in (
        {"data": {"pair": coin, "ohlc": RECORDS}},
        [{"ticker": coin, "priceData": RECORDS}],
        {"result": {"symbol": coin, "list": rows}},
        {"error": [], "result": {key: rows, "last": 1704240000}},
    ):
        data = json.dumps(content)
        said = key if key in data else coin
        assert f"it is of '{said}'" in refusal(data)
        assert closes(data, symbol=said) == closes(data, coin.replace("/", "-")) == dict(ROWS)


def test_json_of_nasdaq_data_link_and_of_closes_alone() -> None:
    rows = [[str(day), close] for day, close in ROWS]
    for content in (
        {"dataset_data": {"column_names": ["Date", "Value"], "data": rows}},
        {"datatable": {"columns": [{"name": "date"}, {"name": "last"}], "data": rows}, "meta": {}},
        {"bpi": {str(day): close for day, close in ROWS}, "time": {"updated": "now"}},
    ):
        assert closes(json.dumps(content)) == dict(ROWS)


def test_records_of_records() -> None:
    quotes = [
        {
            "time_open": f"{day}T00:00:00Z",
            "quote": {"USD": {"close": close, "volume": 9}, "EUR": {"close": 1}},
        }
        for day, close in ROWS
    ]
    data = json.dumps({"status": {"error_code": 0}, "data": {"symbol": "BTC", "quotes": quotes}})
    assert closes(data) == dict(ROWS)
    assert read(data).candles["volume"].isna().all()


def test_json_by_day_and_by_column() -> None:
    by_day = {str(day): {"1. open": close, "4. close": close} for day, close in ROWS}
    by_row = {"date": dict(enumerate(map(str, DAYS))), "close": dict(enumerate(CLOSES))}
    by_index = {"close": {str(day): close for day, close in ROWS}}
    by_list = {"s": "ok", "t": list(map(str, DAYS)), "c": CLOSES}
    rows = [[close, close + 1] for close in CLOSES]
    split = {"columns": ["close", "high"], "index": list(map(str, DAYS)), "data": rows}
    assert closes(json.dumps(split)) == dict(ROWS)
    names = ["date", "close", "high", "open", "low", "x"]
    data = [[f"{day:%Y%m%d}", close, close + 1, close, close - 1, 1] for day, close in ROWS]
    assert closes(json.dumps({"columns": names, "data": data})) == dict(ROWS)
    for content in ({"meta": {"1": "x"}, "series": by_day}, by_row, by_index, by_list):
        assert closes(json.dumps(content)) == dict(ROWS)
    several = {str(day): {"BTC": {"close": close}, "ETH": {"close": 7}} for day, close in ROWS}
    assert "none is there" in refusal(json.dumps(several))


def test_json_whose_keys_number_the_rows() -> None:
    rows = {str(row): {"Date": str(day), "Close": close} for row, (day, close) in enumerate(ROWS)}
    assert closes(json.dumps(rows)) == dict(ROWS)
    by_day = {str(day): {"Date": "2019-04-30", "Close": close} for day, close in ROWS}
    assert "its date is 2019-05-01, its time stamp '2019-04-30'" in refusal(json.dumps(by_day))


@pytest.mark.parametrize(
    "header",
    [
        *("Datum;Schlusskurs", "Datum;Kurs", "startedAt;close", "start_at;close", "Date;Latest", "日期;收盘"),
        *("Exchange Date;Close", "UTC Date;Close", "Unnamed: 0;Close", "Дата;Цена", "Datum;Senaste"),
    ],
)
def test_headings_of_more_sites(header: str) -> None:
    assert closes(lines(header, lambda day, close: f"{day};{close}")) == dict(ROWS)


def test_closes_with_a_power_are_refused_where_digits_are_lost() -> None:
    for form in ("{:.2E}", "{:.0e}"):
        text = lines("Date;Close", lambda day, close, form=form: f"{day};{form.format(close)}")  # type: ignore[misc]
        assert "prices with all of their digits are needed, but line 2 has" in refusal(text)
        assert "prices with all of their digits are needed" in refusal(text.replace(".", ","))
    assert closes(lines("Date,Close", lambda day, close: f"{day},{close:.7E}")) == dict(ROWS)
    whole = {day: float(12_000_000 + 10_000 * row) for row, day in enumerate(DAYS)}
    shortest = "".join(f"{day},{close / 1e7!r}E7\n" for day, close in whole.items())  # as Java writes them
    assert closes("Date,Close\n" + shortest) == whole
    assert closes("Date,Close\n2019-05-01,99999.5\n2019-05-02,1e+05\n")[DAYS[1]] == 100_000


def test_signs_of_currencies_without_a_code() -> None:
    for sign in "₹₽₿₴¢":
        text = lines(f"Date,Close ({sign})", lambda day, close: f"{day},{close}")
        assert "closes in USD are needed" in refusal(text)
    assert closes(lines("Date,Close (₹)", lambda day, close: f"{day},{close}"), "BTC-INR") == dict(ROWS)


def test_dates_of_another_time_zone_are_refused() -> None:
    column = lines("Date,Close,Timezone", lambda day, close: f"{day},{close},America/New_York")
    beside = json.dumps({"meta": {"exchange_timezone": "America/New_York"}, "values": RECORDS})
    for data in (f"Timezone: America/New_York\n{TABLE}", column, beside):
        assert "the file names the time zone 'America/New_York'" in refusal(data)
        assert closes(data.replace("America/New_York", "UTC")) == dict(ROWS)
    stamps = [
        {"t": calendar.timegm(day.timetuple()), "c": close, "timezone": "America/New_York"}
        for day, close in ROWS
    ]
    assert closes(json.dumps(stamps)) == dict(ROWS)


def test_two_columns_of_one_name_in_parquet_are_refused_in_one_line() -> None:
    days, figures = pa.array([str(day) for day in DAYS]), pa.array(CLOSES)
    table = pa.Table.from_arrays([days, figures, figures], names=["date", "close", "close"])
    parquet.write_table(table, content := io.BytesIO())
    assert "one column is needed for the close, the header has two" in refusal(content.getvalue())


def test_the_second_of_two_closes_that_pandas_numbers_is_one_too() -> None:
    text = lines("Date,Close,Close.1", lambda day, close: f"{day},{close},{close / 30}")
    assert "one column is needed for the close, the header has two: 'Close' and 'Close.1'" in refusal(text)
    volumes = lines("Date,Close,Volume,Volume.1", lambda day, close: f"{day},{close},2,{2 * close}")
    assert closes(volumes) == dict(ROWS)


def test_without_a_header_a_time_of_midnight_is_told_to_begin_its_day() -> None:
    bare = lines("", full)
    assert any("a time of 00:00 begins its day" in remark for remark in remarks(read(bare).reading))
    ends = remarks(read(bare, columns={"end": "1", "close": "5"}).reading)
    assert not any("begins its day" in remark for remark in ends)


@pytest.mark.parametrize(
    "words",
    ["# candle end times", "Timestamp: end of the period", "label=right", "# seconds since 2001-01-01"],
)
def test_words_that_give_times_another_meaning(words: str) -> None:
    text = lines("time,close", lambda day, close: f"{day + timedelta(1)} 00:00,{close}")
    assert "times at which a UTC day begins are needed, but the file has the words" in refusal(
        f"{words}\n{text}"
    )
    assert closes(f"{words}\n{text}", columns={"end": "time", "close": "close"}) == dict(ROWS)
    last = lines("time,close", lambda day, close: f"{day} 23:59:59,{close}")
    for right in (f"{words}\n{last}", f"Candle closes, times in UTC\n{last.replace('23:59:59', '00:00')}"):
        assert closes(right) == dict(ROWS)


def test_the_end_of_a_candle_is_a_time() -> None:
    """As a day alone it can be the day, or the midnight after it."""
    text = lines("close_time,close", lambda day, close: f"{day},{close}")
    assert "a time is needed at which each candle ends" in refusal(text)
    assert closes(text, columns={"date": "1", "close": "2"}) == dict(ROWS)
    assert closes(lines("end,close", lambda day, close: f"{day + timedelta(1)} 00:00,{close}")) == dict(ROWS)


def test_a_file_that_ends_within_a_row_is_refused() -> None:
    text = lines(HEADER, full)
    for cut in (7, 8, 15):
        assert "the newest rows are needed" in refusal(text[:-cut])
    assert closes(text[:-1]) == dict(ROWS)


@pytest.mark.parametrize("header", ["Index,BTC.USD.Open,BTC.USD.Close", ",BTC-USD.Open,BTC-USD.Close"])
def test_headings_of_quantmod(header: str) -> None:
    text = lines(header, lambda day, close: f"{day},{close},{close}")
    assert closes(text) == dict(ROWS)
    assert "closes of ETH are needed" in refusal(text, "ETH-USD")


@pytest.mark.parametrize("interval", ["1w", "weekly", "4h", "3600", "W", "1 week", "H4", "MN1"])
def test_an_interval_other_than_a_day_is_refused(interval: str) -> None:
    column = lines("Date,Period,Close", lambda day, close: f"{day},{interval},{close}")
    beside = json.dumps({"meta": {"interval": interval}, "a": RECORDS})
    for data in (f"Interval: {interval}\n{TABLE}", column, beside):
        assert f"the file has the words '{interval}'" in refusal(data)
        for right in ("1d", "Daily", "86400"):
            assert closes(data.replace(interval, right)) == dict(ROWS)


def test_candles_of_weeks_among_daily_ones_are_refused_by_their_opens() -> None:
    days = [*DAYS[:20], *(DAYS[20] + timedelta(7 * week) for week in range(15))]
    text = [f"{day},{CLOSES[row - 1]},{CLOSES[row]}" for row, day in enumerate(days, 1)]
    assert "some that last until the next, a week or a month" in refusal(
        "\n".join(["date,open,close", *text])
    )
    assert len(closes("\n".join(["date,open,close", *text[20:]]))) == 15
    sampled = [f"{day},{CLOSES[row] + 90},{CLOSES[row]}" for row, day in enumerate(days)]
    assert len(closes("\n".join(["date,open,close", *sampled]))) == len(days)


@pytest.mark.parametrize("right", [0, 25])
def test_open_and_close_that_are_exchanged_on_all_days_or_some_are_refused(right: int) -> None:
    opens = [CLOSES[0], *CLOSES[:-1]]
    rows = [f"{day},{opened},{close}" for (day, close), opened in zip(ROWS, opens, strict=True)]
    other = [f"{day},{close},{opened}" for (day, close), opened in zip(ROWS, opens, strict=True)]
    assert "as if they were exchanged" in refusal(
        "\n".join(["date,open,close", *rows[:right], *other[right:]])
    )
    assert closes("\n".join(["date,open,close", *rows])) == dict(ROWS)


@pytest.mark.parametrize(
    "line", ["Chart in UTC+8", "Daily close at 5 PM ET", "Eastern Standard Time", "Asia/Tokyo"]
)
def test_a_line_beside_the_rows_names_a_time_zone(line: str) -> None:
    assert "the file names the time zone" in refusal(f"{line}\n{TABLE}")
    for right in ("Times in UTC", "UTC+0", "Exported on 2024-01-02 10:00 EST", "Central market"):
        assert closes(f"{right}\n{TABLE}") == dict(ROWS)


# Prices that are there twice, and values of something else


def test_a_json_record_has_each_key_once() -> None:
    by_day = ",".join(f'"{day}": {close}' for day, close in ROWS)
    assert "is there with two values" in refusal(f'{{{by_day}, "{DAYS[3]}": 9000}}')
    assert closes(f'{{{by_day}, "{DAYS[3]}": {CLOSES[3]}}}') == dict(ROWS)


@pytest.mark.parametrize("keys", [("kraken", "coinbase"), ("bid", "ask"), ("adjusted", "raw")])
def test_prices_of_two_records_in_a_record_are_two_columns(keys: tuple[str, str]) -> None:
    first, second = keys
    records = [{"date": str(day), first: {"c": close / 2}, second: {"c": close}} for day, close in ROWS]
    assert "one column is needed for the close, the header has two: 'c' and 'c.1'" in refusal(
        json.dumps(records)
    )
    assert closes(json.dumps(records), columns={"date": "date", "close": "c.1"}) == dict(ROWS)
    records = [{"date": str(day), first: {"4. close": 7}, second: {"4. close": close}} for day, close in ROWS]
    assert "one column is needed for the close, the header has two" in refusal(json.dumps(records))


@pytest.mark.parametrize("key", ["LTC", "ethereum", "TRY"])
def test_the_key_of_a_record_in_a_record_names_another_product(key: str) -> None:
    records = [{"date": str(day), key: {"close": close}} for day, close in ROWS]
    assert f"row 1 is of '{key}'" in refusal(json.dumps(records))
    records = [{"date": str(day), "bitcoin": {"close": close}} for day, close in ROWS]
    assert closes(json.dumps(records)) == dict(ROWS)


@pytest.mark.parametrize("text", ["market_cap", "Opening prices", "Trading volume", "7-day average"])
def test_values_of_another_figure_are_no_closes(text: str) -> None:
    table = "\n".join(["date,value", *(f"{day},{close}" for day, close in ROWS)])
    column = "\n".join(["date,metric,value", *(f"{day},{text},{close}" for day, close in ROWS)])
    by_day = {str(day): close for day, close in ROWS}
    for data in (f"{text}\n{table}", column, json.dumps({"name": text, "values": by_day})):
        assert f"'value' is of '{text}'" in refusal(data)
        assert closes(data.replace(text, "Closing price")) == dict(ROWS)
    refusal(json.dumps({text: by_day}))
    assert closes(column, columns={"date": "date", "close": "value"}) == dict(ROWS)
    assert closes(f"{text}\n{table}".replace("value", "close")) == dict(ROWS)
