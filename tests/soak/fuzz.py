"""Mutated bytes for the readers of CSV files and of the responses of the exchange.

`python tests/soak/fuzz.py --minutes 10 --seed 1`: files and responses that look real are mutated. Either they
are refused in one line, or every close that comes out stands in what went in; never another error, never a
warning, never more than a second of the processor's. What breaks this is printed, to be kept as a test.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import time
import traceback
import warnings
from collections import Counter
from datetime import date, timedelta
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
sys.path[0:0] = [str(PROJECT)] if str(PROJECT) not in sys.path else []

import pandas as pd  # noqa: E402

from closecast.storage.core.errors import ClosecastError  # noqa: E402
from closecast.tasks.prices.coinbase_responses import parse, read_rows  # noqa: E402
from closecast.tasks.prices.file_reader import read_candles  # noqa: E402
from closecast.tasks.prices.file_table import FileOptions  # noqa: E402
from closecast.tasks.prices.validation import check_candles  # noqa: E402

FIRST, DAYS = date(2019, 1, 1), 12
SECONDS = 1.0
BITS = [
    b",", b";", b"\t", b"\n", b"\r", b"\r\n", b'"', b"'", b"\0", b"\xef\xbb\xbf", b"\xff",
    b"\xe2\x80\xa8", b"-", b"+", b"e", b"E308", b"e-400", b"1e400", b"nan", b"NaN", b"inf", b"-inf",
    b"Infinity", b"None", b"null", b"true", b"0x1f", b"1_000", "١".encode(), "１".encode(), b"9" * 400,
    b"0" * 70, b".", b"..", b"1970-01-01", b"0001-01-01", b"9999-12-31", b"2019-02-30", b"2019-13-01",
    b"20190101", b"1546300800", b"1546300800000", b"-1", b"2019-01-01T00:00:00Z", b"2019-01-01 12:00",
    b"12-AM", b"Date", b"close", b"Close", b"Volume BTC", b"Volume USD", b"unix", b"symbol", b"BTC/USD",
    b"[", b"]", b"{", b"}", b"[[", b"]]", b"\\u0000", b"\\ud800", b'"1"', b" ", b"#", b"=1+1",
]  # fmt: skip


def csv_seeds() -> list[bytes]:
    rows = [(FIRST + timedelta(days=n), 1546300800 + 86400 * n, 3700 + 13.5 * n) for n in range(DAYS)]
    full = "Date,Symbol,Open,High,Low,Close,Volume BTC,Volume USD\n" + "".join(
        f"{day},BTCUSD,{close - 1},{close + 5},{close - 5},{close},10,{10 * close}\n"
        for day, _, close in rows
    )
    texts = [
        "date,close\n" + "".join(f"{day},{close}\n" for day, _, close in rows),
        full,
        "".join(f"{at},{close - 5},{close + 5},{close - 1},{close},10.5\n" for _, at, close in rows),
        "Unix Timestamp;Close;High\n" + "".join(f"{at}000;{close};{close + 5}\n" for _, at, close in rows),
        "https://www.cryptodatadownload.com\n" + full,
        "Date;Close;Volume\n" + "".join(f"{day:%d.%m.%Y};{grouped(close)};7,5\n" for day, _, close in rows),
        '"Date","Price","Vol."\n'
        + "".join(f'"{day:%b %d, %Y}","{close:,.2f}","6.2K"\n' for day, _, close in rows),
        "Price,Close,Open\nTicker,BTC-USD,BTC-USD\nDate,,\n"
        + "".join(f"{day},{close},{close}\n" for day, _, close in rows),
        "".join(f"{at}000,{close - 1},{close + 5},{close - 5},{close},10\n" for _, at, close in rows),
        json.dumps([[at * 1000, close - 1, close + 5, close - 5, close, 7.5] for _, at, close in rows]),
        json.dumps({"data": [{"date": str(day), "close": f"{close:.2f}"} for day, _, close in rows]}),
        "snapped_at,price,market_cap,total_volume\n"
        + "".join(f"{day} 00:00:00 UTC,{close},1,2\n" for day, _, close in rows),
    ]
    return [text.encode() for text in texts]


def grouped(close: float) -> str:
    """A figure with a decimal comma, and points between thousands."""
    return f"{close:,.2f}".replace(",", " ").replace(".", ",").replace(" ", ".")


def response_seeds() -> list[bytes]:
    rows = [[1546300800 + 86400 * n, 3690, 3710.5, 3700, 3700 + n, 1.5 * n] for n in range(DAYS)]
    return [json.dumps(rows[::-1]).encode(), json.dumps(rows[:1]).encode(), b"[]", b'{"message": "x"}']


def mutated(data: bytes, draw: random.Random) -> bytes:
    """The bytes after one to six small mutations."""
    for _ in range(draw.choice((1, 1, 1, 2, 3, 6))):
        at = draw.randint(0, len(data))
        end = min(len(data), at + draw.choice((0, 1, 1, 2, 8, 40)))
        lines = data.split(b"\n")
        draw.shuffle(lines)
        data = draw.choice(
            (
                data[:at] + draw.choice(BITS) + data[end:],
                data[:at] + data[end:],
                data[:at]
                + bytes(byte ^ (1 << draw.randrange(8)) for byte in data[at : at + 1])
                + data[at + 1 :],
                data[:at] + data[at:end] * draw.choice((2, 3, 50)) + data[end:],
                data[:at] if draw.random() < 0.2 else data + data[at:end],
                b"\n".join(lines),
            )
        )
    return data


def numbers_in(data: bytes) -> set[float]:
    """Every number that stands in the bytes, however it is cut out; quotes are no part of one."""
    found = set()
    whole = data.replace(b'"', b"")
    texts = re.findall(rb"[-+.\deE]+", whole)
    grouped = re.findall(rb"\d{1,3}(?:,\d{3})+(?:\.\d*)?|\d{1,3}(?:\.\d{3})*(?:,\d*)?", data)
    for one in grouped + re.findall(rb"[-+.,\d ']+", whole):
        texts += [one.replace(b" ", b"").replace(b"'", b"").replace(b",", b"")]
        texts += [one.replace(b".", b"").replace(b",", b".")]
    for text in texts:
        for start in range(len(text)) if len(text) < 60 else (0,):
            try:
                found.add(abs(float(text[start:])))
            except ValueError:
                continue
    return found


def check(frame: pd.DataFrame, rejected: pd.DataFrame, data: bytes) -> None:
    """What came out, after the rules, must have stood in what went in."""
    last = date(2026, 1, 1)
    checked = check_candles(frame, last_finished_day=last)
    assert len(checked.accepted) + len(checked.quarantined) == len(frame)
    assert frame["day_utc"].is_monotonic_increasing
    assert frame["day_utc"].is_unique
    assert (rejected["reason"].str.len() > 0).all()
    closes = {abs(close) for close in frame["close"].tolist()}
    assert closes <= numbers_in(data) | {0.0}, closes - numbers_in(data)
    accepted = checked.accepted["close"]
    assert ((accepted > 0) & (accepted < 1e300)).all()


def try_csv(data: bytes) -> str:
    """A file: `refused` or `read`."""
    try:
        read = read_candles(data, "BTC-USD", name="fuzz.csv", options=FileOptions(on_duplicate="last"))
    except ClosecastError as error:
        assert "\n" not in str(error), "more than one line"  # noqa: PT017
        assert len(str(error)) < 600, "a long line"  # noqa: PT017
        return "refused"
    check(read.candles, read.rejected, data)
    return "read"


def try_response(data: bytes) -> str:
    """A response: `refused` where it is no array, else `read`."""
    content = parse(data)
    if not isinstance(content, list):
        return "refused"
    check(*read_rows(content, FIRST, FIRST + timedelta(days=DAYS + 20)), data)
    return "read"


def fuzz(minutes: float, seed: int) -> tuple[Counter[str], int]:
    """Try for so long, and print each input that broke something; outcomes, and the number of findings."""
    draw = random.Random(seed)  # noqa: S311 (mutations, not secrets)
    warnings.simplefilter("error")
    outcomes: Counter[str] = Counter()
    findings: set[str] = set()
    corpus = [
        *((try_csv, data) for data in csv_seeds()),
        *((try_response, data) for data in response_seeds()),
    ]
    until = time.monotonic() + 60 * minutes
    while time.monotonic() < until:
        attempt, whole = draw.choice(corpus)
        data = mutated(whole, draw)
        began = time.process_time()
        try:
            outcome = attempt(data)
            seconds = time.process_time() - began
            assert seconds < SECONDS, f"took {seconds:.1f} s"
            if outcome == "read" and len(data) < 20_000 and draw.random() < 0.002 and len(corpus) < 300:
                corpus.append((attempt, data))
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            outcome = "BROKEN"
            key = f"{attempt.__name__} {type(error).__name__} {where.filename}:{where.lineno}"
            if key not in findings:
                findings.add(key)
                say(f"BROKEN {key}: {str(error)[:200]!r}\n  {data[:3000]!r}")
        outcomes[f"{attempt.__name__.removeprefix('try_')} {outcome}"] += 1
    return outcomes, len(findings)


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 (what the program is for)


def main() -> int:
    """Fuzz, and print what was tried; 1 when something broke."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    outcomes, findings = fuzz(given.minutes, given.seed)
    for outcome, times in sorted(outcomes.items()):
        say(f"{outcome:16} {times:9,}")
    say(f"{sum(outcomes.values()):,} inputs in {given.minutes:g} minutes, {findings} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
