"""The figures of docs/accuracy.md, made anew from files of real prices.

    python benchmarks/accuracy.py --prices FOLDER [--home FOLDER] [--only NAME]

FOLDER holds `article_bitcoin.csv`, `coinbase_btc-usd_daily.csv` and CryptoDataDownload's exports of ETH-USD
and LTC-USD under the names below. Each part is a `closecast backtest`; one that was made before is read.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
import tempfile
from datetime import date
from pathlib import Path

import numpy as np

ARTICLE = "article_bitcoin.csv"
BTC = "coinbase_btc-usd_daily.csv"
ETH = "coinbase_eth-usd_daily_cdd.csv"
LTC = "coinbase_ltc-usd_daily_cdd.csv"
SETTINGS = {"refit_every_days": 180, "members": 3}
START = date(2018, 1, 1)


def main() -> None:
    """Run the parts that are asked for, and print their tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prices", type=Path, required=True, help="folder of the price files")
    parser.add_argument("--home", type=Path, help="where everything is root; a folder that is removed after")
    parser.add_argument("--only", choices=PARTS, action="append", help="part to run; all by default")
    arguments = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[1]))
    logging.getLogger("closecast").setLevel(logging.WARNING)
    root = arguments.home or Path(tempfile.mkdtemp(prefix="closecast-accuracy-"))
    for name in arguments.only or PARTS:
        print(f"\n## {name}\n", flush=True)
        PARTS[name](arguments.prices, root)
    if not arguments.home:
        shutil.rmtree(root)


def whole_span(prices: Path, root: Path) -> None:
    """BTC-USD, the two files joined, about two thousand days."""
    print(_backtest(_home(prices, root, "btc", {"BTC-USD": (ARTICLE, BTC)}), "BTC-USD", date(2023, 6, 29))[0])


def article_file(prices: Path, root: Path) -> None:
    """The article's file alone, its last 396 days."""
    home = _home(prices, root, "article", {"BTC-USD": (ARTICLE,)})
    print(_backtest(home, "BTC-USD", date(2020, 6, 3), start=date(2019, 5, 5))[0])


def pooled(prices: Path, root: Path) -> None:
    """BTC-USD with ETH-USD and LTC-USD in its training and without, side by side."""
    from tasks.core.quantiles import crps
    from tasks.evaluation.significance import compare

    files = {"BTC-USD": (ARTICLE, BTC), "ETH-USD": (ETH,), "LTC-USD": (LTC,)}
    home, end = _home(prices, root, "pooled", files), date(2020, 11, 19)
    scores = []
    for products in (("BTC-USD", "ETH-USD", "LTC-USD"), ()):
        text, evaluation = _backtest(home, "BTC-USD", end, pool_products=products)
        print(f"### {'pooled' if products else 'alone'}\n\n{text}\n")
        outcomes = np.log(evaluation.close / evaluation.last_close)
        scores.append({name: crps(outcomes, evaluation.quantiles[name]) for name in OWN})
    print("### pooled over alone\n\n| | CRPS ratio | 95 % interval | DM p |\n|---|---|---|---|")
    for name, text in OWN.items():
        over = compare(scores[0][name], scores[1][name], seed=2020)
        print(f"| {text} | {over.ratio:.4f} | {over.lower:.4f} to {over.upper:.4f} | {over.p_value:.2g} |")


OWN = {"calibrated": "forecast (half HAR, tracked)", "lstm": "networks alone"}


def ether(prices: Path, root: Path) -> None:
    """ETH-USD, untuned."""
    print(_backtest(_home(prices, root, "eth", {"ETH-USD": (ETH,)}), "ETH-USD", date(2020, 11, 18))[0])


PARTS = {"whole-span": whole_span, "article-file": article_file, "pooled": pooled, "ether": ether}


def _home(prices: Path, root: Path, name: str, files: dict[str, tuple[str, ...]]) -> str:
    """A home with the files imported, one after the other: the later one's figures count."""
    from flows.actions import import_file
    from flows.settings import home_at

    home = home_at(root / name).prepare()
    for product, paths in files.items():
        for path in paths:
            import_file(home, product, prices / path)
    return str(home.root)


def _backtest(home: str, product: str, end: date, *, start: date = START, **changed: object):  # type: ignore[no-untyped-def]
    """The summary as Markdown, and the forecasts."""
    from flows.backtest import rolling_backtest
    from flows.settings import home_at
    from tasks.backtest.result import read_evaluations
    from tasks.backtest.summary import markdown

    result = rolling_backtest(product, "calibrated", {**SETTINGS, **changed}, start, end, home)
    refused = sum("refused" in gate for gate in result.gates)
    text = f"{markdown(result.summaries)}\n\nChallengers: {len(result.gates)}, refused: {refused}."
    return text, read_evaluations(home_at(home), product, result.backtest_id, "calibrated")[1]


if __name__ == "__main__":
    main()
